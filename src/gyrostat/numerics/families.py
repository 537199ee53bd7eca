"""The basis families by name, as files and the command line write them."""

from __future__ import annotations

from typing import Any

from .._checks import nearest
from .._errors import ArgumentError
from .basis import Basis, BSpline, DGLinear, Hat, PiecewiseConstant
from .modal import AffineInDepth, Chebyshev, Cosine, Fourier, Legendre

BASES: dict[str, type[Basis]] = {
    b.name: b for b in (PiecewiseConstant, Hat, DGLinear, AffineInDepth, Legendre, Chebyshev, Cosine, Fourier, BSpline)
}
ALIASES = {
    "pc": "piecewise_constant",
    "constant": "piecewise_constant",
    "fem_linear": "hat",
    "dg": "dg_linear",
    "piecewise_linear": "dg_linear",
    "poly_linear": "affine",
}


def parse_basis(word: str) -> Basis:
    """A basis from its one-word form.

    Args:
        word: ``name:K``, for instance ``hat:4``, ``piecewise_constant:8``, ``bspline:6:3``, ``affine``.

    Raises:
        ArgumentError: The name is unknown or K does not fit.

    Example:
        >>> parse_basis("hat:4")
        Hat(K=4)
    """
    name, *numbers = str(word).split(":")
    family = BASES.get(ALIASES.get(name, name))
    if family is None:
        raise ArgumentError(f"basis must be one of {', '.join(BASES)}, got {name!r}{nearest(name, [*BASES, *ALIASES])}")
    try:
        sizes: Any = [int(n) for n in numbers]
    except ValueError:
        raise ArgumentError(f"basis must look like '{name}:4', got {word!r}") from None
    if len(sizes) > (2 if family is BSpline else 1) or (not sizes and family is not AffineInDepth):
        raise ArgumentError(f"basis must look like '{name}:4', got {word!r}")
    return family(*sizes)
