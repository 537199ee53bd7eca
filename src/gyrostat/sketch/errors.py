"""e_σ = |s̃_j - s*_j|,  e_R = sin(ṽ_j, v*_j),  e_L = sin(ũ_j, u*_j)  of every replicate, from its eigenpairs (λ, q).

s*_j = (λ_j + push_j)^½,  (ṽ_j·v*_j)² = q_j[j]²/(1 + m_j),  (ũ_j·u*_j)² = λ̃_j q_j[j]²/(Σ_l λ̃_l q_j[l]² + Σ_l λ̃_l m_jl),  where
push and m are what the directions that were left out add (beyond.py). Under power passes every value stands for its root.

Source: Lopes, Erichson, Mahoney, arXiv:2003.04937. Differs from the released code, which computes vectors of length d.
"""

from __future__ import annotations

import numpy as np

from . import native
from .beyond import beyond, repeated
from .replicates import Replicates
from .sketches import Sketch

METRICS = ("values", "left", "right")


def errors(
    found: Sketch,
    s: np.ndarray,
    powered: np.ndarray,
    drawn: Replicates,
    k: int,
    r: int,
    factor: float | None,
    unit: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the first k components, and what the vectors have beyond r directions.

    Args:
        found: The sketch.
        s: Its singular values in units of ``unit``, (full,).
        powered: Their roots where it is a power sketch, (full,).
        drawn: Replicates of at least k components.
        k: How many.
        r: Directions that the replicates live in.
        factor: What deviations were multiplied with, see :func:`gyrostat.sketch.replicates.law`.
        unit: Of ``s``; roots and errors of values are in units of its root.

    Returns:
        (3, k + 1, B): the errors of ``METRICS``, and the largest of each; (top,): the mass.
    """
    Y, factor = found.matrix, 1.0 if factor is None else factor
    extra = repeated(Y, s, unit)
    if native.ready() and Y.dtype == np.float64:
        given = (drawn.values, drawn.overlap, drawn.length, drawn.excess)
        return native.errors(s, powered, given, (k, r, len(Y), found.power), extra, factor)
    count, top = drawn.values.shape
    out = beyond(s, top, r, len(Y), extra, powered**2, drawn.excess)
    pushed = np.maximum(drawn.values[:, :k] + out.push[:k] * factor**2, 0.0)
    length = drawn.length[:, :k] + out.weighted[:k]
    whole = np.zeros((3, k + 1, count))
    whole[0, :k] = np.abs(powered[:k] - pushed ** (0.5 / (2 * found.power + 1))).T
    whole[1, :k] = _sine(powered[:k] ** 2 * drawn.overlap[:, :k] / np.where(length > 0, length, 1.0)).T
    whole[2, :k] = _sine(drawn.overlap[:, :k] / (1 + out.mass[:k])).T
    whole[:, k] = whole[:, :k].max(axis=1)
    return whole, out.mass


def _sine(square: np.ndarray) -> np.ndarray:
    """Of an angle whose cosine is given by its square."""
    return np.sqrt(np.clip(1.0 - square, 0.0, 1.0))
