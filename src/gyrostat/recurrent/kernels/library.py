"""The native library of the recurrent kernels, see ``_native``."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ... import _native
from ..._native import LEVELS as LEVELS

HERE = Path(__file__).parent
ABI = 1


def load() -> tuple[ctypes.CDLL | None, str]:
    """Load the library: itself and its name, or ``None`` and the reason."""
    found, reason = _native.load(HERE, ABI)
    if found is not None:
        found.gy_pool_get.restype = ctypes.c_void_p
        found.gy_pool_get.argtypes = [ctypes.c_size_t]
        found.gy_pool_put.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return found, reason


def cpu_level() -> int:
    """The newest of ``LEVELS`` that this processor can run, as its place there; 0 where no library can say."""
    return _native.cpu_level(HERE, ABI)


def builds() -> list[str]:
    """The instruction sets for which there is a library, oldest first."""
    return _native.builds(HERE)
