"""r_j = √((|A v_j - s_j u_j|² + |Aᴴ u_j - s_j v_j|²)/2):  some singular value of A lies within r_j of s_j.

If all others (and -s_j) are ``gap`` away, the stacked vector (u_j; v_j)/√2 is off by at most the angle of sine r_j/gap.
Both are certain, whatever made the factors; they need one pass over A and no sketch.

Source: the residual theorem for the symmetric matrix [[0, A], [Aᴴ, 0]] (Parlett, The Symmetric Eigenvalue Problem).
Differs from the bootstrap (arXiv:2003.04937): that needs no pass and says how large errors are; this says how large at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._checks import Real, check
from .._errors import ArgumentError
from .._results import Result
from .rows import as_rows


@dataclass(frozen=True)
class Certificate(Result):
    """Residual bounds that hold with certainty, whatever made the factors.

    Attributes:
        residual: r_j; some singular value of A lies within r_j of s_j.
    """

    residual: np.ndarray

    def sine(self, j: int, gap: float) -> float:
        """Bound on the sine of the angle of the stacked vector (u_j; v_j)/√2, if the others are ``gap`` away from s_j."""
        check({"gap": Real(low=0, closed="neither")}, {"gap": gap}, "Certificate.sine")
        return min(1.0, float(self.residual[j]) / gap)


def certify(A: Any, U: np.ndarray, s: np.ndarray, Vt: np.ndarray) -> Certificate:
    """Residual bounds of given factors in one pass: independent of any sketch or bootstrap.

    r_j = sqrt((|A v_j - s_j u_j|² + |Aᴴ u_j - s_j v_j|²)/2): a singular value of A lies within r_j of s_j.

    Args:
        A: The matrix (n, d), any source of rows.
        U: Left vectors (n, k), unit length.
        s: Singular values (k,).
        Vt: Right vectors (k, d), unit length.

    Raises:
        ArgumentError: Shapes do not fit or a vector is not of unit length.

    Example:
        >>> import numpy as np
        >>> from gyrostat import certify, sketched_svd
        >>> A = np.random.default_rng(0).standard_normal((500, 20)) / np.arange(1, 21)
        >>> r = sketched_svd(A, 2, 200)
        >>> certify(A, r.U, r.s, r.Vt).residual.shape
        (2,)
    """
    rows, flip = as_rows(A)
    U, s, V = np.asarray(U), np.asarray(s), np.asarray(Vt).conj().T
    if flip:
        U, V = V.conj(), U.conj()
    k = len(s)
    if U.shape != (rows.n if rows.n is not None else len(U), k) or V.shape != (rows.d, k):
        raise ArgumentError(f"certify: factors of shapes {U.shape}, {s.shape}, {V.shape} do not fit the matrix")
    # single precision factors are unit to about 1e-6
    if np.abs(np.linalg.norm(U, axis=0) - 1).max() > 1e-5 or np.abs(np.linalg.norm(V, axis=0) - 1).max() > 1e-5:
        raise ArgumentError("certify: columns of U and rows of Vt must have unit length; normalise them first")
    first, back = np.zeros(k), np.zeros((rows.d, k), np.result_type(U, rows.dtype))
    for block in rows.blocks():
        u = U[block.start : block.start + len(block.energy)]
        first += np.sum(np.abs(block.data @ V - u * s) ** 2, axis=0)
        back += block.data.conj().T @ u
    second = np.sum(np.abs(back - V * s) ** 2, axis=0)
    return Certificate(np.sqrt((first + second) / 2))
