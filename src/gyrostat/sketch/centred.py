"""Ã - (S 1) μᵀ and AᴴA - n μ μᵀ: sketch and Gram matrix of A - 1 μᵀ, columns centred, without making a sparse A dense.

A column of ones is sketched beside A, so that S 1 is known. Where A is wide its transpose is read, and centring takes the
mean of each row of the sketch of Aᵀ instead: Ã (I - 1 1ᵀ/n).

Source: the rank-one correction of PCA; arXiv:2003.04937 does not centre.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from .exact import Centre
from .rows import Rows, as_rows


def centred_rows(X: Any, mean: np.ndarray) -> tuple[Rows, bool, tuple[Centre, Centre]]:
    """Rows to read, whether they are turned, and what centres their sketch and their Gram matrix.

    Args:
        X: Sparse (n, d).
        mean: Of its columns (d,).
    """
    n, d = X.shape
    if n < d:
        rows, flip = as_rows(X, transpose=True)
        return rows, flip, (_without_row_means, lambda gram: _without_row_means(_without_row_means(gram).T).T)
    wide = sp.hstack([X.astype(np.float64), np.ones((n, 1))], format="csr")
    rows, flip = as_rows(wide, transpose=False)

    def of_sketch(matrix: np.ndarray) -> np.ndarray:
        return matrix[:, :d] - matrix[:, d:] * mean

    def of_gram(gram: np.ndarray) -> np.ndarray:
        return gram[:d, :d] - n * np.outer(mean, mean)

    return rows, flip, (of_sketch, of_gram)


def _without_row_means(matrix: np.ndarray) -> np.ndarray:
    return matrix - matrix.mean(axis=1, keepdims=True)
