"""Finding and loading the native library: plain C, called by ctypes, one build for each instruction set.

The build for the oldest processors is loaded first and asked what this one can do; ``GYROSTAT_ISA`` names another.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

HERE = Path(__file__).parent
ABI = 1
LEVELS = ("generic", "v2", "v3", "v4")
EXTRA = ("amx", "bf16")  # instructions beyond the levels, see ``bf16``: for everything else the newest level serves


def load() -> tuple[ctypes.CDLL | None, str]:
    """Load the library: itself and its name, or ``None`` and the reason."""
    built = builds()
    if not built:
        return None, "the native library is not built: install with a C++17 compiler (pip install reports its error)"
    wanted = os.environ.get("GYROSTAT_ISA")
    if wanted and wanted not in EXTRA:
        if wanted not in built:
            return None, f"GYROSTAT_ISA={wanted!r} is not among the builds here: {', '.join(built)}"
        return _open(wanted)
    level = cpu_level()
    usable = [b for b in built if LEVELS.index(b) <= max(level, LEVELS.index(built[0]))]
    return _open(usable[-1])


def cpu_level() -> int:
    """The newest of ``LEVELS`` that this processor can run, as its place there; 0 where no library can say."""
    built = builds()
    base = _open(built[0])[0] if built else None
    return 0 if base is None else base.gy_cpu_level()


def builds() -> list[str]:
    """The instruction sets for which there is a library, oldest first."""
    return [level for level in LEVELS if _path(level).exists()]


def _path(level: str) -> Path:
    return HERE / f"_native_{level}.so"


def _open(level: str) -> tuple[ctypes.CDLL | None, str]:
    try:
        found = ctypes.CDLL(str(_path(level)))
    except OSError as error:
        return None, f"the native library cannot be loaded: {error}"
    if found.gy_abi_version() != ABI:
        return None, f"the native library is of another version ({found.gy_abi_version()}, not {ABI}); install again"
    found.gy_pool_get.restype = ctypes.c_void_p
    found.gy_pool_get.argtypes = [ctypes.c_size_t]
    found.gy_pool_put.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return found, f"native kernel, {'generic vectors' if level == 'generic' else 'x86-64-' + level}"
