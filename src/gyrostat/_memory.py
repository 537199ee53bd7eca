"""Memory is planned before it is taken: a sentence instead of a process that the system kills."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ._errors import MemoryBudgetError


def available_memory() -> float:
    """Bytes this process may still take: free memory or what the address-space limit leaves, whichever is less."""
    free = float("inf")
    if sys.platform.startswith("linux"):
        import resource

        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            used = float(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            free = min(free, limit - used)
    return free


def _plenty(need: float) -> bool:
    """Whether ``need`` is so little that the long look (a tenth of a millisecond) can be spared."""
    if not sys.platform.startswith("linux"):
        return False
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    return need <= os.sysconf("SC_AVPHYS_PAGES") * resource.getpagesize() / 4


def plan_memory(need: float, what: str, remedy: str, limit: float | None = None) -> None:
    """Refuse work before anything is allocated.

    Args:
        need: Bytes the work will hold at once.
        what: The work, as the start of a sentence.
        remedy: What to do instead, as an imperative.
        limit: Bytes that may be taken; what the machine has free when left out.

    Raises:
        MemoryBudgetError: ``need`` is more than may be taken.
    """
    if limit is None and _plenty(need):
        return
    allowed = available_memory() if limit is None else limit
    if need > allowed:
        raise MemoryBudgetError(
            f"{what} needs about {need / 2**20:.0f} MiB, but {max(0.0, allowed) / 2**20:.0f} MiB may be taken; "
            f"{remedy}, or raise the memory limit"
        )
