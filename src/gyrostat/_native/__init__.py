"""Finding and loading a native library: plain C, called by ctypes, one build for each instruction set.

The build for the oldest processors is loaded first and asked what this one can do; ``GYROSTAT_ISA`` names another. A folder
holds the builds of one library, ``_native_v2.so`` and so on.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

LEVELS = ("generic", "v2", "v3", "v4")
EXTRA = ("amx", "bf16")  # instructions beyond the levels: for everything else the newest level serves

_SAID: set[str] = set()


def load(folder: Path, abi: int) -> tuple[ctypes.CDLL | None, str]:
    """Load the library of ``folder``: itself and its name, or ``None`` and the reason."""
    built = builds(folder)
    if not built:
        return None, "the native library is not built: install with a C++17 compiler (pip install reports its error)"
    wanted = os.environ.get("GYROSTAT_ISA")
    if wanted and wanted not in EXTRA:
        if wanted not in built:
            return None, f"GYROSTAT_ISA={wanted!r} is not among the builds here: {', '.join(built)}"
        return _open(folder, wanted, abi)
    level = cpu_level(folder, abi)
    usable = [b for b in built if LEVELS.index(b) <= max(level, LEVELS.index(built[0]))]
    return _open(folder, usable[-1], abi)


def cpu_level(folder: Path, abi: int) -> int:
    """The newest of ``LEVELS`` that this processor can run, as its place there; 0 where no library can say."""
    built = builds(folder)
    base = _open(folder, built[0], abi)[0] if built else None
    return 0 if base is None else base.gy_cpu_level()


def builds(folder: Path) -> list[str]:
    """The instruction sets for which there is a library in ``folder``, oldest first."""
    return [level for level in LEVELS if _path(folder, level).exists()]


def _path(folder: Path, level: str) -> Path:
    return folder / f"_native_{level}.so"


def _open(folder: Path, level: str, abi: int) -> tuple[ctypes.CDLL | None, str]:
    try:
        found = ctypes.CDLL(str(_path(folder, level)))
    except OSError as error:
        return None, f"the native library cannot be loaded: {error}"
    if found.gy_abi_version() != abi:
        return None, f"the native library is of another version ({found.gy_abi_version()}, not {abi}); install again"
    return found, f"native kernel, {'generic vectors' if level == 'generic' else 'x86-64-' + level}"


def say_once(who: str, reason: str) -> None:
    """Warn in the log, once in a process, that ``who`` take the slow path."""
    if (message := f"{who} take the slow path: {reason}") not in _SAID:
        _SAID.add(message)
        logging.getLogger("gyrostat").warning(message)
