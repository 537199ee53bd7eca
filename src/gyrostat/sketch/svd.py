"""S A ≈ Ũ diag(s̃) Ṽᵀ:  right vectors and values of A from its sketch, left vectors A ṽ_j/|A ṽ_j| in one more pass.

``svd`` sketches, bootstraps, extrapolates to the size the tolerance needs, t₁ = t₀ (1.1 q/tol)², and sketches once more;
where that would cost more than the exact Gram matrix AᵀA it computes that instead and says so.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937.
Differs from the released code: exactly one planned resize, an exact path, residual bounds (``certify``), any source of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._memory import plan_memory
from .._results import Result
from .bootstrap import ErrorBounds, bootstrap_error, spectrum
from .rows import Rows, as_rows
from .sketches import METHODS, REMEDY, Sketch, sketch
from .warning import warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SketchedSVDResult(Result):
    """Leading singular triplets of a matrix.

    Attributes:
        U: Left vectors (n, rank); None where the source could be read only once.
        s: Singular values (rank,).
        Vt: Right vectors, conjugate transposed (rank, d).
        sketch: The sketch they come from; None for an exact result.
        transposed: The matrix was wide and its transpose was sketched.
        bounds: Error bounds, where they were asked for.
        history: (sketch size, simultaneous bound) of each stage.
        note: How the result came about, in a sentence.
    """

    U: np.ndarray | None = field(repr=False)
    s: np.ndarray
    Vt: np.ndarray = field(repr=False)
    sketch: Sketch | None = field(default=None, repr=False)
    transposed: bool = False
    bounds: ErrorBounds | None = None
    history: tuple[tuple[int, float], ...] = ()
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether no sketch was involved."""
        return self.sketch is None

    def plot(self, ax: Axes | None = None) -> Axes:
        """Singular values with their error bars."""
        from ..report.figures import new_figure, style

        ax = ax or new_figure()[1][0]
        at = np.arange(1, len(self.s) + 1)
        if self.bounds is not None and "values" in self.bounds.per_component:
            bar = self.bounds.per_component["values"]
            ax.errorbar(at, self.s, yerr=bar, linestyle="none", capsize=3, **style(0))
        else:
            ax.plot(at, self.s, linestyle="none", **style(0))
        ax.set(xlabel="component", ylabel="singular value")
        return ax


@dataclass(frozen=True)
class Certificate(Result):
    """Residual bounds that hold with certainty, whatever made the factors.

    Attributes:
        residual: r_j; some singular value of A lies within r_j of s_j.
    """

    residual: np.ndarray

    def sine(self, j: int, gap: float) -> float:
        """Bound on the sine of the angle of the stacked vector (u_j; v_j)/√2, if the others are ``gap`` away from s_j."""
        check({"gap": Real(low=0, closed="neither")}, {"gap": gap}, "Certificate.sine")
        return min(1.0, float(self.residual[j]) / gap)


RULES = {
    "rank": Integer(low=1),
    "sketch_size": Integer(low=1),
    "method": OneOf((*METHODS, "auto")),
    "power": Integer(low=0, high=2),
    "refine": Integer(low=0),
    "left": Boolean(),
    "seed": Integer(low=0),
}


