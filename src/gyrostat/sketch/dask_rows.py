"""Rows of a dask array: blocks are read, and where it pays sketched, by whichever scheduler is active."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .._errors import ArgumentError
from .._memory import available_memory
from .rows import BlockRows, Rows
from .warning import warn

GROUP_BYTES = 256 << 20
GROUP = 16


class DaskRows(Rows):
    """Rows of a dask array, in groups of row blocks that the scheduler computes side by side.

    A work that is a sum over rows (a linear sketch, a Gram matrix) and smaller than a block is done where the block is,
    so that only its result travels; otherwise the blocks come here in order.
    """

    def __init__(self, array: Any, transposed: bool) -> None:
        array = array.T if transposed else array
        if any(np.isnan(s) for s in array.shape):
            raise ArgumentError("A: the dask array has chunks of unknown size; call A.compute_chunk_sizes() first")
        super().__init__(int(array.shape[0]), int(array.shape[1]), array.dtype)
        if len(array.chunks[1]) > 1:
            warn(
                f"A is chunked along {'rows' if transposed else 'columns'} too: it is rechunked on the fly; "
                "rechunk it yourself so that each block holds whole rows"
            )
            array = array.rechunk({1: -1})
        self.array, self.transposed = array, transposed
        self._held: list[Any] | None = None

    def _blocks(self) -> list[Any]:
        """The row blocks, each with a graph of its own."""
        if self._held is not None:
            return self._held
        # a graph over an array in memory holds copies of its blocks: kept from pass to pass only where that is little
        if self.array.nbytes <= available_memory() / 4:
            self._held = list(self.array.to_delayed().ravel())
            return self._held
        return [self.array.blocks[i] for i in range(len(self.array.chunks[0]))]

    def _groups(self, start: int, part: int | None = None) -> Iterator[list[tuple[int, int, Any]]]:
        """(first row, rows to skip, block) of a few consecutive blocks that fit together.

        Args:
            start: First row.
            part: Bytes of what comes here of each; None where that is the block itself.
        """
        limit = min(GROUP_BYTES, available_memory() / 8)
        at, group, room = 0, [], limit
        for count, block in zip(self.array.chunks[0], self._blocks()):
            if at + count > start:
                skip = max(0, start - at)
                need = count * self.d * self.dtype.itemsize if part is None else part
                if group and (need > room or len(group) == GROUP):
                    yield group
                    group, room = [], limit
                group.append((at + skip, skip, block))
                room -= need
            at += count
        if group:
            yield group

    def _raw(self, start: int, stop: int | None) -> Iterator[Any]:
        import dask

        for group in self._groups(start):
            computed = dask.compute(*[block for _, _, block in group])  # pyright: ignore[reportPrivateImportUsage]
            yield from (np.asarray(block)[skip:] for (_, skip, _), block in zip(group, computed))

    def feed(self, work: Any) -> Iterator[None]:
        """Give ``work`` every row from ``work.rows`` on, as parts where it can be done in parts."""
        import dask

        make, size = work.maker()
        if size > max(self.array.chunks[0]) * self.d * self.dtype.itemsize:
            yield from super().feed(work)
            return
        # not traversed: the maker holds nothing of dask's, and looking for it costs more than the work on a small block
        do = dask.delayed(_do, pure=False, traverse=False)  # pyright: ignore[reportPrivateImportUsage]
        for group in self._groups(work.rows, int(size)):
            if self.guard is not None:
                self.guard()
            tasks = [do(make, at, skip, block, self.transposed) for at, skip, block in group]
            for part in dask.compute(*tasks):  # pyright: ignore[reportPrivateImportUsage]
                work.merge(part)
            yield

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows ``index``."""
        unique, back = np.unique(index, return_inverse=True)
        return self._checked(self.array[unique].compute(), unique)[back]


def _do(make: Any, start: int, skip: int, block: Any, transposed: bool) -> Any:
    """One part of a work, on the worker that holds the block."""
    part = make(start)
    rows = BlockRows([np.asarray(block)[skip:]])
    rows.transposed, rows.first, rows.threads = transposed, start, 1
    for _ in rows.feed(part):
        pass
    return part
