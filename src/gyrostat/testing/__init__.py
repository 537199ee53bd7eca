"""Conformance suites that ship with the package, so that third parties can hold themselves to them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {"check_cell": "cells", "check_block": "blocks"}

__all__ = ["check_block", "check_cell"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if TYPE_CHECKING:
    from .blocks import check_block as check_block
    from .cells import check_cell as check_cell
