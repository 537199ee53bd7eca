"""Titration: how a classifier answers as noise is poured into its input.

    x̂_i(σ) = clip(x_i + σ η_i),  η_i ~ N(0, I),      ŷ_i = argmax f(x̂_i),  c_i = max softmax(f(x̂_i) / τ),  y_i = argmax f(x_i)
    F(σ) = {i : ŷ_i ≠ y_i},      H_γ(σ) = {i : c_i > γ}
    gated T_γ = #(F ∩ H_γ)/N      conditional #(F ∩ H_γ)/#F      raw #H_γ/N      flip #F/N
    score = ∫ T_γ dσ / (σ_max - σ_min)

Source: Erichson, Taylor, Wu, Mahoney, Noise-Response Analysis of Deep Neural Networks Quantifies Robustness and
Fingerprints Structural Malware, SDM 2021, arXiv:2008.00123.
Differs from the released code: the valid range clips (``paper=True`` does not); one draw η serves every level and every
model; classes are counted apart, which is what shows the target; η may follow another law (``laws.py``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor

from .._checks import Integer, OneOf, Real, check
from .._errors import ArgumentError, DataError, ShapeError
from .._results import Result
from .bases import BASES, data_free, given
from .laws import LAWS, draw_noise
from .peaks import Peaks
from .predictor import OUTPUTS, Predictor, weight_count

SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
GAMMAS = (0.5, 0.9, 0.95, 0.99)
OF_THE_MODEL = ("outputs", "weights")
PAPER = {
    "sigmas": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5),
    "gammas": (0.95,),
    "n": 400,
    "base": "gauss_minmax",
    "clip": None,
}
CALL_VALUES = 1 << 21
KINDS = ("gated", "conditional", "raw", "flip")
_RULES = {
    "n": Integer(1),
    "base": OneOf(BASES),
    "temperature": Real(0, closed="neither"),
    "outputs": OneOf(OUTPUTS),
    "kind": OneOf(KINDS),
    "units": OneOf(("range", "std")),
    "noise_law": OneOf(tuple(LAWS)),
    "batch_size": Integer(1, optional=True),
    "reps": Integer(1),
    "seed": Integer(0),
    "step": Integer(optional=True),
}


@dataclass(frozen=True)
class TitrationCurve(Result):
    """What a model did at each noise level, counted by class.

    Attributes:
        sigmas: Noise levels ``(S,)``.
        gammas: Confidence cut-offs ``(G,)``.
        n: Noisy inputs per level.
        classes: Number of classes K.
        counts: Noisy inputs given class c ``(S, K)``.
        flipped: Those among them whose class changed ``(S, K)``.
        confident: Noisy inputs given class c with confidence above γ ``(S, G, K)``.
        both: Changed and confident ``(S, G, K)``.
        kind: The curve that ``score`` and ``target`` mean by default.
        settings: Everything a comparison with another curve depends on.
        seconds: Time it took.
        peaks: ``(K,)``, how surely each class wins where noise favours it most; ``None`` for a model that answers labels.

    Example:
        >>> import torch
        >>> curve = titrate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), input_shape=(1, 2, 2), n=8)
        >>> TitrationCurve.from_dict(curve.to_dict()).score() == curve.score()
        True
    """

    sigmas: np.ndarray
    gammas: np.ndarray
    n: int
    classes: int
    counts: np.ndarray
    flipped: np.ndarray
    confident: np.ndarray
    both: np.ndarray
    kind: str = "gated"
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peaks: np.ndarray | None = None

    @property
    def flip_rate(self) -> np.ndarray:
        """Share of inputs whose class changed ``(S,)``."""
        return self.flipped.sum(-1) / self.n

    def T(self, kind: str | None = None) -> np.ndarray:
        """The titration curve ``(S, G)`` of a kind: gated, conditional, raw, or flip (the same for every γ)."""
        kind = self.kind if kind is None else kind
        if kind == "gated":
            return self.both.sum(-1) / self.n
        if kind == "conditional":
            return self.both.sum(-1) / np.maximum(self.flipped.sum(-1), 1)[:, None]
        if kind == "raw":
            return self.confident.sum(-1) / self.n
        if kind == "flip":
            return np.repeat(self.flip_rate[:, None], len(self.gammas), 1)
        raise ArgumentError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")

    def class_share(self, condition: str = "all", gamma: float | None = None) -> np.ndarray:
        """Share of inputs given each class ``(S, K)``: of all, of the ``"confident"``, or of those ``"both"``."""
        if condition == "all":
            return self.counts / self.n
        table = {"confident": self.confident, "both": self.both}.get(condition)
        if table is None:
            raise ArgumentError(f"condition must be 'all', 'confident' or 'both', got {condition!r}")
        return table[:, self._gamma(gamma)] / self.n

    def at(self, sigma: float, kind: str | None = None, gamma: float | None = None) -> float:
        """The curve's value at one level of the grid."""
        found = np.flatnonzero(np.isclose(self.sigmas, sigma))
        if not len(found):
            raise ArgumentError(f"sigma must be a level of the grid {self.sigmas.tolist()}, got {sigma!r}")
        return float(self.T(kind)[found[0], self._gamma(gamma)])

    def score(self, kind: str | None = None, gamma: float | None = None) -> float:
        """Area under the curve over the range of σ; a number in [0, 1]."""
        if len(self.sigmas) == 1:
            return float(self.T(kind)[0, self._gamma(gamma)])
        area = trapezoid(self.T(kind)[:, self._gamma(gamma)], self.sigmas)
        return float(area / (self.sigmas[-1] - self.sigmas[0]))

    def modal_class(self, sigma: float | None = None) -> int:
        """The class most often given at one level, by default the largest."""
        if sigma is None:
            return int(self.counts[-1].argmax())
        return int(self.counts[int(np.abs(self.sigmas - sigma).argmin())].argmax())

    @property
    def target(self) -> int:
        """The class most often given to changed and confident inputs over all levels: a candidate, not a finding."""
        gathered = self.both[:, self._gamma(None)].sum(0)
        return int(gathered.argmax()) if gathered.sum() else self.modal_class()

    def features(self) -> np.ndarray:
        """Mean over σ > 0 of the class shares ``(3, K)``: of all, of the confident, of the changed and confident (γ = .9)."""
        noisy = self.sigmas > 0
        gamma = self.gammas[int(np.abs(self.gammas - 0.9).argmin())]
        shares = [self.class_share("all"), self.class_share("confident", gamma), self.class_share("both", gamma)]
        return np.stack([s[noisy].mean(0) for s in shares])

    def plot(self, ax: Any = None, kind: str | None = None) -> Any:
        """Draw the curve of every γ; returns the matplotlib axes."""
        from ..report.figures import new_figure, style

        ax = new_figure()[1][0] if ax is None else ax
        for g, gamma in enumerate(self.gammas):
            ax.plot(self.sigmas, self.T(kind)[:, g], label=f"γ = {gamma:g}", **style(g))
        ax.set(xlabel="noise level σ", ylabel=f"{kind or self.kind} share", ylim=(-0.02, 1.02))
        ax.legend()
        return ax

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TitrationCurve:
        """The curve that ``to_dict`` wrote.

        Raises:
            DataError: A field is missing or does not fit.
        """
        try:
            arrays = {k: np.asarray(values[k], dtype=float) for k in ("sigmas", "gammas")}
            tables = {k: np.asarray(values[k], dtype=np.int64) for k in ("counts", "flipped", "confident", "both")}
            S, G, K = len(arrays["sigmas"]), len(arrays["gammas"]), int(values["classes"])
            shapes = {"counts": (S, K), "flipped": (S, K), "confident": (S, G, K), "both": (S, G, K)}
            if any(tables[k].shape != shape for k, shape in shapes.items()):
                raise ValueError("sizes do not fit together")
            peaks = None if values.get("peaks") is None else np.asarray(values["peaks"], dtype=float).reshape(K)
            return cls(**arrays, **tables, n=int(values["n"]), classes=K, kind=str(values["kind"]), peaks=peaks,
                       settings=dict(values["settings"]), seconds=float(values["seconds"]))  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not a titration curve: {error}") from error

    def _gamma(self, gamma: float | None) -> int:
        if gamma is None:
            return int(np.abs(self.gammas - 0.95).argmin())
        found = np.flatnonzero(np.isclose(self.gammas, gamma))
        if not len(found):
            raise ArgumentError(f"gamma must be one of {self.gammas.tolist()}, got {gamma!r}")
        return int(found[0])


