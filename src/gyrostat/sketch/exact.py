"""Factors without a sketch: the Gram matrix AᴴA = V diag(s²) Vᴴ in one pass, dense where A is small, Lanczos where wide.

A Gram matrix squares the condition number: where s_k < 1e-6 s_1 its eigenvectors only span the space in which a
Rayleigh-Ritz step (two more passes) finds the triplets. Sparse matrices with many columns never get a Gram matrix of
d x d numbers: Lanczos iterates on x ↦ Aᴴ(A x) instead.

Source: Golub and Van Loan, Matrix Computations. Differs from arXiv:2003.04937: the released code has no exact path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg as spl

from .._errors import DataError
from .._memory import plan_memory
from .._rng import numpy_stream
from .bootstrap import bootstrap_error
from .passes import Sum, Times, Watch, as_watch, digest
from .result import SketchedSVDResult, turned
from .rows import Rows, as_rows
from .sketches import REMEDY
from .warning import warn

SMALL = 1 << 18
LANCZOS_COLUMNS = 1500
FAINT = 1e-140


def exact_svd(A: Any, rank: int, *, memory_limit: float | None = None, progress: Any = None) -> SketchedSVDResult:
    """Leading singular triplets without a sketch."""
    rows, flip = as_rows(A)
    return exact_from(rows, rank, flip, "exact", limit=memory_limit, watch=as_watch(progress))


def exact_from(
    rows: Rows,
    rank: int,
    flip: bool,
    note: str,
    *,
    alpha: float = 0.05,
    history: tuple[tuple[int, float], ...] = (),
    left: bool = True,
    limit: float | None = None,
    watch: Watch,
    centre_gram: Callable[[np.ndarray], np.ndarray] | None = None,
) -> SketchedSVDResult:
    """Exact triplets of rows, turned back if ``flip``.

    ``centre_gram`` maps the Gram matrix to that of centred rows; their vectors along the rows are then computed only where
    they are right vectors of the matrix that was given (``flip``).
    """
    d, n = rows.d, rows.n or 0
    U: np.ndarray | None = None
    how = "by the Gram matrix"
    if n * d <= SMALL and centre_gram is None:
        dense = np.concatenate([b.data.toarray() if rows.sparse else b.data for b in rows.blocks()])
        U, s, Vh = np.linalg.svd(dense, full_matrices=False)
        U, s, V = U[:, :rank], s[:rank], Vh[:rank].conj().T
        how = "by a dense SVD"
    elif rows.sparse and d > LANCZOS_COLUMNS and centre_gram is None and rank < d // 10:
        s, V = _lanczos(rows, rank)
        U = left_vectors(rows, V, watch) if left or flip else None
        how = "by Lanczos iteration"
    else:
        plan_memory(
            3.0 * d * d * rows.dtype.itemsize + (1 << 24), f"the exact Gram matrix of {d} columns", REMEDY, limit
        )
        work = Sum((d, d), rows.dtype, _gram)
        watch.run(rows, work, "gram")
        values, vectors = np.linalg.eigh(work.total if centre_gram is None else centre_gram(work.total))
        s, V = np.sqrt(np.maximum(values[::-1][:rank], 0.0)), vectors[:, ::-1][:, :rank]
        if s[-1] < 1e-6 * s[0] and centre_gram is None:
            U, s, V = rayleigh_ritz(rows, vectors[:, ::-1][:, : min(d, rank + 10)], rank, watch)
        elif flip or (left and centre_gram is None):
            # vectors of centred rows sum to zero, so turned rows need no centring here
            U = left_vectors(rows, V, watch)
    check_scale(rows, float(s[0]))
    bounds = bootstrap_error(turned(U, s, V, flip), alpha=alpha)
    return turned(U, s, V, flip, None, bounds, history, f"{note}, {how}")


def left_vectors(rows: Rows, V: np.ndarray, watch: Watch) -> np.ndarray:
    """A v_j/|A v_j| for the columns of V (d, k): (n, k), one pass."""
    work = Times(V)
    watch.run(rows, work, f"left-{digest(V)}")
    AV = work.finish()  # (n, k)
    norm = np.sqrt(np.einsum("ij,ij->j", AV.conj(), AV).real)
    AV /= np.where(norm > 0, norm, 1.0)
    return AV


def rayleigh_ritz(rows: Rows, V: np.ndarray, rank: int, watch: Watch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best triplets with left vectors in the span of A V: U (n, rank), s, V (d, rank), two passes."""
    first = Times(V)
    watch.run(rows, first, f"range-{digest(V)}")
    Q, _ = np.linalg.qr(first.finish())

    def back(block: Any) -> np.ndarray:
        return np.asarray(block.data.conj().T @ Q[block.start : block.start + len(block.energy)]).conj().T

    second = Sum((Q.shape[1], rows.d), Q.dtype, back)  # (m, d)
    watch.run(rows, second, f"ritz-{digest(V)}")
    W, s, Vh = np.linalg.svd(second.total, full_matrices=False)
    return Q @ W[:, :rank], s[:rank], Vh[:rank].conj().T


def check_scale(rows: Rows, largest: float, method: str = "") -> None:
    """Refuse a matrix whose squares vanish in float64: its singular values would come out as zero.

    Args:
        rows: The matrix; it is read once more where ``largest`` leaves a doubt.
        largest: Its largest singular value, as found.
        method: Sketch it was found by.

    Raises:
        DataError: Its numbers are not zero, but so small that their squares are.
    """
    if largest >= FAINT:
        return
    most = largest
    if not rows.one_shot:
        most = max(float(np.abs(b.data.data if rows.sparse else b.data).max(initial=0.0)) for b in rows.blocks())
    if 0 < most < FAINT:
        raise DataError("A: squares of its numbers vanish in float64; divide A by its largest entry first")
    if largest == 0 < most and method == "uniform":
        warn("all rows that were drawn are zero, but the matrix is not; use method='countsketch'")


def _gram(block: Any) -> Any:
    return block.data.conj().T @ block.data


def _lanczos(rows: Rows, rank: int) -> tuple[np.ndarray, np.ndarray]:
    def gram_times(x: np.ndarray) -> np.ndarray:
        return sum((b.data.conj().T @ (b.data @ x) for b in rows.blocks()), np.zeros(rows.d, rows.dtype))

    arpack: Any = spl
    operator = arpack.LinearOperator((rows.d, rows.d), matvec=gram_times, dtype=rows.dtype)
    start = numpy_stream(0, "lanczos").standard_normal(rows.d).astype(rows.dtype)
    values, vectors = arpack.eigsh(operator, rank, which="LA", v0=start, tol=1e-12)
    order = np.argsort(values)[::-1]
    return np.sqrt(np.maximum(values[order], 0.0)), vectors[:, order]