def sketched_svd(
    A: Any,
    rank: int,
    sketch_size: int,
    method: str = "gaussian",
    *,
    left: bool = True,
    power: int = 0,
    refine: int = 0,
    seed: int = 0,
    draws: np.ndarray | None = None,
    memory_limit: float | None = None,
    progress: Any = None,
) -> SketchedSVDResult:
    """Leading singular triplets from a sketch of ``sketch_size`` rows.

    Args:
        A: (n, d) array, memmap, scipy.sparse, torch, dask, zarr, HDF5, or an iterator of row blocks. Wide matrices are
            transposed and the factors turned back.
        rank: Number of triplets, below min(n, d).
        sketch_size: Rows t of the sketch; the error shrinks like 1/sqrt(t).
        method: gaussian, uniform, length, leverage, countsketch, srht, sparse_sign.
        left: Compute left vectors too (one more pass).
        power: Power passes (0, 1, 2): smaller errors for one more pass each.
        refine: Columns m of a final Rayleigh-Ritz step (two passes); 0 leaves the sketch's own vectors.
        seed: The result depends on it alone.
        draws: Replay of given row indices or normals.
        memory_limit: Bytes that may be taken; None is what the machine has free.
        progress: Called with the rows read so far.

    Raises:
        ArgumentError: rank too large or the sketch smaller than the rank.
        NonFiniteError: NaN or Inf, with row and column.
        MemoryBudgetError: The sketch would not fit.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import sketched_svd
        >>> A = np.random.default_rng(0).standard_normal((2000, 30)) / np.arange(1, 31)
        >>> result = sketched_svd(A, 3, 400)
        >>> result.U.shape, result.s.shape, result.Vt.shape
        ((2000, 3), (3,), (3, 30))
    """
    check(RULES, locals(), "sketched_svd")
    rows, flip = as_rows(A)
    _check_rank(rows, rank, "sketched_svd")
    if sketch_size < rank:
        raise ArgumentError(
            f"sketched_svd: sketch_size must be at least rank ({rank}), got {sketch_size}; 10 times the rank is a start"
        )
    found = sketch(
        rows,
        sketch_size,
        method=method,
        power=power,
        seed=seed,
        draws=draws,
        memory_limit=memory_limit,
        progress=progress,
    )
    _check_rank(rows, rank, "sketched_svd")
    s, V = spectrum(found.matrix, rank)
    values, V = s[:rank] ** (1.0 / (2 * power + 1)), V[:, : max(rank, refine)]
    if refine:
        U, values, V = _rayleigh_ritz(rows, V, rank)
    else:
        V = V[:, :rank]
        U = _left(rows, V) if (left or flip) and not rows.one_shot else None
    return _turned(U, values, V, flip, found, note=f"{found.method} sketch of {sketch_size} rows")


def svd(
    A: Any,
    rank: int,
    tol: float = 0.05,
    *,
    target: str = "right",
    alpha: float = 0.05,
    sketch_method: str = "auto",
    method: str = "two_stage",
    replicates: int = 100,
    max_size: int | None = None,
    left: bool = True,
    seed: int = 0,
    memory_limit: float | None = None,
    progress: Any = None,
) -> SketchedSVDResult:
    """Leading singular triplets to a tolerance, with error bounds.

    The promise is ``tol``: a final bound somewhat above it is reported as it is, and bounds of a size that was chosen by
    looking at bounds are a little optimistic.

    Args:
        A: As for :func:`sketched_svd`, but readable more than once.
        rank: Number of triplets, below min(n, d).
        tol: Largest error of any of them: sine of the angle, or for ``target="values"`` relative to s_1.
        target: "right", "left", "values" or "subspace" (the first ``rank`` right vectors as a space).
        alpha: The tolerance is kept with probability about 1 - alpha.
        sketch_method: As for :func:`sketched_svd`; "auto" is countsketch.
        method: "two_stage" (one planned resize) or "iterate" (up to six).
        replicates: Bootstrap replicates.
        max_size: Largest sketch allowed; the bound then says what was reached.
        left: Compute left vectors too.
        seed: The result depends on it alone.
        memory_limit: Bytes that may be taken; None is what the machine has free.
        progress: Called with the rows read so far in the current pass.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import svd
        >>> A = np.random.default_rng(0).standard_normal((5000, 40)) / np.arange(1, 41)
        >>> result = svd(A, 3, tol=0.2)
        >>> result.s.shape, result.bounds is not None
        ((3,), True)
    """
    rules = {
        **{name: RULES[name] for name in ("rank", "left", "seed")},
        "tol": Real(low=0, closed="neither"),
        "target": OneOf(("right", "left", "values", "subspace")),
        "alpha": Real(low=0, high=1, closed="neither"),
        "sketch_method": OneOf((*METHODS, "auto")),
        "method": OneOf(("two_stage", "iterate")),
        "replicates": Integer(low=2),
        "max_size": Integer(low=1, optional=True),
    }
    check(rules, locals(), "svd")
    rows, flip = as_rows(A)
    if rows.one_shot:
        raise ArgumentError(
            "svd: A is an iterator that can be read only once; pass a function that returns a fresh iterator of blocks, "
            "or use sketched_svd"
        )
    if rows.n is None:
        rows.n = sum(len(b.energy) for b in rows.blocks())
    _check_rank(rows, rank, "svd")
    if max_size is not None and max_size < rank:
        raise ArgumentError(f"svd: max_size must be at least rank ({rank}), got {max_size}")
    size = min(max(10 * rank, 100 + rank + 1), max_size or rows.n)
    history: list[tuple[int, float]] = []
    stage, last = 0, 1 if method == "two_stage" else 6
    while True:
        if max_size is None and (size >= rows.n / 2 or _exact_is_cheaper(rows, size)):
            reason = f"a sketch of {size} rows would cost as much: exact, by the Gram matrix"
            return _exact(rows, rank, flip, alpha, tuple(history), left, memory_limit, reason)
        found = sketch(
            rows, size, method=sketch_method, seed=seed + stage, memory_limit=memory_limit, progress=progress
        )
        s, V = spectrum(found.matrix, rank)
        result = _turned(None, s[:rank], V[:, :rank], flip, found)
        spans = (rank,) if target == "subspace" else ()
        bounds = bootstrap_error(
            result, alpha=alpha, replicates=replicates, subspace=spans, seed=seed + stage, quiet=True
        )
        q = _bound(bounds, target, rank, s[0])
        history.append((size, q))
        if stage == last or size == max_size or q <= tol:
            break
        grown = int(np.ceil(size * max(1.1, (1.1 * q / tol) ** 2)))
        size, stage = (min(grown, max_size) if max_size is not None else grown), stage + 1
    for message in bounds.warnings:
        warn(message)
    U = _left(rows, V[:, :rank]) if left or flip else None
    note = f"{found.method} sketch of {found.size} rows, {len(history)} stage(s)"
    return _turned(U, s[:rank], V[:, :rank], flip, found, bounds, tuple(history), note)