def titrate(
    model: Any,
    base_images: Any = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    sigmas: Any = SIGMAS,
    gammas: Any = GAMMAS,
    n: int = 256,
    base: str = "uniform",
    clip: tuple[float, float] | None = (0.0, 1.0),
    units: str = "range",
    temperature: float = 1.0,
    outputs: str = "auto",
    kind: str = "gated",
    preprocess: Callable[[Tensor], Tensor] | None = None,
    labels: Any = None,
    noise_law: str = "white",
    noise: Tensor | None = None,
    batch_size: int | None = None,
    device: Any = None,
    seed: int = 0,
    reps: int = 1,
    step: int | None = None,
    paper: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> TitrationCurve:
    """Pour noise of growing strength into a classifier's input and count what it answers.

    Args:
        model: ``nn.Module``, ONNX session, or any callable from ``(N, ...)`` to scores ``(N, K)`` or labels ``(N,)``.
        base_images: ``(N, ...)`` array, folder of images, or iterable; without it, ``base`` is drawn from the seed.
        input_shape: Shape of one input, ``(C, H, W)`` for images; needed without ``base_images``.
        sigmas: Noise levels, in units of the valid range (or of each feature's deviation, ``units="std"``).
        gammas: Confidence cut-offs in [0, 1).
        n: Number of base inputs drawn, or the most taken from a folder.
        base: ``uniform``, ``gauss_minmax``, ``gray``, ``black``, ``procedural``.
        clip: Valid range of an input; ``None`` does not clip.
        units: ``"range"`` or ``"std"``: of what σ is a multiple.
        temperature: Logits are divided by it.
        outputs: ``logits``, ``probs``, ``labels`` or ``auto``.
        kind: Which curve ``score`` means: ``gated``, ``conditional``, ``raw``, ``flip``.
        preprocess: Applied after clipping (normalisation).
        labels: ``(N,)`` true classes; an input then counts as changed where the answer differs from its label.
        noise_law: What is poured in: ``white``, or for images ``smooth``, ``waves``, ``patches``, ``blobs``,
            ``mixed``.
        noise: Unit normals of your own, ``(N, ...)`` or one per level ``(S, N, ...)``.
        batch_size: Inputs per call; by default 256, fewer where they are large. It does not change the result.
        device: Where batches go; by default where the module is.
        seed: Of the base and of the noise.
        reps: Draws of the noise; counts add up.
        step: For models that answer at every step, ``(N, T, K)``: the step that counts; -1 is the last.
        paper: The authors' settings: ``gauss_minmax``, N = 400, σ to 1.5, γ = .95, no clipping.
        on_batch: Called with the inputs answered so far and their number in all.

    Raises:
        ArgumentError: An argument is outside its rule, or base values are outside ``clip``.
        ShapeError: ``noise`` or ``labels`` do not fit the base.
        NonFiniteError: The model answers, or a base input holds, NaN or Inf.
        ModelError: The model raised an error of its own, or answers something else than scores or labels.

    Source: arXiv:2008.00123.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
        >>> curve = titrate(model, input_shape=(1, 4, 4), n=64)
        >>> curve.T("gated").shape, float(curve.flip_rate[0])
        ((12, 4), 0.0)
    """
    if paper:
        sigmas, gammas, n, base, clip = (PAPER[k] for k in ("sigmas", "gammas", "n", "base", "clip"))
    check(_RULES, locals(), "titrate")
    sigmas, gammas = _grid("sigmas", sigmas, np.inf), _grid("gammas", gammas, 1.0)
    if clip is not None and not (len(clip) == 2 and clip[0] < clip[1]):
        raise ArgumentError(f"titrate: clip must be (low, high) with low < high, or None, got {clip!r}")
    if base_images is None:
        if input_shape is None:
            raise ArgumentError("titrate: input_shape=(C, H, W) is needed where no base_images are given")
        x = data_free(base, n, tuple(input_shape), seed)
        x = x if clip is None else clip[0] + (clip[1] - clip[0]) * x
    else:
        x, base = given(base_images, input_shape, n), "given"
        if clip is not None and (float(x.min()) < clip[0] - 1e-6 or float(x.max()) > clip[1] + 1e-6):
            raise ArgumentError(
                f"titrate: base_images lie in [{float(x.min()):g}, {float(x.max()):g}], outside clip={tuple(clip)}; "
                "scale them, or say the model's range with clip="
            )
    N, S = len(x), len(sigmas)
    batch_size = batch_size or _fitting(x[0].numel())
    if noise is not None and tuple(noise.shape) not in (tuple(x.shape), (S, *x.shape)):
        raise ShapeError(f"titrate: noise must be {tuple(x.shape)} or {(S, *x.shape)}, got {tuple(noise.shape)}")
    truth = None if labels is None else torch.as_tensor(np.asarray(labels)).to(torch.int64)
    if truth is not None and truth.shape != (N,):
        raise ShapeError(f"titrate: labels must be ({N},), got {tuple(truth.shape)}")
    unit: Any = x.std(0, unbiased=False) if units == "std" else 1.0 if clip is None else clip[1] - clip[0]

    started = time.perf_counter()
    tally = _Tally(S, torch.from_numpy(gammas))
    peaks = Peaks(N * reps * int((sigmas > 0).sum()))
    asker = Predictor(model, preprocess=preprocess, outputs=outputs, temperature=temperature, device=device, step=step)
    with asker.session():
        for start in range(0, N, batch_size):
            rows = slice(start, min(start + batch_size, N))
            clean = x[rows]
            before = asker.ask(clean if clip is None else clean.clamp(*clip))[0] if truth is None else truth[rows]
            for rep in range(reps):
                eta = (
                    draw_noise(noise_law, seed, rep, rows, x.shape[1:])
                    if noise is None
                    else noise[..., rows, *[slice(None)] * (x.ndim - 1)]
                )
                for s, sigma in enumerate(sigmas):
                    draw = eta if noise is None or noise.ndim == x.ndim else eta[s]
                    noisy = clean + float(sigma) * unit * draw.to(clean)
                    classes, confidence, scores = asker.ask(noisy if clip is None else noisy.clamp(*clip))
                    tally.add(s, before, classes, confidence)
                    if scores is not None:
                        peaks.add(scores, noisy=bool(sigma > 0))
            if on_batch is not None:
                on_batch(rows.stop, N)
    counts, flipped, confident, both = tally.tables(asker.classes)
    content = hashlib.sha256(x.numpy().tobytes()).hexdigest() if base == "given" else None
    settings = {
        "base": base, "base_sha256": content, "input_shape": list(x.shape[1:]), "n": N, "reps": reps, "seed": seed,
        "sigmas": sigmas.tolist(), "gammas": gammas.tolist(), "clip": None if clip is None else list(map(float, clip)),
        "units": units, "temperature": temperature, "outputs": asker.outputs, "labels": labels is not None,
        "noise": "given" if noise is not None else noise_law, "classes": counts.shape[1],
    }  # fmt: skip
    if step is not None:
        settings["step"] = step
    if (weights := weight_count(model)) is not None:
        settings["weights"] = weights
    return TitrationCurve(
        sigmas, gammas, N * reps, counts.shape[1], counts, flipped, confident, both, kind, settings,
        time.perf_counter() - started, peaks.values(),
    )  # fmt: skip


def settings_hash(settings: dict[str, Any]) -> str:
    """What two curves must share to be compared: a digest of all settings but what they were asked of."""
    compared = {k: v for k, v in settings.items() if k not in OF_THE_MODEL}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]


