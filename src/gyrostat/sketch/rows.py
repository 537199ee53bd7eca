"""Anything with rows, read as a sequence of blocks: array, memmap, sparse, torch, dask, zarr, HDF5, iterator of blocks.

Every pass checks what it reads: a NaN or Inf is refused with its row and column, a block of another width with its number.
Sparse matrices are never made dense, and nothing larger than one block is held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .._errors import ArgumentError, ArgumentTypeError, DataError, NonFiniteError
from . import native
from .npy import NpyFile

BLOCK_BYTES = 1 << 20
READ_BYTES = 32 << 20
LOOK_BYTES = 256 << 20


class Block(NamedTuple):
    """Consecutive rows, as float64 or complex128, with the squared norm of each."""

    start: int
    data: Any
    energy: np.ndarray


class Rows:
    """Rows of a tall matrix, read in order as often as needed (once, where ``one_shot``).

    Attributes:
        n: Number of rows, None until a one-shot iterator has been read.
        d: Number of columns.
        dtype: float64 or complex128, what blocks are delivered in.
        source_dtype: dtype of the matrix itself.
        transposed: These are the columns of the matrix that was given.
        entries: Stored entries of a sparse matrix in memory, else None.
        first: Number of row 0 in the whole matrix, where these are a part of it.
        guard: Called with no argument before and after each block; raises where the source has changed.
        threads: Threads a pass may use; None is what the process allows.
    """

    n: int | None
    d: int
    one_shot: bool = False
    sparse: bool = False
    transposed = False
    entries: int | None = None
    first = 0
    guard: Callable[[], None] | None = None
    threads: int | None = None

    def __init__(self, n: int | None, d: int, dtype: Any) -> None:
        self.n, self.d = n, d
        self.source_dtype = _accepted(dtype)
        self.dtype = np.dtype(np.complex128 if self.source_dtype.kind == "c" else np.float64)

    def _raw(self, start: int, stop: int | None) -> Iterator[Any]:
        raise ArgumentTypeError("rows: this source cannot be read")

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Checked blocks in order of rows, from row ``start``."""
        for at, raw in self._reads(start):
            for piece in _pieces(raw):
                data = piece.astype(self.dtype, copy=False)
                if not sp.issparse(data):
                    data = np.ascontiguousarray(data)
                energy = row_energy(data)
                if not np.isfinite(energy.sum()):
                    _refuse_nonfinite(data, self.first + at, self.transposed)
                yield Block(self.first + at, data, energy)
                at += data.shape[0]

    def _reads(self, start: int) -> Iterator[tuple[int, Any]]:
        """(first row, rows as the source has them) in order, of the right width and number."""
        at = start
        for number, raw in enumerate(self._raw(start, self.n)):
            if self.guard is not None:
                self.guard()
            if raw.ndim != 2 or raw.shape[1] != self.d:
                raise DataError(
                    f"A: block {number} has shape {tuple(raw.shape)}, but blocks must be (rows, {self.d}) as the first was"
                )
            yield at, raw
            at += raw.shape[0]
        if self.guard is not None:
            self.guard()
        if self.n is not None and at != self.n:
            raise DataError(f"A: the source ended after {at} rows, but {self.n} were expected")
        self.n = at

    def feed(self, work: Any) -> Iterator[None]:
        """Give ``work`` every row from row ``work.rows`` on, as it lies in the source where ``work`` can take that."""
        start = work.rows - self.first
        if self.sparse or not getattr(work, "takes_rows", False):
            for block in self.blocks(start):
                work.update(block)
                yield
            return
        threads = native.threads() if self.threads is None else self.threads
        for at, raw in self._reads(start):
            whole = native.readable(raw)
            for piece in (raw,) if whole else _pieces(raw):
                data = piece if whole else np.ascontiguousarray(piece, self.dtype)
                if not np.isfinite(work.take(data, threads)):
                    _refuse_nonfinite(data, self.first + at, self.transposed)
                at += len(data)
                yield

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows ``index`` (repeats allowed), dense, checked."""
        raise ArgumentTypeError("rows: this source has no random access to rows")

    def _checked(self, data: Any, index: np.ndarray) -> np.ndarray:
        if self.guard is not None:
            self.guard()
        dense = np.asarray(data.toarray() if sp.issparse(data) else data).astype(self.dtype, copy=False)
        bad = np.argwhere(~np.isfinite(dense))
        if len(bad):
            raise _nonfinite(int(index[bad[0, 0]]), int(bad[0, 1]), self.transposed)
        return dense

    @property
    def random_access(self) -> bool:
        """Whether ``take`` works."""
        return type(self).take is not Rows.take


class ArrayRows(Rows):
    """Rows of something that can be sliced: numpy, memmap, h5py, zarr, torch."""

    def __init__(self, array: Any, transposed: bool) -> None:
        n, d = array.shape[::-1] if transposed else array.shape
        super().__init__(int(n), int(d), _dtype_of(array))
        self._array, self._transposed = array, transposed
        size = max(1, self.d * self.source_dtype.itemsize)
        in_memory = isinstance(array, np.ndarray) and not isinstance(array, np.memmap)
        # reads are larger than the cache-sized blocks that are worked on; what is in memory already costs nothing to look at
        self._step = max(1, (LOOK_BYTES if in_memory else READ_BYTES) // size)
        chunk = getattr(array, "chunks", None)
        if chunk and isinstance(chunk[0], int):
            rows = chunk[1 if transposed else 0]
            self._step = max(rows, self._step // rows * rows)

    def _raw(self, start: int, stop: int | None) -> Iterator[Any]:
        for a in range(start, self.n or 0, self._step):
            yield self._slice(a, min(a + self._step, self.n or 0))

    def _slice(self, a: int, b: int) -> np.ndarray:
        return _numpy(self._array[:, a:b]).T if self._transposed else _numpy(self._array[a:b])

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows ``index``; the source is asked for each distinct row once, in order."""
        unique, back = np.unique(index, return_inverse=True)
        if isinstance(self._array, np.ndarray):
            data = self._array[:, unique].T if self._transposed else self._array[unique]
        elif hasattr(self._array, "oindex"):
            data = self._array.oindex[:, unique].T if self._transposed else self._array.oindex[unique]
        else:
            data = _numpy(self._array[:, unique]).T if self._transposed else _numpy(self._array[unique])
        return self._checked(data, unique)[back]


