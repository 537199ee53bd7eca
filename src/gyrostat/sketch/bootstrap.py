"""Ã* = rows of Ã drawn t times with replacement;  e_j = |s̃_j - s*_j|, sin(ṽ_j, v*_j), sin(ũ_j, u*_j);  q = quantile(e).

One multinomial weight vector w per replicate stands for the drawn rows: Ã*ᵀÃ* = Ãᵀ diag(w) Ã. In the basis X = Ã V of
the sketch's own right vectors that is an r x r matrix, so no replicate touches anything of size d:
  s*_j = sqrt(λ_j),  ṽ_j·v*_j = q_j[j],  |Ã v*_j|² = Σ_l λ̃_l q_j[l]²   with (λ, q) the eigenpairs of Xᵀ diag(w) X.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937.
Differs from the released code: the multinomial form replaces one sparse SVD per replicate (same numbers, no redraws of
NaN); the bootstrap is always centred on the sketch, never on refined factors; an unbiased quantile; sketches whose rows
are not i.i.d. (countsketch, sparse_sign, srht) have the spread of their replicates set to their own law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._results import Result
from . import native
from .beyond import EXACT, directions
from .errors import METRICS, errors
from .replicates import COHERENT, Fresh, law, replicate
from .sketches import Sketch
from .warning import warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAFETY = 1.05
NULL = 1e-13  # of the largest: below it a singular value is rounding


@dataclass(frozen=True)
class ErrorBounds(Result):
    """Bootstrap bounds on the error of the first k singular values and vectors.

    Attributes:
        per_component: Metric to (k,) bounds, each holding with probability 1 - alpha on its own.
        simultaneous: Metric to one bound that holds for all k at once.
        subspace: m to the bound on the largest angle (its sine) between the spans of the first m right vectors.
        replicates: Metric to (replicates, k) bootstrap errors.
        sketch_size: Rows of the sketch.
        alpha: 1 - confidence.
        resolved: Per component "resolved", "possibly unresolved" or "unresolved" (near ties).
        warnings: Sentences about strained assumptions.

    Example:
        >>> import numpy as np
        >>> from gyrostat import bootstrap_error, sketched_svd
        >>> A = np.random.default_rng(0).normal(size=(500, 8)) * 0.5 ** np.arange(8)
        >>> bounds = bootstrap_error(sketched_svd(A, 2, 200), k=2)
        >>> bounds.extrapolate(800).simultaneous["values"] < bounds.simultaneous["values"]
        True
    """

    per_component: dict[str, np.ndarray]
    simultaneous: dict[str, float]
    subspace: dict[int, float]
    replicates: dict[str, np.ndarray] = field(repr=False)
    sketch_size: int
    alpha: float
    resolved: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def extrapolate(self, sketch_size: int) -> ErrorBounds:
        """The bounds to expect of a sketch of another size: errors shrink like 1/sqrt(t)."""
        check({"sketch_size": Integer(low=1)}, {"sketch_size": sketch_size}, "extrapolate")
        f = float(np.sqrt(self.sketch_size / sketch_size))
        return replace(
            self,
            per_component={m: v * f for m, v in self.per_component.items()},
            simultaneous={m: v * f for m, v in self.simultaneous.items()},
            subspace={m: v * f for m, v in self.subspace.items()},
            replicates={m: v * f for m, v in self.replicates.items()},
            sketch_size=int(sketch_size),
        )

    def required_size(self, tol: float, metric: str = "right", safety: float = SAFETY) -> int:
        """Rows a sketch needs for a simultaneous bound of ``tol``: ceil(t (safety q / tol)²)."""
        check({"tol": Real(low=0, closed="neither")}, {"tol": tol}, "required_size")
        if metric not in self.simultaneous:
            raise ArgumentError(f"required_size: metric must be one of {sorted(self.simultaneous)}, got {metric!r}")
        return max(1, int(np.ceil(self.sketch_size * (safety * self.simultaneous[metric] / tol) ** 2)))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Expected error against sketch size, with this sketch marked."""
        from ..report.figures import new_figure, style

        ax = ax or new_figure()[1][0]
        sizes = np.geomspace(self.sketch_size / 4, self.sketch_size * 32, 60)
        for i, (metric, q) in enumerate(m for m in self.simultaneous.items() if m[0] != "values"):
            look = style(i)
            ax.plot(sizes, q * np.sqrt(self.sketch_size / sizes), color=look["color"], label=metric)
            ax.plot([self.sketch_size], [q], **look)
        ax.set(xscale="log", yscale="log", xlabel="sketch size t", ylabel="sine of the angle, bound")
        ax.legend()
        return ax


FEW = 64  # columns up to which the kernel of few columns is faster than BLAS
RULES = {
    "k": Integer(low=1),
    "alpha": Real(low=0, high=1, closed="neither"),
    "replicates": Integer(low=2),
    "quantile": OneOf(("unbiased", "linear")),
    "seed": Integer(low=0),
    "quiet": Boolean(),
}


