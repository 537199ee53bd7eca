"""Synthetic tasks: adding, copy memory, FitzHugh-Nagumo, forced pendulum.

    adding      y = sum of the two marked values of a sequence of U(0, 1) values; predicting 1 gives MSE 1/6
    copy        10 symbols, L blanks, a marker, then the 10 symbols again; without memory the loss is 10 ln 8 / (L + 20)
    FHN         v' = v - v³/3 - w + I,  w' = ε(v + a - b w),  I = .5, a = .7, b = .8, ε = 1/50
    pendulum    θ'' = -sin θ - c θ' + f cos(ω t)

Source: the tasks of arXiv:2110.04744 (adding, FitzHugh-Nagumo) and of the orthogonal RNN papers (copy).
Differs from the released code: FitzHugh-Nagumo is solved with DOP853 at rtol 1e-10; ``solver=released`` gives the
trajectories of the released generator, which are off by about 0.03 to 0.06 RMSE, twenty times the reported test error.
"""

from __future__ import annotations

import numpy as np

from .._checks import Integer, OneOf, Real
from .._errors import DataError
from .._rng import numpy_stream
from .sequences import SequenceData
from .source import Source


def _consecutive(*sizes: int) -> dict[str, np.ndarray]:
    edges = np.cumsum([0, *sizes])
    return {k: np.arange(edges[i], edges[i + 1]) for i, k in enumerate(("train", "valid", "test"))}


def adding(*, length: int = 100, n: int = 5000, seed: int = 0) -> SequenceData:
    """The adding problem: one mark in each half of the sequence."""
    rng = numpy_stream(seed, "adding", length)
    value = rng.random((n, length))
    half = length // 2
    first, second = rng.integers(0, half, n), rng.integers(half, length, n)
    mark = np.zeros((n, length))
    rows = np.arange(n)
    mark[rows, first] = mark[rows, second] = 1.0
    x = np.stack([value, mark], -1)  # (N, T, 2)
    held = max(1, n // 10)
    return SequenceData(
        f"adding T={length}", x, value[rows, first] + value[rows, second], "regress",
        split=_consecutive(n - 2 * held, held, held), features=("value", "mark"), licence="synthetic",
        provenance=f"seed {seed}",
    )  # fmt: skip


def copy_memory(*, blanks: int = 30, symbols: int = 10, n: int = 2000, seed: int = 0) -> SequenceData:
    """Copy memory as a class at every step: one-hot inputs of 10 characters, 9 classes."""
    rng = numpy_stream(seed, "copy", blanks)
    T = blanks + 2 * symbols
    text = np.zeros((n, T), dtype=np.int64)
    drawn = rng.integers(1, 9, (n, symbols))
    text[:, :symbols] = drawn
    text[:, symbols + blanks - 1] = 9
    target = np.zeros((n, T), dtype=np.int64)
    target[:, -symbols:] = drawn
    held = max(1, n // 10)
    return SequenceData(
        f"copy L={blanks}", np.eye(10)[text], target, "tag",
        split=_consecutive(n - 2 * held, held, held), licence="synthetic", provenance=f"seed {seed}",
    )  # fmt: skip


def fitzhugh_nagumo_initial(n: int = 1280) -> np.ndarray:
    """Initial values of v of the released sets, in order train, valid, test."""
    return 2 * np.random.RandomState(1234).rand(n) - 1  # the stream of the released generator


def solve_fitzhugh_nagumo(v0: float, *, solver: str = "dop853") -> tuple[np.ndarray, np.ndarray]:
    """Solve for v and w at 1,001 equidistant times in [0, 400] from (v0, 0).

    Args:
        v0: Initial value of v; w starts at 0.
        solver: ``"dop853"`` (rtol 1e-10) or ``"released"`` (RK45 at scipy's defaults).
    """
    from scipy.integrate import solve_ivp

    if solver not in ("dop853", "released"):
        raise DataError(f"fitzhugh-nagumo: solver must be dop853 or released, got {solver!r}")
    t = np.linspace(0, 400, 1001)

    def rate(_: float, s: np.ndarray) -> list[float]:
        v, w = s
        return [v - v**3 / 3 - w + 0.5, (v + 0.7 - 0.8 * w) / 50]

    exact = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-12}
    found = solve_ivp(rate, (0, 400), [v0, 0.0], t_eval=t, **(exact if solver == "dop853" else {}))
    return found.y[0], found.y[1]


def fitzhugh_nagumo(
    *, n_train: int = 128, n_valid: int = 128, n_test: int = 128, solver: str = "dop853", seed: int = 0
) -> SequenceData:
    """Predict v one sample ahead; w is never shown. The initial values are those of the paper, whatever the seed."""
    start = fitzhugh_nagumo_initial()
    rows = np.r_[0:n_train, 128 : 128 + n_valid, 256 : 256 + n_test]
    v = np.stack([solve_fitzhugh_nagumo(float(start[i]), solver=solver)[0] for i in rows])
    return SequenceData(
        "fitzhugh-nagumo", v[:, :-1, None], v[:, 1:, None], "predict", split=_consecutive(n_train, n_valid, n_test),
        features=("v",), licence="synthetic", provenance=f"solver {solver}",
    )  # fmt: skip


def forced_pendulum(
    *, n: int = 400, length: int = 200, damping: float = 0.1, force: float = 0.3, seed: int = 0
) -> SequenceData:
    """Predict angle and velocity of a damped, driven pendulum one sample (0.1 time units) ahead."""
    from scipy.integrate import solve_ivp

    rng = numpy_stream(seed, "pendulum")
    t = 0.1 * np.arange(length + 1)

    def rate(time: float, s: np.ndarray) -> np.ndarray:
        angle, speed = s.reshape(2, n)
        return np.concatenate([speed, -np.sin(angle) - damping * speed + force * np.cos(2 / 3 * time)])

    start = np.concatenate([rng.uniform(-2, 2, n), rng.uniform(-1, 1, n)])
    path = solve_ivp(rate, (0, t[-1]), start, t_eval=t, rtol=1e-8, atol=1e-10).y  # (2n, T+1)
    states = path.reshape(2, n, -1).transpose(1, 2, 0)  # (N, T+1, 2)
    held = max(1, n // 10)
    return SequenceData(
        "forced-pendulum", states[:, :-1], states[:, 1:], "predict", split=_consecutive(n - 2 * held, held, held),
        features=("angle", "velocity"), licence="synthetic", provenance=f"seed {seed}",
    )  # fmt: skip


_LENGTH, _N = Integer(low=1, high=1_000_000), Integer(low=20, high=10_000_000)
SOURCES = {
    "adding": Source(adding, "sum of two marked numbers", {"length": Integer(low=2, high=1_000_000), "n": _N}),
    "copy": Source(
        copy_memory,
        "copy memory: 10 symbols to say again after a wait",
        {"blanks": _LENGTH, "symbols": _LENGTH, "n": _N},
    ),
    "fitzhugh-nagumo": Source(
        fitzhugh_nagumo,
        "predict a relaxation oscillator one sample ahead",
        {
            "n_train": Integer(low=1, high=128),
            "n_valid": Integer(low=1, high=128),
            "n_test": Integer(low=1, high=1024),
            "solver": OneOf(("dop853", "released")),
        },
    ),
    "forced-pendulum": Source(
        forced_pendulum,
        "predict angle and velocity of a driven pendulum one sample ahead",
        {
            "n": Integer(low=20, high=100_000),
            "length": Integer(low=1, high=100_000),
            "damping": Real(low=0, high=100),
            "force": Real(low=-100, high=100),
        },
    ),
}
