"""Ã = S A with one ±1 in each column of S (countsketch), or eight of ±1/√8 (sparse_sign): Ã[h(i)] += sgn(i) a_i.

Places and signs of row i come from Philox(key = seed and method, counter = ⌊i/1024⌋). Even and odd key blocks of 1024 rows are
summed apart, each in the order of its rows, and the two sums are added at the end: the sketch depends neither on how A is
cut nor on how many threads read it. The fused kernel (csrc/scatter.cpp) adds each row where it lies and takes its norm on the
way, so that A is read once; its slow twin here computes the same numbers from the same draws, bit for bit for countsketch.

Source: Clarkson and Woodruff, Low-rank approximation and regression in input sparsity time, STOC 2013; not in arXiv:2003.04937.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import _sparsetools  # pyright: ignore[reportAttributeAccessIssue]

from .._rng import derive_seed
from . import native
from .rows import Block

SCATTERING = ("countsketch", "sparse_sign")
KEY_ROWS = native.KEY_ROWS
PLACES = 8
LINE = 64  # bytes: rows of the sums begin on cache lines


class Scatter:
    """The scattered sketch of all rows seen so far; rows arrive in order, in blocks of any size.

    Args:
        method: countsketch or sparse_sign.
        size: Rows t of the sketch.
        d: Columns.
        dtype: float64 or complex128.
        seed: Key of the random numbers.
        start: Number of the first row, for the part of a sketch that begins there.
    """

    index: np.ndarray | None = None

    def __init__(self, method: str, size: int, d: int, dtype: Any, seed: int, start: int = 0) -> None:
        self.method, self.size, self.d, self.seed = method, size, d, seed
        self.rows, self.energy, self.largest = start, 0.0, 0.0
        self._key = derive_seed(seed, "sketch", method)
        self._places = PLACES if method == "sparse_sign" else 1
        self._sums = _aligned(size, d, np.dtype(dtype))  # (2, t, width), width >= d

    @property
    def takes_rows(self) -> bool:
        """Whether :meth:`take` can be used: the kernel is here."""
        return native.ready()

    def take(self, data: np.ndarray, threads: int = 1) -> float:
        """Add the next rows as they lie in memory; their squared norm, not finite where one of their numbers is not."""
        if not len(data):
            return 0.0
        norms = native.scatter(data, self._sums, self.rows, self._key, self._places, threads)
        return self._count(len(data), float(norms[:, 0].sum()), float(norms[:, 1].max(initial=0.0)))

    def update(self, block: Block) -> None:
        """Add the next rows."""
        sparse = sp.issparse(block.data)
        if self.takes_rows and not sparse:
            self.take(block.data)
            return
        if self.takes_rows and native.sparse(block.data):
            native.scatter_sparse(block.data, self._sums, self.rows, self._key, self._places)
        else:
            self._scatter(block.data)
        self._count(len(block.energy), float(block.energy.sum()), float(block.energy.max(initial=0.0)))

    def finish(self, last: bool = False) -> np.ndarray:
        """The sketch (t, d) of the rows so far; more may follow unless ``last``, which takes the memory of a sum for it."""
        one, other = self._sums[:, :, : self.d]
        return np.add(one, other, out=one if last else None)

    def closed(self) -> Scatter:
        """Itself: no rows wait."""
        return self

    def maker(self) -> tuple[Callable[[int], Scatter], float]:
        """What makes an empty one that begins at a given row, and its size."""
        make = partial(Scatter, self.method, self.size, self.d, self._sums.dtype, self.seed)
        return make, self._sums.nbytes

    def merge(self, part: Scatter) -> None:
        """Add the rows that follow."""
        self._sums += part._sums
        self.rows, self.energy, self.largest = part.rows, self.energy + part.energy, max(self.largest, part.largest)

    def state(self) -> dict[str, np.ndarray]:
        """What a later process needs to go on."""
        return {"sums": self._sums[:, :, : self.d], "numbers": np.array([self.rows, self.energy, self.largest])}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self._sums[:, :, : self.d] = state["sums"]
        rows, self.energy, self.largest = map(float, state["numbers"])
        self.rows = int(rows)

    def _count(self, rows: int, energy: float, largest: float) -> float:
        self.rows, self.energy, self.largest = self.rows + rows, self.energy + energy, max(self.largest, largest)
        return energy

    def _scatter(self, data: Any) -> None:
        """The slow twin."""
        at = 0
        while at < data.shape[0]:
            number, offset = divmod(self.rows + at, KEY_ROWS)
            part = data[at : at + KEY_ROWS - offset]
            where, signs = self._draws(number)
            self._add(part, where[offset : offset + part.shape[0]], signs[offset : offset + part.shape[0]], number % 2)
            at += part.shape[0]

    def _draws(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Target rows and signs of one key block, (1024, places) each."""
        random = np.random.Generator(np.random.Philox(counter=[0, 0, 0, number], key=[self._key, 0]))
        where = random.integers(0, self.size, (KEY_ROWS, self._places), dtype=np.int32)
        return where, (random.integers(0, 2, where.shape) * 2.0 - 1.0) / np.sqrt(self._places)

    def _add(self, data: Any, where: np.ndarray, signs: np.ndarray, half: int) -> None:
        count, places = where.shape
        width = self._sums.shape[2]
        flat = self._sums[half].reshape(-1)
        if sp.issparse(data):
            of = np.repeat(np.arange(count), np.diff(data.indptr))
            for p in range(places):
                np.add.at(flat, where[of, p] * np.int64(width) + data.indices, data.data * signs[of, p])
            return
        if width > self.d:
            data = np.pad(data, ((0, 0), (0, width - self.d)))
        # scipy's own kernel adds in place and in order of rows
        pointers = np.arange(0, count * places + 1, places, dtype=np.int32)
        factors = signs.ravel().astype(flat.dtype)
        _sparsetools.csc_matvecs(self.size, count, width, pointers, where.ravel(), factors, data.ravel(), flat)


def _aligned(size: int, d: int, dtype: np.dtype) -> np.ndarray:
    width = -(-d * dtype.itemsize // LINE) * LINE // dtype.itemsize
    count = 2 * size * width
    whole = np.zeros(count + LINE // dtype.itemsize, dtype)
    skip = -whole.ctypes.data % LINE // dtype.itemsize
    return whole[skip : skip + count].reshape(2, size, width)
