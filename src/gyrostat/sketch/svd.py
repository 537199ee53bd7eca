"""S A ≈ Ũ diag(s̃) Ṽᵀ:  right vectors and values of A from its sketch, left vectors A ṽ_j/|A ṽ_j| in one more pass.

``svd`` sketches (4 times larger until the bound is below 1/2, where the 1/√t law holds), bootstraps, extrapolates to the
size the tolerance needs, t₁ = t₀ (1.1 q/tol)², and sketches once more;
where that would cost more than an exact path (``exact.py``) it takes that instead and says so.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937.
Differs from the released code: exactly one planned resize, an exact path, any source of rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._memory import available_memory, plan_memory
from .bootstrap import ErrorBounds, bootstrap_error
from .exact import LANCZOS_COLUMNS, Centre, check_scale, exact_from, left_vectors, rayleigh_ritz
from .passes import Sum, as_watch
from .result import SketchedSVDResult, turned
from .rows import Rows, as_rows
from .scatter import SCATTERING
from .sketches import METHODS, sketch
from .stream import SAMPLING
from .warning import warn

RULES = {
    "rank": Integer(low=1),
    "sketch_size": Integer(low=1),
    "method": OneOf((*METHODS, "auto")),
    "power": Integer(low=0, high=2),
    "refine": Integer(low=0),
    "left": Boolean(),
    "seed": Integer(low=0),
}


PILOT = 0.5
SVD_RULES = {
    **{name: RULES[name] for name in ("rank", "left", "seed")},
    "tol": Real(low=0, closed="neither"),
    "target": OneOf(("right", "left", "values", "subspace")),
    "alpha": Real(low=0, high=1, closed="neither"),
    "sketch_method": OneOf((*METHODS, "auto")),
    "method": OneOf(("two_stage", "iterate")),
    "replicates": Integer(low=2),
    "max_size": Integer(low=1, optional=True),
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
    resume: Path | str | None = None,
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
        progress: Called with the rows read so far in the current pass.
        resume: Folder that keeps the state of an interrupted call; the same call goes on from it and then removes it.

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
    watch = as_watch(progress, resume)
    _check_rank(rows, rank, "sketched_svd")
    if sketch_size < rank:
        raise ArgumentError(
            f"sketched_svd: sketch_size must be at least rank ({rank}), got {sketch_size}; 10 times the rank is a start"
        )
    _plan_left(rows, max(rank, refine), bool(left or flip or refine), memory_limit)
    if refine and rows.one_shot:
        raise ArgumentError(
            "sketched_svd: refine reads A twice more, but A is an iterator that can be read only once; "
            "pass a function that returns a fresh iterator of blocks"
        )
    found = sketch(
        rows,
        sketch_size,
        method=method,
        power=power,
        seed=seed,
        draws=draws,
        memory_limit=memory_limit,
        progress=watch,
    )
    _check_rank(rows, rank, "sketched_svd")
    s, V = found.spectrum(rank)
    check_scale(rows, float(s[0]) ** (1.0 / (2 * power + 1)), method)
    if power and s[rank - 1] < 1e-12 * s[0]:
        warn(
            f"a power sketch raises singular values to the {2 * power + 1}th power, and the {rank}th is lost in rounding "
            "there: use a smaller power or rank, or refine instead"
        )
    values, V = s[:rank] ** (1.0 / (2 * power + 1)), V[:, : max(rank, refine)]
    if refine:
        U, values, V = rayleigh_ritz(rows, V, rank, watch)
    else:
        V = V[:, :rank]
        U = left_vectors(rows, V, watch) if (left or flip) and not rows.one_shot else None
    watch.forget()
    return turned(U, values, V, flip, found, note=f"{found.method} sketch of {sketch_size} rows")


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
    resume: Path | str | None = None,
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
        method: "two_stage" (one planned resize, after pilots where the first sketch is too small to plan from) or
            "iterate" (up to six).
        replicates: Bootstrap replicates.
        max_size: Largest sketch allowed; the bound then says what was reached.
        left: Compute left vectors too.
        seed: The result depends on it alone.
        memory_limit: Bytes that may be taken; None is what the machine has free.
        progress: Called with the rows read so far in the current pass.
        resume: Folder that keeps the state of an interrupted call; the same call goes on from it and then removes it.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import svd
        >>> A = np.random.default_rng(0).standard_normal((5000, 40)) / np.arange(1, 41)
        >>> result = svd(A, 3, tol=0.2)
        >>> result.s.shape, result.bounds is not None
        ((3,), True)
    """
    options = {k: v for k, v in locals().items() if k not in ("A", "rank", "tol")}
    rows, flip = as_rows(A)
    return to_tolerance(rows, flip, rank, tol, **options)