def exact_svd(A: Any, rank: int, *, memory_limit: float | None = None) -> SketchedSVDResult:
    """Leading singular triplets without a sketch: by the Gram matrix in one pass, or densely where A is small."""
    rows, flip = as_rows(A)
    return _exact(rows, rank, flip, 0.05, (), True, memory_limit, "exact")


def certify(A: Any, U: np.ndarray, s: np.ndarray, Vt: np.ndarray) -> Certificate:
    """Residual bounds of given factors in one pass: independent of any sketch or bootstrap.

    r_j = sqrt((|A v_j - s_j u_j|² + |Aᴴ u_j - s_j v_j|²)/2): a singular value of A lies within r_j of s_j.

    Args:
        A: The matrix (n, d), any source of rows.
        U: Left vectors (n, k), unit length.
        s: Singular values (k,).
        Vt: Right vectors (k, d), unit length.

    Raises:
        ArgumentError: Shapes do not fit or a vector is not of unit length.

    Example:
        >>> import numpy as np
        >>> from gyrostat import certify, sketched_svd
        >>> A = np.random.default_rng(0).standard_normal((500, 20)) / np.arange(1, 21)
        >>> r = sketched_svd(A, 2, 200)
        >>> certify(A, r.U, r.s, r.Vt).residual.shape
        (2,)
    """
    rows, flip = as_rows(A)
    U, s, V = np.asarray(U), np.asarray(s), np.asarray(Vt).conj().T
    if flip:
        U, V = V.conj(), U.conj()
    k = len(s)
    if U.shape != (rows.n if rows.n is not None else len(U), k) or V.shape != (rows.d, k):
        raise ArgumentError(f"certify: factors of shapes {U.shape}, {s.shape}, {V.shape} do not fit the matrix")
    # single precision factors are unit to about 1e-6
    if np.abs(np.linalg.norm(U, axis=0) - 1).max() > 1e-5 or np.abs(np.linalg.norm(V, axis=0) - 1).max() > 1e-5:
        raise ArgumentError("certify: columns of U and rows of Vt must have unit length; normalise them first")
    first, back = np.zeros(k), np.zeros((rows.d, k), np.result_type(U, rows.dtype))
    for block in rows.blocks():
        u = U[block.start : block.start + len(block.energy)]
        first += np.sum(np.abs(block.data @ V - u * s) ** 2, axis=0)
        back += block.data.conj().T @ u
    second = np.sum(np.abs(back - V * s) ** 2, axis=0)
    return Certificate(np.sqrt((first + second) / 2))


