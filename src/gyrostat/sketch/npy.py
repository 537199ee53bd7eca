"""A matrix in a .npy file of which only the rows asked for are mapped: works where the address space is smaller than the file.

``numpy.load(mmap_mode="r")`` maps the whole file and fails under a limit (``ulimit -v``); this maps one window at a time.
Nothing is unpickled: arrays of objects are refused by their header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._errors import DataError

WINDOW_BYTES = 32 << 20


class NpyFile:
    """Rows of a two-dimensional .npy file, read on demand.

    Args:
        path: The file.

    Raises:
        DataError: Not a .npy file of a matrix, or shorter than its header says.
    """

    ndim = 2

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self.path.open("rb") as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, self._fortran, self.dtype = read.get(version, np.lib.format.read_array_header_2_0)(stream)
            except ValueError as error:
                raise DataError(f"{self.path} is not a .npy file: {error}") from error
            self._offset = stream.tell()
        if self.dtype.hasobject:
            raise DataError(f"{self.path} holds Python objects, which are not read; save it as an array of numbers")
        if len(shape) != 2:
            raise DataError(f"{self.path} must hold a matrix, but its shape is {tuple(shape)}")
        self.shape = (int(shape[0]), int(shape[1]))
        whole = self._offset + self.dtype.itemsize * self.shape[0] * self.shape[1]
        if self.path.stat().st_size < whole:
            raise DataError(
                f"{self.path} is cut short: {self.path.stat().st_size} bytes, but its header promises {whole}; copy it again"
            )

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if self._fortran:
            # columns lie one after the other: the transposed file has them as rows
            return self._part(columns, rows, self.shape[1], self.shape[0]).T
        return self._part(rows, columns, *self.shape)

    def _part(self, rows: Any, columns: Any, n: int, d: int) -> np.ndarray:
        if isinstance(rows, slice):
            a, b, step = rows.indices(n)
            if step == 1 and isinstance(columns, slice) and columns == slice(None):
                return self._window(a, max(a, b), d)
            index = np.arange(a, b, step)
        else:
            index = np.asarray(rows)
        width = len(np.empty(d, np.int8)[columns])
        out = np.empty((len(index), width), self.dtype)
        high = max(1, WINDOW_BYTES // max(1, d * self.dtype.itemsize))
        for start in np.unique(index // high) * high:
            here = np.flatnonzero((index >= start) & (index < start + high))
            window = self._window(int(start), int(min(start + high, n)), d)
            out[here] = window[index[here] - start][:, columns]
        return out

    def _window(self, a: int, b: int, d: int) -> np.ndarray:
        if a == b or d == 0:
            return np.empty((b - a, d), self.dtype)
        offset = self._offset + a * d * self.dtype.itemsize
        return np.memmap(self.path, self.dtype, "r", offset, (b - a, d))
