"""S A ≈ Ũ diag(s̃) Ṽᵀ:  right vectors and values of A from its sketch, left vectors A ṽ_j/|A ṽ_j| in one more pass.

``sketched_svd`` takes the sketch it is told to, ``svd`` what a tolerance needs (``tolerance.py``).

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937.
Differs from the released code: a tolerance, any source of rows, refined triplets that keep bounds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Integer, OneOf, check
from .._errors import ArgumentError
from .exact import check_scale, left_vectors
from .passes import as_watch
from .refine import refined
from .result import SketchedSVDResult, turned
from .rows import as_rows
from .sketches import METHODS, sketch
from .tolerance import COMMON, check_rank, plan_left, to_tolerance
from .warning import warn

RULES = {
    **COMMON,
    "sketch_size": Integer(low=1),
    "method": OneOf((*METHODS, "auto")),
    "power": Integer(low=0, high=2),
    "refine": Integer(low=0),
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
        refine: Columns m of a final Rayleigh-Ritz step (one pass more), whose triplets come with bounds of their own; 0
            leaves the sketch's own vectors. :func:`svd` refines as far as a tolerance needs.
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
    check_rank(rows, rank, "sketched_svd")
    if sketch_size < rank:
        raise ArgumentError(
            f"sketched_svd: sketch_size must be at least rank ({rank}), got {sketch_size}; 10 times the rank is a start"
        )
    plan_left(rows, rank, left or flip, memory_limit)
    if refine and rows.one_shot:
        raise ArgumentError(
            "sketched_svd: refine reads A once more, but A is an iterator that can be read only once; "
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
    check_rank(rows, rank, "sketched_svd")
    s, V = found.spectrum(rank)
    check_scale(rows, float(s[0]) ** (1.0 / (2 * power + 1)), method)
    if power and s[rank - 1] < 1e-12 * s[0]:
        warn(
            f"a power sketch raises singular values to the {2 * power + 1}th power, and the {rank}th is lost in rounding "
            "there: use a smaller power or rank, or refine instead"
        )
    note = f"{found.method} sketch of {sketch_size} rows"
    wanted = (left or flip) and not rows.one_shot
    bounds = None
    if refine:
        U, values, V, bounds = refined(rows, found, rank, max(rank, refine), flip, wanted, watch)
        for message in () if bounds is None else bounds.warnings:
            warn(message)
        note += f", refined in 1 pass over {max(rank, refine)} columns"
    else:
        values, V = s[:rank] ** (1.0 / (2 * power + 1)), V[:, :rank]
        U = left_vectors(rows, V, watch) if wanted else None
    watch.forget()
    return replace(turned(U, values, V, flip, found, bounds, note=note), passes=1 if refine else 0)


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

    A first sketch says what is missing; then a larger sketch, a refined one or the exact path follows, whichever costs least,
    and ``note`` says which. The promise is ``tol``: a final bound somewhat above it is reported as it is, and bounds of a
    size that was chosen by looking at bounds are a little optimistic.

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
        max_size: Largest sketch allowed; nothing but sketches is tried then, and the bound says what was reached.
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
