"""Xᵀ diag(w_b) X = Q_b diag(λ_b) Q_bᵀ  for replicates b, w_b counting how often each row of X was drawn; and their law.

All replicates at once: the fused kernel (csrc/replicates.cpp) takes as many as a vector has lanes through one tridiagonal
solver (csrc/eigen.h); its slow twin here serves complex numbers and machines without a compiler. They agree to about 1e-14 of
the largest eigenvalue, and vectors to that over the gap.

Source: Lopes, Erichson, Mahoney, arXiv:2003.04937. Differs from the released code, which decomposes each resampled sketch anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._rng import numpy_stream
from . import native
from .scatter import SCATTERING
from .sketches import Sketch

COHERENT = 20
LARGE = 256  # columns up to which the kernel was measured, and 3 times as fast as LAPACK
MOST = 1 << 24  # rows up to which the kernel counts exactly


@dataclass(frozen=True)
class Replicates:
    """What the error bars need of the k largest eigenpairs (λ, q) of B replicates.

    Attributes:
        values: λ, (B, k), largest first.
        overlap: |q_j[j]|², (B, k).
        length: Σ_l weights_l |q_j[l]|², (B, k).
        excess: Mean square of what couples a component to the others, in multiples of that of gaussian rows, (k,).
    """

    values: np.ndarray
    overlap: np.ndarray
    length: np.ndarray
    excess: np.ndarray
    _vectors: np.ndarray | native.Vectors

    @property
    def vectors(self) -> np.ndarray:
        """q, (B, r, k)."""
        kept = self._vectors
        return kept if isinstance(kept, np.ndarray) else kept.plain(len(self.values))

    def tilt(self, mass: np.ndarray) -> np.ndarray:
        """Sine of the largest angle between the first m vectors and the first m directions, (B,).

        Args:
            mass: What each vector has beside its r entries, (m,).
        """
        kept = self._vectors
        square = None if isinstance(kept, np.ndarray) else kept.tilt(len(self.values), mass)
        if square is None:
            outside = self.vectors[:, len(mass) :, : len(mass)]
            tilted = np.swapaxes(outside.conj(), 1, 2) @ outside + np.diag(mass)
            square = np.linalg.eigvalsh(tilted / np.sqrt(np.outer(1 + mass, 1 + mass)))[:, -1]
        return np.sqrt(np.clip(square, 0.0, 1.0))


class Fresh(NamedTuple):
    """Draws that are still to be made: ``times`` as many rows as there are, from ``numpy_stream(seed, "bootstrap")``."""

    times: int
    seed: int

    def rows(self, t: int) -> np.ndarray:
        """(times, t) row indices."""
        return numpy_stream(self.seed, "bootstrap").integers(0, t, (self.times, t))


def replicate(
    X: np.ndarray, draws: np.ndarray | Fresh, k: int, factor: float | None = 1.0, weights: np.ndarray | None = None
) -> Replicates:
    """Resample the rows of X and decompose.

    Args:
        X: (t, r).
        draws: Row indices, (B, t); or how to draw them.
        k: How many components.
        factor: What the deviations from XᴴX are multiplied with; None: :func:`spread`.
        weights: Of the directions, (r,); None is all 1.
    """
    t, r = X.shape
    k = min(k, r)
    weights = np.ones(r) if weights is None else weights
    if native.ready() and X.dtype == np.float64 and r <= LARGE and t <= MOST:
        if isinstance(draws, Fresh):
            given, state, count = None, native.generator(draws.seed, "bootstrap"), draws.times
        else:
            given, state, count = draws, None, len(draws)
        found = native.replicates(X, given, state, count, k, factor, weights)
        if found is not None:
            return Replicates(*found)
    rows = draws.rows(t) if isinstance(draws, Fresh) else draws
    W = np.stack([np.bincount(row, minlength=t) for row in rows]).astype(float)  # (B, t)
    values, Q = eigen(X, W, spread(X) if factor is None else factor)
    values, Q = values[:, :k], Q[:, :, :k]
    square = np.abs(Q) ** 2  # (B, r, k)
    overlap = np.diagonal(square, axis1=1, axis2=2)
    return Replicates(values, overlap, np.einsum("l,blj->bj", weights, square), excess(X, factor, k), Q)


def law(found: Sketch) -> tuple[float | None, tuple[str, ...]]:
    """What the replicates' deviations from XᴴX are multiplied with where the rows of the sketch are not i.i.d.

    Resampling rows of a countsketch also resamples how much of A fell into each, which is no error: None, see :func:`spread`.
    An srht draws t of N rows without replacement: variance times 1 - t/N.
    """
    t = found.size
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
    return None, ()


def spread(X: np.ndarray) -> np.ndarray:
    """What the deviations of a scattered sketch are multiplied with, (r, r).

    With U the left vectors, Var(x_jᴴx_l) of resampled rows comes out larger than it is by Σ_i u_ij² u_il² (a factor
    1 + 1.5 t/n for a singular value of incoherent rows). The true variance is at most that of a gaussian sketch, which is
    known, (λ_j λ_l + |x_jᵀx_l|²)/t: the deviations are scaled to it.
    """
    power = np.abs(X) ** 2
    cross = np.abs(X.conj().T @ X) ** 2
    resampled = power.T @ power - cross / len(X)
    diagonal = np.diagonal(cross) ** 0.5
    gaussian = (np.outer(diagonal, diagonal) + np.abs(X.T @ X) ** 2) / len(X)
    return np.sqrt(gaussian / np.where(resampled > 0, resampled, np.inf))


def excess(X: np.ndarray, factor: float | None, k: int) -> np.ndarray:
    """Mean square of what a replicate couples each of the first k directions by to the others, over that of gaussian rows."""
    if factor is None:
        return np.ones(k)  # which the law of scattered rows is set to
    power, others = np.abs(X) ** 2, 1.0 - np.eye(k, X.shape[1])
    lam = power.sum(0)
    coupled = factor**2 * (power[:, :k].T @ power * others).sum(1)
    gaussian = lam[:k] * (others @ lam) / len(X)
    return np.divide(coupled, gaussian, out=np.ones(k), where=gaussian > 0)


def eigen(X: np.ndarray, W: np.ndarray, factor: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
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
