"""The kernels of the sketch: numpy arrays to addresses and one call of the native library; without it the slow twins run.

ctypes lets other Python threads run during a call.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native

HERE = Path(__file__).parent
ABI = 3
KEY_ROWS = 1024
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
    LIBRARY.gy_norms.argtypes = [ctypes.c_int, _at, *[_size] * 3, _at]
    LIBRARY.gy_norms.restype = None
    LIBRARY.gy_times.argtypes = [ctypes.c_int, _at, *[_size] * 3, _at, _size, ctypes.c_int, _at]
    LIBRARY.gy_replicates.argtypes = [*[_size] * 4, ctypes.c_int, _at, ctypes.c_int, ctypes.c_double, *[_at] * 7]
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


def replicates(
    X: np.ndarray, draws: np.ndarray, k: int, factor: float | None, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Eigenpairs of the replicates and what the bars need of them; None where they do not come to an end.

    Args:
        X: (t, r).
        draws: (B, t).
        k: How many.
        factor: What deviations are multiplied with; None: to the law of gaussian rows.
        weights: (r,).

    Returns:
        values (B, k), squares of q_j[j] (B, k), sums of weights q_j² (B, k), excess (k,), vectors (batches, k, r, lanes).
    """
    assert LIBRARY is not None
    (t, r), count = X.shape, len(draws)
    lanes = LIBRARY.gy_lanes()
    each = (np.empty((count, k)), np.empty((count, k)), np.empty((count, k)))
    out = (*each, np.empty(k), np.empty(((count + lanes - 1) // lanes, k, r, lanes)))
    X, weights, draws = (np.ascontiguousarray(a) for a in (X, weights, draws.astype(np.int64, copy=False)))
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
        draws.ctypes.data,
        weights.ctypes.data,
        *(a.ctypes.data for a in out),
    )
    return None if _failed(failed) else out


def tilt(vectors: np.ndarray, count: int, mass: np.ndarray) -> np.ndarray | None:
    """Squared sine of the largest angle between the first m vectors and the first m directions, m = len(mass); (count,)."""
    assert LIBRARY is not None
    _, k, r, _ = vectors.shape
    square, mass = np.empty(count), np.ascontiguousarray(mass)
    failed = LIBRARY.gy_tilt(r, k, len(mass), count, vectors.ctypes.data, mass.ctypes.data, square.ctypes.data)
    return None if _failed(failed) else square


def _failed(code: int) -> bool:
    if code == 1:
        raise MemoryError("gyrostat: no memory for the bootstrap replicates")
    return bool(code)


def _rows(data: np.ndarray) -> tuple[int, int, int, int, int]:
    """(is double, address, elements from row to row, rows, columns), complex numbers as pairs of reals."""
    pair = 2 if data.dtype.kind == "c" else 1
    size = data.itemsize // pair
    return int(size == 8), data.ctypes.data, data.strides[0] // size, data.shape[0], pair * data.shape[1]
