"""Eigenpairs of Xᵀ diag(w_b) X for replicates b, w_b counting how often each row of X was drawn; and the law of its spread.

All replicates at once: the fused kernel (csrc/replicates.cpp) turns as many as a vector has lanes by Jacobi rotations, about
five times as fast as LAPACK one by one; its slow twin here serves complex numbers, many components and machines without a
compiler. They agree to about 1e-14 of the largest eigenvalue, and vectors to that over the gap.

Source: Lopes, Erichson, Mahoney, arXiv:2003.04937. Differs from the released code, which decomposes each resampled sketch anew.
"""

from __future__ import annotations

import numpy as np

from . import native
from .scatter import SCATTERING
from .sketches import Sketch

COHERENT = 20
LARGE = 64  # columns from which LAPACK is as fast


def leading(
    X: np.ndarray, draws: np.ndarray, k: int, factor: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues (B, k) and their vectors (B, r, k) of the replicates.

    Args:
        X: (t, r).
        draws: Row indices, (B, t).
        k: How many.
        factor: What the deviations from XᴴX are multiplied with, a number or (r, r).
    """
    t, r = X.shape
    k = min(k, r)
    if native.LIBRARY is not None and X.dtype == np.float64 and r <= LARGE:
        return native.replicates(X, draws, k, np.broadcast_to(np.asarray(factor, float), (r, r)))
    W = np.stack([np.bincount(row, minlength=t) for row in draws]).astype(float)  # (B, t)
    values, Q = _eigen(X, W, factor)
    return values[:, :k], Q[:, :, :k]


def law(found: Sketch, X: np.ndarray) -> tuple[np.ndarray | float, tuple[str, ...]]:
    """What the replicates' deviations from XᴴX are multiplied with where the rows of the sketch are not i.i.d.

    Resampling rows of a countsketch also resamples how much of A fell into each, which is no error: with U the left
    vectors, Var(x_jᴴx_l) comes out larger than it is by Σ_i u_ij² u_il² (a factor 1 + 1.5 t/n for a singular value of
    incoherent rows). The true variance is at most that of a gaussian sketch, which is known, (λ_j λ_l + |x_jᵀx_l|²)/t:
    the deviations are scaled to it. An srht draws t of N rows without replacement: variance times 1 - t/N.
    """
    t = len(X)
    if found.method == "srht":
        order = 1 << max(0, (found.n - 1).bit_length())
        return float(np.sqrt(max(0.0, 1.0 - t / order))) if t <= order else 1.0, ()
    if found.method not in SCATTERING:
        return 1.0, ()
    if found.coherence > COHERENT:
        return 1.0, (
            f"a few rows carry much of the matrix (coherence {found.coherence:.0f} > {COHERENT}): bounds of "
            f"{found.method} are wider than the error there; method='length' gives closer ones",
        )
    power = np.abs(X) ** 2
    cross = np.abs(X.conj().T @ X) ** 2
    resampled = power.T @ power - cross / t
    diagonal = np.diagonal(cross) ** 0.5
    gaussian = (np.outer(diagonal, diagonal) + np.abs(X.T @ X) ** 2) / t
    return np.sqrt(gaussian / np.where(resampled > 0, resampled, np.inf)), ()


def excess(X: np.ndarray, factor: np.ndarray | float, k: int) -> np.ndarray:
    """Mean square of what a replicate couples each of the first k directions by to the others, over that of gaussian rows."""
    if np.ndim(factor):
        return np.ones(k)  # which the law of scattered rows is set to
    power = np.abs(X) ** 2
    lam = power.sum(0)
    coupled = factor**2 * (power[:, :k].T @ power.sum(1) - (power[:, :k] ** 2).sum(0))
    gaussian = lam[:k] * (lam.sum() - lam[:k]) / len(X)
    return np.divide(coupled, gaussian, out=np.ones(k), where=gaussian > 0)


def _eigen(X: np.ndarray, W: np.ndarray, factor: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs, largest first, of Xᴴ diag(w) X for each row w of W, its deviation from XᴴX times ``factor``."""
    t, r = X.shape
    row, column = np.triu_indices(r)
    half = np.zeros((len(W), len(row)), X.dtype)
    step = max(1, (64 << 20) // (len(row) * X.itemsize))
    for a in range(0, t, step):
        part = X[a : a + step]
        half += W[:, a : a + step] @ (part[:, row].conj() * part[:, column])
    G = np.empty((len(W), r, r), X.dtype)
    G[:, column, row] = half.conj()
    G[:, row, column] = half
    if np.ndim(factor) or factor != 1.0:
        middle = X.conj().T @ X
        G = middle + factor * (G - middle)
    values, Q = np.linalg.eigh(G)
    return values[:, ::-1], Q[:, :, ::-1]
