"""λ*_j + Σ_l (√(g² + 4c²) - g)/2  and  m_jl = (1 - g/√(g² + 4c²))/2,  g = λ_j - λ_l,  c² = λ_j λ_l/t:  directions left out.

A bootstrap of the first k works in the r leading directions of the sketch. A replicate couples every direction l ≥ r to
component j, by c² in the mean square: two levels a distance g apart that are coupled by c move (√(g² + 4c²) - g)/2 apart and
exchange m of their vectors. Many small terms of random sign add up to hardly more or less than their mean, which is what is
added here: λ*_j moves up, v*_j has Σ_l m_jl of its square outside, and |Ã v*_j|² has Σ_l λ_l m_jl from there.

Source: second-order perturbation theory of the bootstrap of arXiv:2003.04937; the released code has no such form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EXACT = 24  # a sketch of no more directions is taken whole


class Beyond(NamedTuple):
    """What directions left out add to the components, (k,) each."""

    push: np.ndarray
    mass: np.ndarray
    weighted: np.ndarray


def directions(k: int) -> int:
    """How many directions a bootstrap of the first k works in."""
    return k + min(20, max(3, k // 6))


def beyond(s: np.ndarray, k: int, r: int, t: int, extra: float, weights: np.ndarray, excess: np.ndarray) -> Beyond:
    """Sums over the directions l ≥ r.

    Args:
        s: Singular values of the sketch, (full,).
        k: Components.
        r: Directions that the bootstrap works in.
        t: Rows of the sketch.
        extra: How many times more the last value counts.
        weights: What ``weighted`` counts a direction with, (full,).
        excess: Mean square of the coupling of each component, in multiples of that of gaussian rows, (k,).
    """
    lam = s**2
    at, count = np.arange(r, len(s)), np.ones(len(s) - r)
    if extra > 0:
        at, count = np.append(at, len(s) - 1), np.append(count, extra)
    tail = lam[at]
    gap, square = lam[:k, None] - tail, 4 / t * lam[:k, None] * tail

    def apart(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(gap**2 + square)
        moved = square / np.maximum(2 * (root + gap), 1e-300)
        return moved, moved / np.maximum(root, 1e-300)

    mass = apart(square * excess[:, None])[1]
    return Beyond(apart(square)[0] @ count, mass @ count, mass @ (count * weights[at]))


def repeated(matrix: np.ndarray, s: np.ndarray, unit: float = 1.0) -> float:
    """How many times more the last value counts: energy that a truncated spectrum leaves out, as if it all stood there.

    Args:
        matrix: The sketch.
        s: Its leading singular values, in units of ``unit``.
        unit: Of ``s``.
    """
    if len(s) == min(matrix.shape) or s[-1] == 0:
        return 0.0
    return max(0.0, float((np.linalg.norm(matrix) / unit) ** 2 - s @ s)) / float(s[-1] ** 2)
