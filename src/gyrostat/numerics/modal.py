"""Functions of depth, global families: theta(t) = sum_k phi_k(t) theta_k with polynomials or waves on all of [0, 1].

Source: the affine basis is that of Stateful ODE-Nets, arXiv:2106.10820; the others are additions.
Differs from the released code: nowhere known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from .._errors import ArgumentError
from .basis import Basis, Side


@dataclass(frozen=True)
class AffineInDepth(Basis):
    """theta_0 + t theta_1: one unit that drifts with depth.

    Args:
        K: Always 2.

    Example:
        >>> AffineInDepth().row(0.5).tolist()
        [1.0, 0.5]
    """

    K: int = 2

    name: ClassVar[str] = "affine"
    modal: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.K != 2:
            raise ArgumentError(
                f"AffineInDepth: K must be 2 (offset and slope), got {self.K}; for more use Hat({self.K})"
            )

    @property
    def degree(self) -> int:
        """1."""
        return 1

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        return np.array([1.0, float(t)])

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        # there is no larger affine space: project to Hat or DGLinear to go on
        return self, np.eye(2)


@dataclass(frozen=True)
class Legendre(Basis):
    """Orthonormal polynomials sqrt(2k+1) P_k(2t-1) up to degree K-1.

    Args:
        K: Number of modes.

    Example:
        >>> Legendre(2).row(1.0).round(4).tolist()
        [1.0, 1.7321]
    """

    name: ClassVar[str] = "legendre"
    modal: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = False

    @property
    def degree(self) -> int:
        """K - 1."""
        return self.K - 1

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        values = np.polynomial.legendre.legvander(np.array([float(2 * t - 1)]), self.K - 1)[0]
        return values * np.sqrt(2 * np.arange(self.K) + 1)


@dataclass(frozen=True)
class Chebyshev(Basis):
    """Chebyshev polynomials T_k(2t-1) up to degree K-1, not normalised.

    Args:
        K: Number of modes.

    Example:
        >>> Chebyshev(3).row(0.0).tolist()
        [1.0, -1.0, 1.0]
    """

    name: ClassVar[str] = "chebyshev"
    modal: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = False

    @property
    def degree(self) -> int:
        """K - 1."""
        return self.K - 1

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        return np.polynomial.chebyshev.chebvander(np.array([float(2 * t - 1)]), self.K - 1)[0]


@dataclass(frozen=True)
class Cosine(Basis):
    """1, sqrt(2) cos(pi k t): orthonormal.

    Args:
        K: Number of modes.

    Example:
        >>> Cosine(2).row(0.0).round(4).tolist()
        [1.0, 1.4142]
    """

    name: ClassVar[str] = "cosine"
    modal: ClassVar[bool] = True
    trigonometric: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = False

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        row = math.sqrt(2) * np.cos(math.pi * np.arange(self.K) * float(t))
        row[0] = 1.0
        return row


@dataclass(frozen=True)
class Fourier(Basis):
    """1, then sqrt(2) cos(2 pi j t), sqrt(2) sin(2 pi j t): orthonormal, and theta(0) = theta(1).

    Args:
        K: Number of modes, odd.

    Example:
        >>> Fourier(3).row(0.25).round(4).tolist()
        [1.0, 0.0, 1.4142]
    """

    name: ClassVar[str] = "fourier"
    modal: ClassVar[bool] = True
    trigonometric: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.K % 2 == 0:
            raise ArgumentError(
                f"Fourier: K must be odd (a constant, then cosine and sine pairs), got {self.K}; use {self.K + 1}"
            )

    def _row(self, t: Fraction, side: Side) -> np.ndarray:
        angle = 2 * math.pi * np.arange(1, self.K // 2 + 1) * float(t)
        row = np.ones(self.K)
        row[1::2], row[2::2] = math.sqrt(2) * np.cos(angle), math.sqrt(2) * np.sin(angle)
        return row

    def nodes(self) -> list[tuple[Fraction | float, Side]]:
        """Equally spaced over the period."""
        return [(Fraction(i, self.K), "right") for i in range(self.K)]

    def _refine(self, factor: int) -> tuple[Basis, np.ndarray]:
        larger = Fourier((self.K - 1) * factor + 1)
        return larger, np.eye(larger.K, self.K)