def to_tolerance(
    rows: Rows,
    flip: bool,
    rank: int,
    tol: float,
    *,
    target: str,
    alpha: float,
    sketch_method: str,
    method: str,
    replicates: int,
    max_size: int | None,
    left: bool,
    seed: int,
    memory_limit: float | None,
    progress: Any,
    resume: Path | str | None,
    centre: tuple[Centre, Centre] | None = None,
) -> SketchedSVDResult:
    """:func:`svd` of rows; ``centre`` maps the sketch and the Gram matrix of rows to those of centred rows."""
    check(SVD_RULES, locals(), "svd")
    watch = as_watch(progress, resume)
    if rows.one_shot:
        raise ArgumentError(
            "svd: A is an iterator that can be read only once; pass a function that returns a fresh iterator of blocks, "
            "or use sketched_svd"
        )
    if rows.n is None:
        count = Sum((), np.int64, lambda block: len(block.energy))
        watch.run(rows, count, "count")
        rows.n = int(count.total)
    _check_rank(rows, rank, "svd")
    _plan_left(rows, rank, left or flip, memory_limit)
    if max_size is not None and max_size < rank:
        raise ArgumentError(f"svd: max_size must be at least rank ({rank}), got {max_size}")
    size = min(_first_size(rows, rank, sketch_method), max_size or rows.n)
    history: list[tuple[int, float]] = []
    stage, planned, last = 0, 0, 1 if method == "two_stage" else 6
    to_sketch, to_gram = centre or (None, None)
    while True:
        reason = None if max_size is not None else _why_exact(rows, size, rank, memory_limit)
        if reason is not None:
            result = exact_from(
                rows,
                rank,
                flip,
                f"a sketch of {reason}: exact",
                alpha=alpha,
                history=tuple(history),
                left=left,
                limit=memory_limit,
                watch=watch,
                centre_gram=to_gram,
            )
            watch.forget()
            return result
        found = sketch(rows, size, method=sketch_method, seed=seed + stage, memory_limit=memory_limit, progress=watch)
        if to_sketch is not None:
            found = replace(found, matrix=to_sketch(found.matrix))
        s, V = found.spectrum(rank)
        check_scale(rows, float(s[0]), found.method)
        result = turned(None, s[:rank], V[:, :rank], flip, found)
        spans = (rank,) if target == "subspace" else ()
        bounds = bootstrap_error(
            result, alpha=alpha, replicates=replicates, subspace=spans, seed=seed + stage, quiet=True
        )
        q = _bound(bounds, target, rank, s[0])
        history.append((size, q))
        if planned == last or size == max_size or q <= tol:
            break
        if target != "values" and q > max(PILOT, tol):
            # near its limit of one a sine says only how much is needed at least: look again before planning
            least = int(size * (q / tol) ** 2)
            grown = least if least >= rows.n / 2 and max_size is None else 4 * size
        else:
            grown, planned = int(np.ceil(size * max(1.1, (1.1 * q / tol) ** 2))), planned + 1
        size, stage = (min(grown, max_size) if max_size is not None else grown), stage + 1
    if q > 1.25 * tol:
        short = "max_size keeps it from growing" if size == max_size else "ask for a smaller tol or method='iterate'"
        bounds = replace(
            bounds, warnings=(*bounds.warnings, f"the bound, {q:.3g}, is above the tolerance {tol:g}: {short}")
        )
    for message in bounds.warnings:
        warn(message)
    U = left_vectors(rows, V[:, :rank], watch) if flip or (left and centre is None) else None
    watch.forget()
    stages = "one stage" if len(history) == 1 else f"{len(history)} stages"
    note = f"{found.method} sketch of {found.size} rows, {stages}"
    return turned(U, s[:rank], V[:, :rank], flip, found, bounds, tuple(history), note)


def _check_rank(rows: Rows, rank: int, where: str) -> None:
    small = rows.d if rows.n is None else min(rows.n, rows.d)
    if rank >= small:
        raise ArgumentError(f"{where}: rank must be below min(n, d) = {small}, got {rank}; a full SVD is numpy's")


def _first_size(rows: Rows, rank: int, method: str) -> int:
    """Rows of the first sketch: more where a row costs next to nothing beside the pass over A."""
    least = max(10 * rank, 100 + rank + 1)
    cheap = method in ("auto", *SCATTERING, *SAMPLING)
    return max(least, 500) if cheap and (rows.n or 0) >= 20_000 else least


def _plan_left(rows: Rows, k: int, left: bool, limit: float | None) -> None:
    if left and not rows.one_shot:
        need = 3.0 * (rows.n or 0) * k * rows.dtype.itemsize
        plan_memory(need, f"{k} left vectors of {rows.n} entries", "leave them out (left=False)", limit)


def _bound(bounds: ErrorBounds, target: str, rank: int, scale: float) -> float:
    if target == "subspace":
        return bounds.subspace[rank]
    q = bounds.simultaneous[target]
    return q / scale if target == "values" and scale > 0 else q


def _why_exact(rows: Rows, size: int, rank: int, limit: float | None) -> str | None:
    if size >= (rows.n or 0) / 2:
        return f"half of the {rows.n} rows or more would be needed"
    if _exact_is_cheaper(rows, size, rank):
        return f"{size} rows would cost as much"
    allowed = available_memory() if limit is None else limit
    if 3.5 * size * rows.d * rows.dtype.itemsize > allowed and size > 2 * rows.d:
        return f"{size} rows would not fit into memory"
    return None


def _exact_is_cheaper(rows: Rows, t: int, rank: int) -> bool:
    """Compare operations; a scattered row costs about 20 per entry, being bound by memory and not by arithmetic."""
    n, d, m = float(rows.n or 0), float(rows.d), float(min(t, rows.d))
    solve = 2 * t * d * m + 15 * m**3
    if rows.sparse:
        # Lanczos reads the entries twice an iteration, at some 10 operations each time
        return rows.entries is not None and d > LANCZOS_COLUMNS and 20.0 * rows.entries * (100 + 10 * rank) <= solve
    return 2 * n * d * d + 15 * d**3 <= 20 * n * d + solve
