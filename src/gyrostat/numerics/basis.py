"""Functions of depth: theta(t) = sum_k phi_k(t) theta_k on [0, 1], evaluated in exact rational arithmetic.

Source: ContinuousNet, arXiv:2008.02389; Stateful ODE-Nets, arXiv:2106.10820 (piecewise constant, hat, discontinuous
linear and affine bases; the modal bases and the B-splines are additions).
Differs from the released code: the cell of t is found with fractions, never with ``int(K * t)`` on a float (which picks
wrong cells for many K); every basis has one-sided limits; refinement exists for all bases.

A basis is a frozen dataclass without tensors: hashable, comparable, printable. The piecewise families stand here, the
global ones in ``modal.py``, their names in ``families.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from .._checks import Integer
from .._errors import ArgumentError

Side = Literal["left", "right"]


def as_fraction(t: Fraction | float) -> Fraction:
    """The depth that a float stands for: the nearest fraction with a denominator up to 4096 if it rounds to that float."""
    exact = Fraction(t)
    if isinstance(t, Fraction):
        return exact
    simple = exact.limit_denominator(4096)
    return simple if float(simple) == float(t) else exact


def cell(t: Fraction, n: int, side: Side = "right") -> int:
    """Index of the cell that ``t`` lies in, among ``n`` equal cells of [0, 1].

    Right-continuous, the last cell closed; ``side="left"`` takes the cell that ends in ``t``.
    """
    scaled = t * n
    index = math.floor(scaled)
    if side == "left" and scaled == index:
        index -= 1
    return min(max(index, 0), n - 1)


@dataclass(frozen=True)
class Basis:
    """A family of K functions on [0, 1].

    Args:
        K: Number of functions, and of coefficient nodes.
    """

    K: int

    name: ClassVar[str] = "basis"
    discontinuous: ClassVar[bool] = False
    modal: ClassVar[bool] = False
    trigonometric: ClassVar[bool] = False
    nonnegative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Integer(low=1).check("K", self.K, type(self).__name__)

    @property
    def degree(self) -> int:
        """Polynomial degree inside a cell (0 for trigonometric bases, which are integrated on panels)."""
        return 0

    def breakpoints(self) -> tuple[Fraction, ...]:
        """Ends of the cells inside which every function is smooth, with 0 and 1."""
        return (Fraction(0), Fraction(1))

    def row(self, t: Fraction | float, side: Side = "right") -> np.ndarray:
        """The values phi_0(t), ..., phi_{K-1}(t).

        Args:
            t: Depth in [0, 1], a ``Fraction`` or a float (``1/3`` is read as one third).
            side: Which limit to take where a function jumps.

        Returns:
            Array of shape ``(K,)``, float64.
        """
        exact = as_fraction(t)
        if not 0 <= exact <= 1:
            raise ArgumentError(f"{self!r}: t must lie in [0, 1], got {float(t):g}")
        return self._row(exact, side)

    def rows(self, times: Iterable[Fraction | float], side: Side = "right") -> np.ndarray:
        """:meth:`row` at several depths: ``(len(times), K)``."""
        found = [self.row(t, side) for t in times]
        return np.array(found).reshape(len(found), self.K)

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} has no functions of its own; use PiecewiseConstant, Hat, ...")

    def constant(self) -> np.ndarray:
        """Coefficients ``(K,)`` of the function that is 1 everywhere."""
        one = np.zeros(self.K) if self.modal else np.ones(self.K)
        one[0] = 1.0
        return one

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """Depths (and sides) at which interpolation reads the function."""
        # Chebyshev-Gauss points keep the Vandermonde matrix of a modal basis well conditioned
        return [(0.5 - 0.5 * math.cos(math.pi * (2 * i + 1) / (2 * self.K)), "right") for i in range(self.K)]

    def resized(self, K: int) -> Basis:
        """The same family with another K."""
        return type(self)(K)

    def fits(self, K: int) -> bool:
        """Whether this family exists with ``K`` functions."""
        try:
            self.resized(K)
        except ArgumentError:
            return False
        return True

    def refine(self, factor: int = 2) -> tuple[Basis, np.ndarray]:
        """A larger space of the same family that contains this one, and the exact embedding.

        Args:
            factor: Into how many cells each cell is split (modal bases: by how much K grows).

        Returns:
            The new basis and the operator ``(K_new, K)`` on stacked coefficients.
        """
        Integer(low=1).check("factor", factor, f"{type(self).__name__}.refine")
        return self._refine(factor)

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        larger = self.resized(self.K * factor)
        return larger, np.eye(larger.K, self.K)

    def spec(self) -> str:
        """The basis as one word, ``hat:4`` or ``bspline:6:3``, as the command line takes it."""
        return f"{self.name}:{self.K}"


@dataclass(frozen=True)
class PiecewiseConstant(Basis):
    """K equal cells, one value each: K residual units.

    Args:
        K: Number of cells.

    Example:
        >>> PiecewiseConstant(4).row(0.25).tolist()
        [0.0, 1.0, 0.0, 0.0]
        >>> PiecewiseConstant(4).row(0.25, side="left").tolist()
        [1.0, 0.0, 0.0, 0.0]
    """

    name: ClassVar[str] = "piecewise_constant"
    discontinuous: ClassVar[bool] = True

    def breakpoints(self) -> tuple[Fraction, ...]:
        """Ends of the cells."""
        return tuple(Fraction(i, self.K) for i in range(self.K + 1))

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        row = np.zeros(self.K)
        row[cell(t, self.K, side)] = 1.0
        return row

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """Middles of the cells."""
        return [(Fraction(2 * i + 1, 2 * self.K), "right") for i in range(self.K)]

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        return PiecewiseConstant(self.K * factor), np.repeat(np.eye(self.K), factor, axis=0)


@dataclass(frozen=True)
class Hat(Basis):
    """Continuous and linear between K equally spaced points (linear finite elements); K = 1 is a constant.

    Args:
        K: Number of points.

    Example:
        >>> Hat(3).row(0.25).tolist()
        [0.5, 0.5, 0.0]
    """

    name: ClassVar[str] = "hat"

    @property
    def degree(self) -> int:
        """1, or 0 for a single point."""
        return min(self.K - 1, 1)

    def breakpoints(self) -> tuple[Fraction, ...]:
        """The points (kinks)."""
        elements = max(self.K - 1, 1)
        return tuple(Fraction(i, elements) for i in range(elements + 1))

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        row = np.zeros(self.K)
        if self.K == 1:
            row[0] = 1.0
            return row
        e = cell(t, self.K - 1, side)
        a = t * (self.K - 1) - e
        row[e], row[e + 1] = float(1 - a), float(a)
        return row

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """The points; the middle for K = 1."""
        if self.K == 1:
            return [(Fraction(1, 2), "right")]
        return [(Fraction(i, self.K - 1), "right") for i in range(self.K)]

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        finer = Hat(factor if self.K == 1 else (self.K - 1) * factor + 1)
        return finer, np.array([self.row(t) for t, _ in finer.nodes()])


@dataclass(frozen=True)
class DGLinear(Basis):
    """Linear on K/2 equal elements, with jumps between them (discontinuous Galerkin).

    Args:
        K: Twice the number of elements: left and right value of each.

    Example:
        >>> DGLinear(4).row(0.75).tolist()
        [0.0, 0.0, 0.5, 0.5]
    """

    name: ClassVar[str] = "dg_linear"
    discontinuous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.K % 2:
            raise ArgumentError(
                f"DGLinear: K must be even (left and right value of each element), got {self.K}; use {self.K + 1}"
            )

    @property
    def degree(self) -> int:
        """1."""
        return 1

    def breakpoints(self) -> tuple[Fraction, ...]:
        """Ends of the elements."""
        n = self.K // 2
        return tuple(Fraction(i, n) for i in range(n + 1))

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        row = np.zeros(self.K)
        e = cell(t, self.K // 2, side)
        a = t * (self.K // 2) - e
        row[2 * e], row[2 * e + 1] = float(1 - a), float(a)
        return row

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """Both ends of each element, from inside."""
        n = self.K // 2
        return [(Fraction(e + after, n), "left" if after else "right") for e in range(n) for after in (0, 1)]

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        finer = DGLinear(self.K * factor)
        return finer, np.array([self.row(t, side) for t, side in finer.nodes()])


@dataclass(frozen=True)
class BSpline(Basis):
    """Clamped uniform B-splines on K - degree equal spans.

    Args:
        K: Number of de Boor coefficients, at least ``degree + 1``.
        degree: Polynomial degree, at least 1.

    Example:
        >>> BSpline(4, degree=3).row(0.5).tolist()
        [0.125, 0.375, 0.375, 0.125]
    """

    degree: int = 3  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    name: ClassVar[str] = "bspline"

    def __post_init__(self) -> None:
        super().__post_init__()
        Integer(low=1).check("degree", self.degree, "BSpline")
        if self.degree >= self.K:
            raise ArgumentError(
                f"BSpline: K must be at least degree + 1 = {self.degree + 1}, got {self.K}; "
                "take more coefficients or a lower degree"
            )

    def resized(self, K: int) -> Basis:
        """The same degree with another K."""
        return BSpline(K, self.degree)

    def breakpoints(self) -> tuple[Fraction, ...]:
        """Ends of the spans."""
        spans = self.K - self.degree
        return tuple(Fraction(i, spans) for i in range(spans + 1))

    def _knot(self, i: int) -> Fraction:
        spans = self.K - self.degree
        return Fraction(min(max(i - self.degree, 0), spans), spans)

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        span = cell(t, self.K - self.degree, side) + self.degree
        local = [Fraction(1)]
        for d in range(1, self.degree + 1):
            nxt = [Fraction(0)] * (d + 1)
            for r in range(d):
                left, right = self._knot(span + 1 + r - d), self._knot(span + 1 + r)
                share = local[r] / (right - left)
                nxt[r] += (right - t) * share
                nxt[r + 1] += (t - left) * share
            local = nxt
        row = np.zeros(self.K)
        row[span - self.degree : span + 1] = [float(v) for v in local]
        return row

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """Greville points."""
        d = self.degree
        return [(sum((self._knot(i + j) for j in range(1, d + 1)), Fraction(0)) / d, "right") for i in range(self.K)]

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        finer = BSpline((self.K - self.degree) * factor + self.degree, self.degree)
        points = [t for t, _ in finer.nodes()]
        # the spaces are nested, so collocation at the Greville points is knot insertion
        return finer, np.linalg.solve(finer.rows(points), self.rows(points))

    def spec(self) -> str:
        """``bspline:K:degree``."""
        return f"{self.name}:{self.K}:{self.degree}"
