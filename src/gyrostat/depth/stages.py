"""When and where a block evaluates its unit: t_s = (i + c_j) h in exact fractions, phi_k(t_s) as sparse rows.

Source: ContinuousNet, arXiv:2008.02389; Stateful ODE-Nets, arXiv:2106.10820.
Differs from the released code: a stage at c = 1 reads the left limit of theta exactly, so that a step never looks into
the next cell; the releases subtract 1e-15 (nothing in float32) or 1e-5 (a floor under the error) from its time.
``open_set="legacy_torch32"`` and ``"legacy_jax"`` bring those back, for reproduction only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .._checks import Integer, OneOf, check
from ..numerics.basis import Basis, Side
from ..numerics.projection import sample_rows
from ..numerics.tableau import Tableau, tableau

GRIDS = ("uniform", "aligned")
OPEN_SETS = ("left", "legacy_jax", "legacy_torch32")
RULES = {"n_steps": Integer(low=1), "grid": OneOf(GRIDS), "open_set": OneOf(OPEN_SETS)}
_JAX_NUDGE = Fraction(1, 100_000)


class GridAlignmentWarning(UserWarning):
    """A step of the solver jumps over a discontinuity of theta: every scheme is then of first order."""


@dataclass(frozen=True, eq=False)
class StageTable:
    """Everything a solver needs to know before it starts; no tensors.

    Attributes:
        scheme: The Runge-Kutta scheme.
        grid: Ends of the steps, from 0 to 1.
        times: Depth of each stage, step by step.
        sides: Which limit each stage reads.
        phi: Values of the basis, ``(n_stages, K)``.
        row: For each stage, the index of its row among the distinct ones.
        terms: For each distinct row, its nonzero entries as ``(k, value)``.
        fit: The pseudo-inverse of ``phi``, ``(K, n_stages)``, and ``phi`` itself, as nested lists.
        a: For each step, the rows scale h a_jl as floats.
        b: For each step, the weights scale h b_j as floats.
    """

    scheme: Tableau
    grid: tuple[Fraction, ...]
    times: tuple[Fraction, ...]
    sides: tuple[Side, ...]
    phi: np.ndarray
    row: tuple[int, ...]
    terms: tuple[tuple[tuple[int, float], ...], ...]
    fit: tuple[list[list[float]], list[list[float]]]
    a: tuple[tuple[tuple[float, ...], ...], ...]
    b: tuple[tuple[float, ...], ...]

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return len(self.grid) - 1


def off_grid(basis: Basis, n_steps: int) -> list[Fraction]:
    """Jumps of the basis that the uniform grid of ``n_steps`` steps does not hit."""
    if not basis.discontinuous:
        return []
    return [t for t in basis.breakpoints() if (t * n_steps).denominator != 1]


def warn_if_misaligned(basis: Basis, n_steps: int, grid: str, where: str) -> None:
    """Warn once when steps jump over discontinuities."""
    missed = off_grid(basis, n_steps) if grid == "uniform" else []
    if missed:
        cells = len(basis.breakpoints()) - 1
        warnings.warn(
            f"{where}: {n_steps} steps jump over {len(missed)} of the {cells - 1} discontinuities of {basis!r}, so every "
            f'solver is of first order; take a multiple of {cells} steps or grid="aligned"',
            GridAlignmentWarning,
            stacklevel=3,
        )


@lru_cache(maxsize=256)
def stage_table(
    basis: Basis, solver: str, n_steps: int, grid: str = "uniform", open_set: str = "left", scale: float = 1.0
) -> StageTable:
    """The stages of one pass from depth 0 to depth 1.

    Args:
        basis: Functions of depth.
        solver: Name of the scheme.
        n_steps: Number of equal steps.
        grid: ``"uniform"``, or ``"aligned"`` to end a step at every breakpoint of the basis too.
        open_set: What a stage at the end of a step reads: ``"left"`` limit, or a released behaviour.
        scale: Factor of the rate; folded into the coefficients exactly, so that scale = n_steps makes Euler add R(x).

    Raises:
        ArgumentError: An unknown name, or fewer than one step.
    """
    check(RULES, locals(), "ContinuousBlock")
    scheme = tableau(solver)
    ends = {Fraction(i, n_steps) for i in range(n_steps + 1)}
    if grid == "aligned":
        ends |= set(basis.breakpoints())
    steps = tuple(sorted(ends))
    times: list[Fraction] = []
    sides: list[Side] = []
    for start, end in pairwise(steps):
        for c in scheme.c:
            t = start + c * (end - start)
            last = c == 1
            if last and open_set == "legacy_jax":
                t -= _JAX_NUDGE
            times.append(t)
            sides.append("left" if last and open_set == "left" else "right")
    phi = sample_rows(basis, times, sides)
    distinct, row = np.unique(phi, axis=0, return_inverse=True)
    terms = tuple(tuple((int(k), float(r[k])) for k in np.flatnonzero(r)) or ((0, 0.0),) for r in distinct)
    widths = [Fraction(scale) * (end - start) for start, end in pairwise(steps)]
    return StageTable(
        scheme,
        steps,
        tuple(times),
        tuple(sides),
        phi,
        tuple(int(r) for r in row.ravel()),
        terms,
        (np.linalg.pinv(phi).tolist(), phi.tolist()),
        tuple(tuple(tuple(float(h * v) for v in coefficients) for coefficients in scheme.a) for h in widths),
        tuple(tuple(float(h * v) for v in scheme.b) for h in widths),
    )
