"""The kernels of the sketch: numpy arrays to addresses and one call of the native library; without it the slow twins run.

ctypes lets other Python threads run during a call.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import _native
from .._rng import numpy_stream

HERE = Path(__file__).parent
ABI = 7
KEY_ROWS = 1024
KEPT = 1 << 19  # numbers up to which memory is kept for the next call
ALONE = 4 << 20  # bytes below which a second thread costs more than it brings
LIBRARY, REASON = _native.load(HERE, ABI)
REFERENCE = os.environ.get("GYROSTAT_BACKEND") == "reference"
if REFERENCE:
    LIBRARY, REASON = None, "GYROSTAT_BACKEND=reference"
if LIBRARY is not None:
    _size, _at = ctypes.c_int64, ctypes.c_void_p
    LIBRARY.gy_scatter.argtypes = [
        ctypes.c_int,
        _at,
        *[_size] * 4,
        ctypes.c_uint64,
        _size,
        _size,
        ctypes.c_int,
        _at,
        _size,
        _at,
    ]
    LIBRARY.gy_scatter_sparse.argtypes = [
        ctypes.c_int,
        *[_at] * 3,
        *[_size] * 2,
        ctypes.c_uint64,
        *[_size] * 2,
        _at,
        _size,
    ]
    LIBRARY.gy_norms.argtypes = [ctypes.c_int, _at, *[_size] * 3, _at]
    LIBRARY.gy_norms.restype = None
    LIBRARY.gy_times.argtypes = [ctypes.c_int, _at, *[_size] * 3, _at, _size, ctypes.c_int, _at]
    LIBRARY.gy_normal.argtypes = [ctypes.c_int, _at, *[_size] * 4, _at, _size, ctypes.c_int, *[_at] * 2]
    LIBRARY.gy_replicates.argtypes = [*[_size] * 4, ctypes.c_int, _at, ctypes.c_int, ctypes.c_double, *[_at] * 8]
    LIBRARY.gy_errors.argtypes = [*[_size] * 6, *[ctypes.c_double] * 2, ctypes.c_int, *[_at] * 8]
    LIBRARY.gy_tilt.argtypes = [*[_size] * 4, *[_at] * 3]


def ready() -> bool:
    """Whether there is a library; where there should be one and is none, the log says so once."""
    if LIBRARY is None and not REFERENCE:
        _native.say_once("sketches", REASON)
    return LIBRARY is not None


def describe() -> dict[str, Any]:
    """What runs here: the library in use or why there is none, all builds, threads."""
    return {"library": REASON, "builds": " ".join(_native.builds(HERE)) or "none", "threads": threads()}


def threads() -> int:
    """Threads a pass may use, at most 2: those of torch where it is loaded, else OMP_NUM_THREADS, else the processors."""
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "get_num_threads"):
        return min(2, torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdigit():
        return min(2, max(1, int(wanted)))
    # macOS has no affinity to ask for
    return min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def readable(data: Any) -> bool:
    """Whether a kernel can take these rows where they lie."""
    return (
        isinstance(data, np.ndarray)
        and data.dtype.kind in "fc"
        and data.dtype.itemsize in (4, 8, 16)
        and (data.dtype.kind == "c" or data.dtype.itemsize < 16)
        and data.dtype.isnative
        and data.flags.aligned
        and data.strides[1] == data.itemsize
        and data.strides[0] > 0
        and data.strides[0] % data.itemsize == 0
    )


def scatter(data: np.ndarray, sums: np.ndarray, start: int, key: int, places: int, count: int) -> np.ndarray:
    """Add rows ``start`` .. of A to the two sums (2, t, width) of a scattered sketch.

    Returns:
        (key blocks, 2): sum and largest of the squared norms of their rows; no array as long as A is written.
    """
    assert LIBRARY is not None
    found = np.empty(((start + len(data) - 1) // KEY_ROWS + 1 - start // KEY_ROWS, 2))
    wide = sums.view(np.float64)
    used = count if data.nbytes >= ALONE else 1
    failed = LIBRARY.gy_scatter(
        *_rows(data), start, key, sums.shape[1], places, used, wide.ctypes.data, wide.shape[2], found.ctypes.data
    )
    if failed:
        raise MemoryError("gyrostat: no memory for the places of a block of rows")
    return found


def sparse(data: Any) -> bool:
    """Whether a kernel can take these rows of a CSR matrix."""
    parts = (data.indptr, data.indices)
    return (
        data.dtype == np.float64
        and data.data.flags.c_contiguous
        and all(p.dtype == parts[0].dtype and p.dtype in (np.int32, np.int64) and p.flags.c_contiguous for p in parts)
    )


def scatter_sparse(data: Any, sums: np.ndarray, start: int, key: int, places: int) -> None:
    """:func:`scatter` of rows of a CSR matrix, without their norms."""
    assert LIBRARY is not None
    wide = int(data.indptr.dtype == np.int64)
    addresses = (data.indptr.ctypes.data, data.indices.ctypes.data, data.data.ctypes.data)
    if LIBRARY.gy_scatter_sparse(
        wide, *addresses, data.shape[0], start, key, sums.shape[1], places, sums.ctypes.data, sums.shape[2]
    ):
        raise MemoryError("gyrostat: no memory for the places of a block of rows")


def norms(data: np.ndarray) -> np.ndarray:
    """The squared norm of each row."""
    assert LIBRARY is not None
    energy = np.empty(len(data))
    LIBRARY.gy_norms(*_rows(data), energy.ctypes.data)
    return energy


def times(data: np.ndarray, V: np.ndarray, count: int) -> np.ndarray:
    """``data @ V`` of real rows as they lie in memory and few columns."""
    assert LIBRARY is not None
    out, right = np.empty((len(data), V.shape[1])), np.ascontiguousarray(V)
    used = count if data.nbytes >= ALONE else 1
    if LIBRARY.gy_times(*_rows(data), right.ctypes.data, V.shape[1], used, out.ctypes.data):
        raise MemoryError("gyrostat: no memory for a product of rows")
    return out


def normal_sums(d: int, k: int) -> np.ndarray:
    """Zeros for :func:`normal`: (2, d, k up to a whole vector)."""
    assert LIBRARY is not None
    lanes = LIBRARY.gy_lanes()
    return np.zeros((2, d, -(-k // lanes) * lanes))


def normal(data: np.ndarray, V: np.ndarray, sums: np.ndarray, start: int, count: int) -> float:
    """Add ``data.T @ (data @ V)`` of real rows ``start`` .. to ``sums``; |data V|²."""
    assert LIBRARY is not None
    square, right = ctypes.c_double(), np.ascontiguousarray(V)
    used = count if data.nbytes >= ALONE else 1
    if LIBRARY.gy_normal(
        *_rows(data), start, right.ctypes.data, V.shape[1], used, sums.ctypes.data, ctypes.byref(square)
    ):
        raise MemoryError("gyrostat: no memory for a product of rows")
    return square.value


class Vectors:
    """Vectors of replicates as the kernel leaves them, (batches, k, r, lanes), a batch being as many as a vector has lanes.

    Their memory goes from call to call, because fresh memory costs as much as what is done in it.
    """

    _idle: ClassVar[list[np.ndarray]] = []

    def __init__(self, count: int, k: int, r: int) -> None:
        assert LIBRARY is not None
        lanes = LIBRARY.gy_lanes()
        self.shape = (-(-count // lanes), k, r, lanes)
        size = math.prod(self.shape)
        try:
            self.flat = self._idle.pop()
        except IndexError:
            self.flat = np.empty(size)
        if self.flat.size < size:
            self.flat = np.empty(size)

    def __del__(self) -> None:
        if not self._idle and self.flat.size <= KEPT:
            self._idle.append(self.flat)

    def plain(self, count: int) -> np.ndarray:
        """A copy, (count, r, k)."""
        _, k, r, _ = self.shape
        packed = self.flat[: math.prod(self.shape)].reshape(self.shape)
        return packed.transpose(0, 3, 2, 1).reshape(-1, r, k)[:count]

    def tilt(self, count: int, mass: np.ndarray) -> np.ndarray | None:
        """Squared sine of the largest angle between the first m vectors and the first m directions, m = len(mass); (count,)."""
        assert LIBRARY is not None
        _, k, r, _ = self.shape
        square, mass = np.empty(count), np.ascontiguousarray(mass)
        failed = LIBRARY.gy_tilt(r, k, len(mass), count, self.flat.ctypes.data, mass.ctypes.data, square.ctypes.data)
        return None if _failed(failed) else square


def replicates(
    X: np.ndarray, draws: np.ndarray | None, state: Any, count: int, k: int, factor: float | None, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Vectors] | None:
    """Eigenpairs of the replicates and what the bars need of them; None where they do not come to an end.

    Args:
        X: (t, r).
        draws: (B, t); None: by a generator.
        state: Its state, see :func:`generator`.
        count: B.
        k: How many.
        factor: What deviations are multiplied with; None: to the law of gaussian rows.
        weights: (r,).

    Returns:
        values (B, k), squares of q_j[j] (B, k), sums of weights q_j² (B, k), excess (k,), vectors.
    """
    assert LIBRARY is not None
    t, r = X.shape
    X, weights = np.ascontiguousarray(X), np.ascontiguousarray(weights)
    rows = None if draws is None else np.ascontiguousarray(draws, np.int64)
    values, overlap, length = np.empty((count, k)), np.empty((count, k)), np.empty((count, k))
    excess, vectors = np.empty(k), Vectors(count, k, r)
    # a second thread costs about as much as 20 replicates of ten directions
    used = threads() if count * r * r >= 20_000 else 1
    failed = LIBRARY.gy_replicates(
        t,
        r,
        k,
        count,
        used,
        X.ctypes.data,
        factor is None,
        1.0 if factor is None else factor,
        None if rows is None else rows.ctypes.data,
        state,
        weights.ctypes.data,
        *(a.ctypes.data for a in (values, overlap, length, excess, vectors.flat)),
    )
    return None if _failed(failed) else (values, overlap, length, excess, vectors)


@functools.lru_cache(maxsize=64)
def generator(seed: int, *names: str) -> Any:
    """The state of a fresh ``numpy_stream`` as the kernel takes it."""
    inner: Any = numpy_stream(seed, *names).bit_generator.state["state"]
    words = [x >> shift & (1 << 64) - 1 for x in (inner["state"], inner["inc"]) for shift in (64, 0)]
    return (ctypes.c_uint64 * 4)(*words)


def errors(
    s: np.ndarray, powered: np.ndarray, given: Sequence[np.ndarray], sizes: Sequence[int], extra: float, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the first k components (3, k + 1, B) and what the vectors have beyond r directions (top,).

    Args:
        s: Singular values of the sketch, (full,).
        powered: Their roots, (full,).
        given: values, overlap, length (B, top) and excess (top,) of the replicates.
        sizes: k, r, t and the number of power passes.
        extra: How many times more the last value counts.
        factor: What deviations were multiplied with.
    """
    assert LIBRARY is not None
    k, r, t, power = sizes
    arrays = [np.ascontiguousarray(a) for a in (s, powered, given[3], *given[:3])]
    count, top = given[0].shape
    out, mass = np.empty((3, k + 1, count)), np.empty(top)
    failed = LIBRARY.gy_errors(
        count, k, top, r, len(s), t, extra, factor, power, *(a.ctypes.data for a in (*arrays, out, mass))
    )
    _failed(failed)
    return out, mass


def _failed(code: int) -> bool:
    if code == 1:
        raise MemoryError("gyrostat: no memory for the bootstrap replicates")
    return bool(code)


def _rows(data: np.ndarray) -> tuple[int, int, int, int, int]:
    """(is double, address, elements from row to row, rows, columns), complex numbers as pairs of reals."""
    pair = 2 if data.dtype.kind == "c" else 1
    size = data.itemsize // pair
    return int(size == 8), data.ctypes.data, data.strides[0] // size, data.shape[0], pair * data.shape[1]