def bootstrap_error(
    result: Any,
    k: int | None = None,
    *,
    alpha: float = 0.05,
    replicates: int = 100,
    metrics: Sequence[str] = METRICS,
    subspace: Sequence[int] = (),
    projection: int | str | None = "auto",
    boot_idx: np.ndarray | None = None,
    quantile: str = "unbiased",
    seed: int = 0,
    quiet: bool = False,
) -> ErrorBounds:
    """Bound the error of a sketched SVD from the sketch alone: no further pass over the matrix.

    Args:
        result: What :func:`sketched_svd` returned, or a :class:`Sketch`.
        k: Components to bound; None is all of the result.
        alpha: Bounds hold with probability about 1 - alpha.
        replicates: Bootstrap replicates; with fewer than 100 the bound itself is noisy.
        metrics: Of "values" (absolute), "left", "right" (sine of the angle).
        subspace: Sizes m for which the first m right vectors are bounded as a space.
        projection: Right vectors of the sketch to work in; None is all (exact), "auto" keeps those that matter and
            adds what the others do on average.
        boot_idx: Replay: (replicates, t) row indices.
        quantile: "unbiased" takes the (B + 1)(1 - alpha)th of B replicates, so that a fresh error is below it with
            probability 1 - alpha; "linear" is the released code's rule, which with B = 100 covers 0.941 and not 0.95.
        seed: Seed of the draws.
        quiet: No warnings; they remain in the result.

    Raises:
        ArgumentError: ``k`` larger than the sketch can carry.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import bootstrap_error, sketched_svd
        >>> A = np.random.default_rng(0).standard_normal((2000, 30)) / np.arange(1, 31)
        >>> result = sketched_svd(A, 3, 400)
        >>> bounds = bootstrap_error(result, k=3)
        >>> bounds.simultaneous["right"] < 0.5, bounds.required_size(0.01) > 400
        (True, True)
    """
    transposed = bool(getattr(result, "transposed", False))
    found: Sketch = result if isinstance(result, Sketch) else result.sketch
    k = (len(result.s) if k is None else k) if not isinstance(result, Sketch) else (k or 1)
    check(RULES, {**locals(), "k": k}, "bootstrap_error")
    unknown = [m for m in metrics if m not in METRICS]
    if unknown:
        raise ArgumentError(f"bootstrap_error: metrics must be of {METRICS}, got {unknown[0]!r}")
    if found is None:
        if k > len(result.s):
            raise ArgumentError(
                f"bootstrap_error: k must be at most {len(result.s)}, the components there are, got {k}"
            )
        return _exact_bounds(result.s[:k], alpha, metrics, subspace, quiet)
    Y = found.matrix
    t = Y.shape[0]
    if k > min(Y.shape):
        raise ArgumentError(
            f"bootstrap_error: k must be at most {min(Y.shape)} for a sketch of shape {Y.shape}, got {k}"
        )
    s, V = found.spectrum(k)
    # fourth powers follow: a power of two as unit keeps them in range and changes no digit
    unit, null = 2.0 ** np.floor(np.log2(s[0])) if s[0] > 0 else 1.0, _null(s[:k])
    s = s / unit
    top, tail = max([k, *subspace]), 1.0 / (2 * found.power + 1)
    r = _kept(len(s), top, projection)
    if boot_idx is None:
        draws: np.ndarray | Fresh = Fresh(replicates, seed)
    else:
        draws, replicates = np.asarray(boot_idx), len(boot_idx)
        if draws.min(initial=0) < 0 or draws.max(initial=0) >= t:
            raise ArgumentError(f"bootstrap_error: boot_idx must be rows of the sketch, 0 to {t - 1}")
    factor, plain = law(found)
    powered = s**tail
    drawn = replicate(_product(Y, V[:, :r] / unit), draws, top, factor, powered[:r] ** 2)
    whole, mass = errors(found, s, powered, drawn, k, r, factor, unit)
    whole[0] *= unit**tail
    if null.any():
        whole[1:, :k][:, null] = 1.0
        whole[:, k] = whole[:, :k][:, ~null].max(axis=1, initial=0.0)
    levels = _level(whole, 1 - alpha, quantile)
    place = {"values": 0, "left": 1 + transposed, "right": 2 - transposed}
    per_component = {m: levels[i, :k] for m, i in place.items()}
    simultaneous = {m: float(levels[i, k]) for m, i in place.items()}
    resolved = told_apart(powered[:r] * unit**tail, per_component["values"], null)
    spans = sorted({*subspace, *cluster_ends(resolved[: k - null.sum()], k)})
    angles = {m: float(_level(drawn.tilt(mass[:m]), 1 - alpha, quantile)) for m in spans}
    messages = plain + _rank(null) + _messages(found, k, t, alpha, replicates, resolved, angles, null)
    if not quiet:
        for message in messages:
            warn(message)
    return ErrorBounds(
        {m: per_component[m] for m in metrics},
        {m: simultaneous[m] for m in metrics},
        angles,
        {m: whole[place[m], :k].T for m in metrics},
        t,
        alpha,
        resolved,
        messages,
    )