def _check_rank(rows: Rows, rank: int, where: str) -> None:
    small = rows.d if rows.n is None else min(rows.n, rows.d)
    if rank >= small:
        raise ArgumentError(f"{where}: rank must be below min(n, d) = {small}, got {rank}; a full SVD is numpy's")


def _bound(bounds: ErrorBounds, target: str, rank: int, scale: float) -> float:
    if target == "subspace":
        return bounds.subspace[rank]
    q = bounds.simultaneous[target]
    return q / scale if target == "values" and scale > 0 else q


def _exact_is_cheaper(rows: Rows, t: int) -> bool:
    """Compare operations; a scattered row costs about 20 per entry, being bound by memory and not by arithmetic."""
    n, d, m = float(rows.n or 0), float(rows.d), float(min(t, rows.d))
    if rows.sparse:
        return False
    return 2 * n * d * d + 15 * d**3 <= 20 * n * d + 2 * t * d * m + 15 * m**3


def _left(rows: Rows, V: np.ndarray) -> np.ndarray:
    AV = np.concatenate([np.asarray(b.data @ V) for b in rows.blocks()])  # (n, k)
    norm = np.linalg.norm(AV, axis=0)
    return AV / np.where(norm > 0, norm, 1.0)


def _rayleigh_ritz(rows: Rows, V: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    Q, _ = np.linalg.qr(np.concatenate([np.asarray(b.data @ V) for b in rows.blocks()]))
    B = np.zeros((Q.shape[1], rows.d), Q.dtype)  # (m, d)
    for b in rows.blocks():
        B += np.asarray(b.data.conj().T @ Q[b.start : b.start + len(b.energy)]).conj().T
    W, s, Vh = np.linalg.svd(B, full_matrices=False)
    return Q @ W[:, :rank], s[:rank], Vh[:rank].conj().T


def _exact(
    rows: Rows, rank: int, flip: bool, alpha: float, history: Any, left: bool, limit: float | None, note: str
) -> SketchedSVDResult:
    d, n = rows.d, rows.n or 0
    need = 3.0 * d * d * rows.dtype.itemsize + (1 << 24)
    plan_memory(need, f"the exact Gram matrix of {d} columns", REMEDY, limit)
    U: np.ndarray | None
    if n * d <= 1 << 18:
        dense = np.concatenate([b.data.toarray() if rows.sparse else b.data for b in rows.blocks()])
        U, s, Vh = np.linalg.svd(dense, full_matrices=False)
        U, s, V = U[:, :rank], s[:rank], Vh[:rank].conj().T
    else:
        gram = np.zeros((d, d), rows.dtype)
        for block in rows.blocks():
            product = block.data.conj().T @ block.data
            gram += product.toarray() if rows.sparse else product
        values, vectors = np.linalg.eigh(gram)
        s, V = np.sqrt(np.maximum(values[::-1][:rank], 0.0)), vectors[:, ::-1][:, :rank]
        if s[-1] < 1e-6 * s[0]:
            U, s, V = _rayleigh_ritz(rows, vectors[:, ::-1][:, : min(d, rank + 10)], rank)
        else:
            U = _left(rows, V) if left or flip else None
    bounds = bootstrap_error(_turned(U, s, V, flip), alpha=alpha)
    return _turned(U, s, V, flip, None, bounds, history, note)


def _turned(
    U: np.ndarray | None,
    s: np.ndarray,
    V: np.ndarray,
    flip: bool,
    found: Sketch | None = None,
    bounds: ErrorBounds | None = None,
    history: tuple[tuple[int, float], ...] = (),
    note: str = "",
) -> SketchedSVDResult:
    """The factors of A from those of the matrix that was read: Aᵀ = U s Vᴴ gives A = conj(V) s Uᵀ."""
    if flip:
        # only a result of an inner stage has no tall-side vectors here
        Vt = np.zeros((len(s), 0)) if U is None else U.T
        return SketchedSVDResult(V.conj(), s, Vt, found, True, bounds, history, note)
    return SketchedSVDResult(U, s, V.conj().T, found, False, bounds, history, note)
