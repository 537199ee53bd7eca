"""Singular values and right vectors of a sketch Ã = Ũ diag(s̃) Ṽᵀ, by ÃᵀÃ or Ã Ãᵀ where that is accurate.

Source: Golub and Van Loan, Matrix Computations.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg as spl

from .._rng import numpy_stream


def spectrum(Y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right vectors (d, r) of a sketch, by its Gram matrix where that is accurate.

    All r = min(t, d) of them, or of a large sketch the leading :func:`kept` of them.

    Args:
        Y: Sketch, (t, d).
        k: How many are wanted accurately.
    """
    t, d = Y.shape
    small_side = min(t, d)
    if small_side <= 64:
        _, s, Vh = np.linalg.svd(Y, full_matrices=False)
        return s, Vh.conj().T
    small = Y.conj().T @ Y if d <= t else Y @ Y.conj().T
    keep = kept(k)
    if small_side > 1024 and keep < small_side // 8:
        start = numpy_stream(0, "lanczos").standard_normal(small_side).astype(small.dtype)
        values, vectors = spl.eigsh(small, keep, which="LA", v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    else:
        values, vectors = np.linalg.eigh(small)
    s, W = np.sqrt(np.maximum(values[::-1], 0.0)), vectors[:, ::-1]
    # a Gram matrix squares the condition number: below this ratio its small vectors are noise
    if not np.all(np.isfinite(s)) or s[min(k, len(s)) - 1] < 1e-6 * s[0]:
        _, s, Vh = np.linalg.svd(Y, full_matrices=False)
        return s, Vh.conj().T
    if d <= t:
        return s, W
    safe = np.where(s > 1e-12 * s[0], s, 1.0)
    return s, (Y.conj().T @ W) / safe


def kept(k: int) -> int:
    """How many directions of a large sketch are computed where k are wanted: those of the bootstrap and the nearest beyond."""
    return max(12, 2 * k, min(4 * k, k + 20))