def _product(Y: np.ndarray, V: np.ndarray) -> np.ndarray:
    if native.ready() and Y.dtype == V.dtype == np.float64 and native.readable(Y) and V.shape[1] <= FEW:
        return native.times(Y, V, 1)
    return Y @ V


def _level(errors: np.ndarray, q: float, rule: str) -> np.ndarray:
    """The q-quantile of the last axis, by numpy's rules."""
    count = errors.shape[-1]
    place = count * q + q - 1 if rule == "unbiased" else (count - 1) * q
    place = min(max(place, 0.0), count - 1.0)
    low = max(0, min(int(place), count - 2))
    next_to = min(low + 1, count - 1)
    sorted_there = np.partition(errors, (low, next_to), axis=-1)
    below, above = sorted_there[..., low], sorted_there[..., next_to]
    return below + (place - low) * (above - below)


def _kept(full: int, top: int, wanted: int | str | None) -> int:
    """How many directions to work in."""
    if isinstance(wanted, str) and wanted != "auto":
        raise ArgumentError(f"bootstrap_error: projection must be an integer, 'auto' or None, got {wanted!r}")
    if wanted is None or (wanted == "auto" and full <= EXACT):
        return full
    return min(full, directions(top) if wanted == "auto" else max(top + 1, int(wanted)))


def _null(s: np.ndarray) -> np.ndarray:
    """Which singular values are zero to rounding."""
    return s <= NULL * s[0]


def _rank(null: np.ndarray) -> tuple[str, ...]:
    if not null.any():
        return ()
    return (
        f"the matrix has rank {int((~null).sum())} to rounding: the singular values beyond are zero, and their vectors are "
        "not determined (bound 1, which the simultaneous bounds leave out)",
    )


def told_apart(s: np.ndarray, q: np.ndarray, null: np.ndarray) -> tuple[str, ...]:
    """Per component whether its value is resolved from its neighbours: by bounds ``q`` of the first len(q)."""
    words, k = [], len(null)
    for j in range(k):
        word = "unresolved" if null[j] else "resolved"
        for other in (j - 1, j + 1):
            if 0 <= other < len(s):
                gap, reach = abs(s[j] - s[other]), max(q[j], q[other] if other < k else q[j])
                if gap < reach:
                    word = "unresolved"
                elif gap < 2 * reach and word == "resolved":
                    word = "possibly unresolved"
        words.append(word)
    return tuple(words)


def cluster_ends(resolved: tuple[str, ...], limit: int) -> list[int]:
    """Where groups of values that are not told apart end: sizes of spaces to trust."""
    ends = []
    for j, word in enumerate(resolved):
        if word != "resolved" and (j + 1 == len(resolved) or resolved[j + 1] == "resolved"):
            ends.append(min(j + 1, limit))
    return ends


def _messages(
    found: Sketch,
    k: int,
    t: int,
    alpha: float,
    count: int,
    resolved: tuple[str, ...],
    angles: dict[int, float],
    null: np.ndarray,
) -> tuple[str, ...]:
    out = []
    if found.method == "uniform" and found.coherence > COHERENT:
        out.append(
            f"a few rows carry much of the matrix (coherence {found.coherence:.0f} > {COHERENT}): bounds of uniform sampling "
            "are too small here; use method='length' or 'gaussian'"
        )
    out += ties(resolved, angles, null)
    if t < 10 * k or t <= 100:
        out.append(f"a sketch of {t} rows is small for {k} components: use at least {max(10 * k, 101)}")
    if count * alpha < 5 - 1e-9:
        out.append(f"{count} replicates are few for alpha {alpha:g}: use at least {int(np.ceil(5 / alpha))}")
    return tuple(out)


def ties(resolved: tuple[str, ...], angles: dict[int, float], null: np.ndarray) -> tuple[str, ...]:
    """A sentence about near ties, if there are any."""
    close = [j + 1 for j, word in enumerate(resolved) if word != "resolved" and not null[j]]
    if not close:
        return ()
    spans = ", ".join(f"first {m}: {q:.3g}" for m, q in angles.items())
    return (
        f"singular values {close} are not told apart from a neighbour by this sketch: trust the space they span, "
        f"not the single vectors (sine of its angle, {spans})",
    )


def _exact_bounds(
    s: np.ndarray, alpha: float, metrics: Sequence[str], subspace: Sequence[int], quiet: bool
) -> ErrorBounds:
    """Bounds of factors that were computed without a sketch: zero, but for vectors that are not determined."""
    k, null = len(s), _null(s)
    messages = _rank(null)
    if not quiet:
        for message in messages:
            warn(message)
    return ErrorBounds(
        {m: np.zeros(k) if m == "values" else null * 1.0 for m in metrics},
        dict.fromkeys(metrics, 0.0),
        dict.fromkeys(subspace, 0.0),
        {m: np.zeros((1, k)) for m in metrics},
        1,
        alpha,
        tuple("unresolved" if gone else "resolved" for gone in null),
        messages,
    )
