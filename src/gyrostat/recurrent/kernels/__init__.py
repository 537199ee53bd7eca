"""Fused paths of the recurrent cells; the slow, obvious twin of each is the cell itself.

The layer asks ``find(cell)`` for a runner with the signature of ``recurrent._loop.run_cell``; a runner that does not exist
is a reason in words, never silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..cell import Cell

Runner = Callable[..., Any]
_RUNNERS: dict[type, Runner] = {}


def find(cell: Cell) -> tuple[Runner | None, str]:
    """The fused runner of ``cell``, or ``None`` and the reason why there is none."""
    runner = _RUNNERS.get(type(cell))
    if runner is None:
        return None, f"no fused kernel is built for {cell.name or type(cell).__name__}"
    return runner, "a fused kernel is registered"