class SparseRows(Rows):
    """Rows of a scipy.sparse matrix, kept in CSR."""

    sparse = True

    def __init__(self, matrix: Any, transposed: bool) -> None:
        matrix = (matrix.T if transposed else matrix).tocsr()
        super().__init__(int(matrix.shape[0]), int(matrix.shape[1]), matrix.dtype)
        self._matrix, self.entries = matrix, int(matrix.nnz)
        self._step = max(1, int((1 << 20) * max(1, matrix.shape[0]) / max(1, matrix.nnz)))

    def _raw(self, start: int, stop: int | None) -> Iterator[Any]:
        whole = self._matrix
        for a in range(start, whole.shape[0], self._step):
            # scipy would copy them
            ends = whole.indptr[a : a + self._step + 1]
            low, high = int(ends[0]), int(ends[-1])
            parts = (whole.data[low:high], whole.indices[low:high], ends - ends[0])
            yield type(whole)(parts, shape=(len(ends) - 1, self.d))

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows ``index``, dense: as many as were asked for."""
        return self._checked(self._matrix[index], index)


class BlockRows(Rows):
    """Rows from a list of blocks, a function that starts a fresh iterator, or a one-shot iterator."""

    def __init__(self, source: Any, n: int | None = None) -> None:
        self.one_shot = not callable(source) and not isinstance(source, Sequence)
        self._fresh: Any = source if callable(source) else lambda: source
        iterator = iter(self._fresh())
        first = next(iterator, None)
        if first is None:
            raise DataError("A: the iterator of blocks is empty")
        first = _block(first)
        if first.ndim != 2:
            raise DataError(f"A: block 0 has shape {first.shape}, but blocks must be two-dimensional")
        super().__init__(n, int(first.shape[1]), first.dtype)
        self.sparse = sp.issparse(first)
        self._pending: tuple[Any, Iterator[Any]] | None = (first, iterator) if self.one_shot else None

    def _raw(self, start: int, stop: int | None) -> Iterator[Any]:
        if self.one_shot:
            if self._pending is None or start:
                raise ArgumentError(
                    "A: an iterator can be read only once; pass a function that returns a fresh iterator of blocks"
                )
            first, rest = self._pending
            self._pending = None
            yield first
            yield from (_block(b) for b in rest)
            return
        at = 0
        for item in self._fresh():
            block = _block(item)
            if at + block.shape[0] > start:
                yield block[max(0, start - at) :]
            at += block.shape[0]


def as_rows(A: Any, *, transpose: bool | None = None) -> tuple[Rows, bool]:
    """Rows of ``A`` and whether they are the columns of ``A`` (wide matrices are transposed).

    Args:
        A: numpy array or memmap, path of a .npy file, scipy.sparse, torch tensor, dask array, zarr or HDF5 array, list or
            iterator of two-dimensional blocks, or a function that returns a fresh iterator of blocks.
        transpose: True or False to decide by hand; None transposes when there are more columns than rows.

    Raises:
        ArgumentTypeError: Not a matrix of numbers.
    """
    if isinstance(A, Rows):
        return A, A.transposed
    rows = _rows(A, transpose)
    return rows, rows.transposed


def _rows(A: Any, transpose: bool | None) -> Rows:
    if callable(A) and not hasattr(A, "shape"):
        return BlockRows(A)
    if isinstance(A, (list, tuple)) and len(A) and all(getattr(a, "ndim", 0) == 2 for a in A):
        return BlockRows(A)
    if isinstance(A, Iterator):
        return BlockRows(A)
    if isinstance(A, (list, tuple)):
        A = np.asarray(A)
    if isinstance(A, (str, Path)):
        A = NpyFile(A)
    shape = getattr(A, "shape", None)
    if shape is None:
        raise ArgumentTypeError(
            f"A must be a matrix or an iterator of blocks, got {type(A).__name__}; numpy.asarray may help"
        )
    if len(shape) != 2:
        raise ArgumentError(f"A must have two dimensions, got shape {tuple(shape)}")
    flip = bool(shape[0] < shape[1]) if transpose is None else transpose
    if sp.issparse(A):
        rows: Rows = SparseRows(A, flip)
    elif type(A).__module__.partition(".")[0] == "dask":
        from .dask_rows import DaskRows

        rows = DaskRows(A, flip)
    else:
        rows = ArrayRows(np.asarray(A) if hasattr(A, "iloc") else A, flip)
    rows.transposed = flip
    return rows


def row_energy(data: Any) -> np.ndarray:
    """Squared norm of each row."""
    if sp.issparse(data):
        of = np.repeat(np.arange(data.shape[0]), np.diff(data.indptr))
        return np.bincount(of, weights=np.abs(data.data) ** 2, minlength=data.shape[0])
    if native.ready() and native.readable(data):
        return native.norms(data)
    if data.dtype.kind == "c":
        real = data.view(np.float64)
        return np.einsum("ij,ij->i", real, real)
    return np.einsum("ij,ij->i", data, data)


def watch_file(path: Path) -> Callable[[], None]:
    """A guard that raises as soon as the file or folder differs from what it was when the watch began."""

    def stamp() -> tuple[int, int]:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns

    before = stamp()

    def guard() -> None:
        if stamp() != before:
            raise DataError(f"{path} changed while it was being read; run again when nothing writes to it")

    return guard


def _accepted(dtype: Any) -> np.dtype:
    kind = np.dtype(dtype)
    if kind.kind not in "fciub" or kind.itemsize > 16:
        raise ArgumentTypeError(
            f"A must hold numbers (float32, float64, complex or integers), got dtype {kind}; convert it first"
        )
    return kind


def _dtype_of(array: Any) -> Any:
    return getattr(np, str(array.dtype)[6:], np.float32) if _is_torch(array) else array.dtype


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _numpy(array: Any) -> np.ndarray:
    if _is_torch(array):
        array = array.detach().cpu()
        return (array.float() if str(array.dtype) == "torch.bfloat16" else array).resolve_conj().numpy()
    return np.asarray(array)


def _block(item: Any) -> Any:
    block = item.tocsr() if sp.issparse(item) else _numpy(item)
    _accepted(block.dtype)
    return block


def _pieces(raw: Any) -> Iterator[Any]:
    if sp.issparse(raw):
        yield raw
        return
    step = max(1, BLOCK_BYTES // max(1, 8 * raw.shape[1]))
    for a in range(0, raw.shape[0], max(1, step)):
        yield raw[a : a + step]


def _nonfinite(row: int, column: int, transposed: bool) -> NonFiniteError:
    if transposed:
        row, column = column, row
    return NonFiniteError(f"A: NaN or Inf in row {row}, column {column}; remove or impute it first")


def _refuse_nonfinite(data: Any, start: int, transposed: bool) -> None:
    if sp.issparse(data):
        where = np.flatnonzero(~np.isfinite(data.data))
        if len(where):
            row = int(np.searchsorted(data.indptr, where[0], side="right")) - 1
            raise _nonfinite(start + row, int(data.indices[where[0]]), transposed)
    else:
        bad = np.argwhere(~np.isfinite(data))
        if len(bad):
            raise _nonfinite(start + int(bad[0, 0]), int(bad[0, 1]), transposed)
    raise DataError("A: squares of its numbers overflow float64; divide A by its largest entry first")
