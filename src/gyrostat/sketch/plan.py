"""cost = 20nd + 2tdm + 15m³ + 700r²t of a sketch and its bars,  7ndc of c columns of a refinement,  2nd² + 15d³ exactly.

m = min(t, d), r directions of the bootstrap; in operations of a matrix product. Of a sparse matrix 500 for each of its nnz
entries, 100 for each and each column, and 1,000 nnz²/n + 15d³. A scattered row costs about 20 for each number, being bound by
memory and not by arithmetic. What a refinement needs comes from the sketch's own spectrum: that part of its leading m vectors
which first-order perturbation theory expects to be missing, and a gain of each further pass by x + √(x² - 1),
x = 2 s_k²/μ - 1, that of a Chebyshev polynomial.

Source: Golub and Van Loan, Matrix Computations; Saad, Numerical Methods for Large Eigenvalue Problems; not in arXiv:2003.04937.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._memory import available_memory
from .beyond import directions
from .exact import LANCZOS_COLUMNS
from .refine import Errors, errors_of, norm_beyond, outlook
from .replicates import COHERENT
from .rows import Rows
from .scatter import SCATTERING
from .sketches import Sketch
from .stream import SAMPLING

AWAY = 40e6  # bytes of sums from which on they are as far as the matrix itself
PASS = 5e7  # what surrounds a pass of a refinement
STEP = 8  # columns that a product takes at once
MOST = 64  # columns beyond those wanted
REACH = 0.5  # of the tolerance: what a plan aims at
FAINT = 1e-5  # of the largest value: below it the Gram matrix that a refinement works with is too coarse


@dataclass(frozen=True)
class Plan:
    """A refinement: ``columns`` in the first pass, ``fresh`` in each other, and what a further pass gains."""

    columns: int
    fresh: int
    gain: float
    cost: float


def reading_cost(rows: Rows) -> float:
    """One pass."""
    return 500.0 * _entries(rows) if rows.sparse else 20.0 * _entries(rows)


def solve_cost(rows: Rows, t: int) -> float:
    """Spectrum of a sketch of t rows."""
    m = float(min(t, rows.d))
    return 2 * t * rows.d * m + 15 * m**3


def sketch_cost(rows: Rows, t: int, rank: int, method: str) -> float:
    """Sketch, spectrum and the error bars of ``rank`` components."""
    away = min(1.2, 16.0 * t * rows.d / AWAY)
    drawn = t / float(rows.n or t) if method == "uniform" and rows.random_access else 1.0
    return reading_cost(rows) * (1 + away) * drawn + solve_cost(rows, t) + 700.0 * directions(rank) ** 2 * t


def exact_cost(rows: Rows, rank: int, limit: float | None) -> float:
    """The exact path; inf where it does not fit into memory or nobody can say."""
    n, d, read = float(rows.n or 1), float(rows.d), _entries(rows)
    if not (rows.sparse and d > LANCZOS_COLUMNS) and not _fits(rows, d, limit):
        return np.inf
    if not rows.sparse:
        return 2 * read * d + 15 * d**3
    if rows.entries is None:
        return np.inf
    return 200.0 * read * (100 + 10 * rank) if d > LANCZOS_COLUMNS else 1000.0 * read * read / n + 15 * d**3


def refine_cost(rows: Rows, columns: int) -> float:
    """One pass with so many columns."""
    # as the kernel does it, kernel or not: the result of a seed does not depend on how the package was installed
    each = 100.0 if rows.sparse else 7.0 if rows.dtype == np.float64 else 35.0
    return PASS + max(reading_cost(rows), each * _entries(rows) * columns)


def first_size(rows: Rows, rank: int, method: str) -> int:
    """Rows of the first sketch: more where they cost next to nothing beside the pass over A."""
    least = max(10 * rank, 100 + rank + 1)
    if method not in ("auto", *SCATTERING, *SAMPLING) or (rows.n or 0) < 20_000:
        return least
    size = max(least, 500)
    while size > least and solve_cost(rows, size) > reading_cost(rows) / 2:
        size = max(least, 9 * size // 10)
    return size


def why_exact(rows: Rows, size: int, rank: int, method: str, limit: float | None, spent: float = 0.0) -> str | None:
    """Why a sketch of ``size`` rows, after ``spent`` on pilots, is no better than the exact path; None where it is."""
    if size >= (rows.n or 0) / 2:
        return f"half of the {rows.n} rows or more would be needed"
    # a wide sketch of a sparse matrix is dense, and one is seldom enough
    stages = 4 if rows.sparse and rows.d > LANCZOS_COLUMNS else 1
    if exact_cost(rows, rank, limit) <= stages * sketch_cost(rows, size, rank, method) + spent:
        return f"{size} rows would cost as much"
    if not _fits(rows, size, limit) and size > 2 * rows.d:
        return f"{size} rows would not fit into memory"
    return None


def plan_refinement(
    rows: Rows, found: Sketch, rank: int, tol: float, size: int, limit: float | None, error: Callable[[Errors], float]
) -> Plan | None:
    """The cheapest refinement of a sketch to a tolerance; None where a sketch of ``size`` rows or the exact path costs less.

    Args:
        rows: The matrix.
        found: Its sketch.
        rank: Triplets wanted.
        tol: To what.
        size: Rows of the sketch that would do instead.
        limit: Bytes that may be taken.
        error: Which of the errors counts.
    """
    s = found.spectrum(rank)[0]
    # the spectrum of rows that matter little would mislead the plan
    if s[rank - 1] < FAINT * s[0] or (found.method == "uniform" and found.coherence > COHERENT):
        return None
    # what leaves no error is worth twice its price
    other = exact_cost(rows, rank, limit) / 2
    if size < (rows.n or 0) / 2 and _fits(rows, size, limit):
        other = min(other, sketch_cost(rows, size, rank, found.method))
    fresh, best = STEP * -(-rank // STEP), None
    for m in range(STEP * -(-(rank + 1) // STEP), min(rank + MOST, len(s) - 1, rows.d - 1) + 1, STEP):
        mu = norm_beyond(found, rank, m)
        x = 2 * s[rank - 1] ** 2 / mu - 1
        if x <= 1:
            continue
        gain = float(x + np.sqrt(x * x - 1))
        start = error(errors_of(s[:m], outlook(found, rank, m)[1], mu, rank))
        more = int(np.ceil(max(0.0, np.log(start / (REACH * tol)) / np.log(gain))))
        cost = refine_cost(rows, m) + more * refine_cost(rows, fresh)
        if cost < (other if best is None else best.cost):
            best = Plan(m, fresh, gain, cost)
    return best


def _entries(rows: Rows) -> float:
    return float(rows.entries) if rows.entries is not None else float(rows.n or 0) * rows.d


def _fits(rows: Rows, size: float, limit: float | None) -> bool:
    allowed = available_memory() if limit is None else limit
    return 3.5 * size * rows.d * rows.dtype.itemsize <= allowed
