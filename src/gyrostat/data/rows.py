"""Sequences made when they are asked for, so that 60,000 x 1,000 x 96 numbers need no 23 GB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Make = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Rows:
    """An array ``(N, T, F)`` of float32 that is computed row by row from a smaller stored one.

    Args:
        stored: ``(N, ...)``, what is kept in memory.
        make: ``make(stored[rows], rows)`` gives ``(n, T, F)`` float32; the same rows give the same numbers at any time.
        length: Steps T.
        width: Features F.
        key: Says everything that ``make`` depends on, for the digest of the data.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, stored: np.ndarray, make: Make, length: int, width: int, key: str) -> None:
        self.stored, self.make, self.key = stored, make, key
        self.shape = (len(stored), length, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        chosen = np.arange(len(self))[first]
        rows = np.atleast_1d(chosen)
        made = self.make(self.stored[rows], rows)
        return made[0][rest] if np.ndim(chosen) == 0 else made[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def _range(self) -> tuple[float, float]:
        some = self[np.linspace(0, len(self) - 1, min(len(self), 512)).astype(int)]
        return float(some.min()), float(some.max())

    def min(self) -> float:
        """Smallest value of up to 512 rows spread over the whole."""
        return self._range()[0]

    def max(self) -> float:
        """Largest value of up to 512 rows spread over the whole."""
        return self._range()[1]
