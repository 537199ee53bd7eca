"""S(A - 1 μᵀ) = Ã - (S 1) μᵀ, the same for AᴴA - n μ μᵀ: columns centred, without making a sparse A dense.

A column of ones is sketched beside A, so that S 1 is known. Where A is wide its transpose is read, and centring takes the
mean of each row of the sketch of Aᵀ instead: Ã (I - 1 1ᵀ/n).

Source: the rank-one correction of PCA; arXiv:2003.04937 does not centre.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .rows import Rows, as_rows


class Centring(NamedTuple):
    """What makes of numbers of the rows that are read those of centred rows.

    Attributes:
        sketch: Of a sketch.
        gram: Of AᴴA.
        widen: V to the columns that the rows are multiplied with.
        product: Of AᴴA times these, and V.
        energy: Of |A|_F².
    """

    sketch: Callable[[np.ndarray], np.ndarray]
    gram: Callable[[np.ndarray], np.ndarray]
    widen: Callable[[np.ndarray], np.ndarray]
    product: Callable[[np.ndarray, np.ndarray], np.ndarray]
    energy: Callable[[float], float]


def centred_rows(X: Any, mean: np.ndarray) -> tuple[Rows, bool, Centring]:
    """Rows to read, whether they are turned, and their centring.

    Args:
        X: Sparse (n, d).
        mean: Of its columns (d,).
    """
    n, d = X.shape
    if n < d:
        rows, flip = as_rows(X, transpose=True)
        centring = Centring(
            sketch=_less_row_means,
            gram=lambda gram: _less_row_means(_less_row_means(gram).T).T,
            widen=lambda V: _less_row_means(V.T).T,
            product=lambda product, V: _less_row_means(product.T).T,
            energy=lambda energy: energy - n * float(mean @ mean),
        )
        return rows, flip, centring
    wide = sp.hstack([X.astype(np.float64), np.ones((n, 1))], format="csr")
    rows, flip = as_rows(wide, transpose=False)
    centring = Centring(
        sketch=lambda matrix: matrix[:, :d] - matrix[:, d:] * mean,
        gram=lambda gram: gram[:d, :d] - n * np.outer(mean, mean),
        widen=lambda V: np.vstack([V, np.zeros((1, V.shape[1]))]),
        product=lambda product, V: product[:d] - n * np.outer(mean, mean @ V),
        energy=lambda energy: energy - n * (1 + float(mean @ mean)),
    )
    return rows, flip, centring


def _less_row_means(matrix: np.ndarray) -> np.ndarray:
    return matrix - matrix.mean(axis=1, keepdims=True)