def _fitting(values: int) -> int:
    """Inputs per call: a power of two of them, so few that the layers of a network fit into memory nearby."""
    return min(256, 1 << max(0, (CALL_VALUES // values).bit_length() - 1))


def _grid(name: str, values: Any, high: float) -> np.ndarray:
    grid = np.atleast_1d(np.asarray(values, dtype=float))
    good = grid.ndim == 1 and len(grid) and np.isfinite(grid).all() and (grid >= 0).all() and (grid < high).all()
    if not good or (np.diff(grid) <= 0).any():
        limit = "" if high == np.inf else f" and < {high:g}"
        raise ArgumentError(f"titrate: {name} must be increasing numbers >= 0{limit}, got {values!r}")
    return grid


class _Tally:
    """Counts by level, class and cut-off; grows when a label-only model names a class it had not named before."""

    def __init__(self, levels: int, gammas: Tensor) -> None:
        self.gammas = gammas
        self.table = torch.zeros(levels, 1, 2, 1 + len(gammas), dtype=torch.int64)  # (S, K, changed, 1 + G)

    def add(self, level: int, before: Tensor, now: Tensor, confidence: Tensor) -> None:
        top = int(now.max()) + 1
        if top > self.table.shape[1]:
            S, _, two, cuts = self.table.shape
            grown = torch.zeros(S, top, two, cuts, dtype=torch.int64)
            grown[:, : self.table.shape[1]] = self.table
            self.table = grown
        above = confidence[:, None] > self.gammas  # (B, G)
        marks = torch.cat([torch.ones(len(now), 1, dtype=torch.bool), above], 1).to(torch.int64)  # (B, 1 + G)
        flat = self.table[level].reshape(-1, marks.shape[1])
        flat.index_add_(0, now * 2 + (now != before).to(torch.int64), marks)

    def tables(self, classes: int | None) -> tuple[np.ndarray, ...]:
        K = max(classes or 0, self.table.shape[1])
        full = np.zeros((self.table.shape[0], K, 2, self.table.shape[3]), dtype=np.int64)
        full[:, : self.table.shape[1]] = self.table.numpy()
        total, changed = full.sum(2), full[:, :, 1]
        order = (0, 2, 1)
        return total[..., 0], changed[..., 0], total[..., 1:].transpose(order), changed[..., 1:].transpose(order)
