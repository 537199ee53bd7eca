"""Explicit Runge-Kutta schemes as data.

    k_j = f(x + h Σ_{l<j} a_jl k_l,  t + c_j h),      x⁺ = x + h Σ_j b_j k_j

Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I; as used in arXiv:2008.02389 and arXiv:2006.12070.
Differs from the released code: ``rk4`` is the classical rule; torchdiffeq's ``rk4`` is the 3/8 rule, here ``rk4_38``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .._checks import nearest
from .._errors import ArgumentError


@dataclass(frozen=True)
class Tableau:
    """A scheme: nodes ``c``, strictly lower triangular rows ``a``, weights ``b``, all exact; ``order`` of convergence."""

    name: str
    order: int
    c: tuple[Fraction, ...]
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]

    @property
    def stages(self) -> int:
        """Evaluations of the right-hand side in one step."""
        return len(self.b)


def _tableau(name: str, order: int, a: tuple[tuple[str, ...], ...], b: tuple[str, ...]) -> Tableau:
    rows = tuple(tuple(Fraction(v) for v in row) for row in a)
    return Tableau(name, order, tuple(sum(row, Fraction(0)) for row in rows), rows, tuple(Fraction(v) for v in b))


TABLEAUS: dict[str, Tableau] = {
    t.name: t
    for t in (
        _tableau("euler", 1, ((),), ("1",)),
        _tableau("midpoint", 2, ((), ("1/2",)), ("0", "1")),
        _tableau("heun", 2, ((), ("1",)), ("1/2", "1/2")),
        _tableau("ralston", 2, ((), ("2/3",)), ("1/4", "3/4")),
        _tableau("kutta3", 3, ((), ("1/2",), ("-1", "2")), ("1/6", "2/3", "1/6")),
        _tableau("ssprk3", 3, ((), ("1",), ("1/4", "1/4")), ("1/6", "1/6", "2/3")),
        _tableau("rk4", 4, ((), ("1/2",), ("0", "1/2"), ("0", "0", "1")), ("1/6", "1/3", "1/3", "1/6")),
        _tableau("rk4_38", 4, ((), ("1/3",), ("-1/3", "1"), ("1", "-1", "1")), ("1/8", "3/8", "3/8", "1/8")),
    )
}
_ALIASES = {"rk4_classic": "rk4", "rk4_alt": "rk4_38", "heun2": "heun", "ralston2": "ralston"}


def tableau(name: str) -> Tableau:
    """The scheme of that name; the aliases of the released codes are understood.

    Args:
        name: One of ``euler midpoint heun ralston kutta3 ssprk3 rk4 rk4_38``.

    Raises:
        ArgumentError: There is no such scheme.

    Example:
        >>> tableau("rk4_38").b[1]
        Fraction(3, 8)
    """
    found = TABLEAUS.get(_ALIASES.get(name, name))
    if found is None:
        raise ArgumentError(f"solver must be one of {', '.join(TABLEAUS)}, got {name!r}{nearest(name, TABLEAUS)}")
    return found


def rk_step(scheme: Tableau, f: Callable[[Any], Any], x: Any, h: Any) -> Any:
    """One step of an autonomous system; the state is added last, so that small increments keep their digits."""
    slopes: list[Any] = []
    for row in scheme.a:
        increment = _combine(row, slopes)
        slopes.append(f(x if increment is None else x + h * increment))
    return x + h * _combine(scheme.b, slopes)


def _combine(weights: tuple[Fraction, ...], slopes: list[Any]) -> Any:
    total = None
    for weight, slope in zip(weights, slopes):
        if weight != 0:
            term = slope if weight == 1 else float(weight) * slope
            total = term if total is None else total + term
    return total
