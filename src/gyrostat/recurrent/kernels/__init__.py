"""Fused paths of the recurrent cells; the slow, obvious twin of each is the cell itself.

``find(cell, dtype, device)`` answers with a runner, which has the signature of ``recurrent._loop.run_cell``, or with the
reason in words why there is none. What runs on a device is one of the operators of ``ops``, for which that device has a
kernel: ``native`` for the CPU, ``gpu`` for CUDA. A cell enters an operator through its plan (``plans``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..._native import say_once

if TYPE_CHECKING:
    from ..cell import Cell

Runner = Callable[..., Any]


def find(cell: Cell, dtype: torch.dtype, device: torch.device) -> tuple[Runner | None, str]:
    """The fused runner of ``cell`` for this type and device and what it runs on, or ``None`` and the reason why not."""
    from . import gpu, native, plans
    from .run import run_fused

    if os.environ.get("GYROSTAT_BACKEND") == "reference":
        return None, "GYROSTAT_BACKEND=reference"
    _, reason = plans.plan(cell)
    if reason:
        return None, reason
    if device.type == "cuda":
        found, reason = gpu.available(cell, dtype)
        return (run_fused if found else None), reason
    if device.type != "cpu":
        return None, f"there is no fused kernel for the device {device.type!r}"
    found, reason = native.available()
    if not found:
        say_once("recurrent layers", reason)
        return None, reason
    if dtype not in (torch.float32, torch.float64):
        return None, f"the fused kernels compute in float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return run_fused, reason


def lower_precision(cell: Cell, dtype: torch.dtype, device: torch.device) -> str:
    """What a lower precision of products changes on the fused path: nothing at the default one."""
    from . import bf16

    return bf16.describe(cell, dtype) if device.type == "cpu" else ""


def describe() -> dict[str, Any]:
    """What the fused kernels are here: the library in use or why there is none, all builds, threads."""
    from . import bf16, library, native

    return {
        "library": native.REASON,
        "builds": " ".join(library.builds()) or "none",
        "threads": torch.get_num_threads(),
        "precision": f"{bf16.precision()!r}; for inference there is {bf16.offers()}",
    }
