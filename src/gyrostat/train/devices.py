"""Where a run computes: one device, or the processes that ``torchrun`` or ``accelerate launch`` started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from .._errors import ArgumentError

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_accelerator(device: str | None = None, mixed_precision: str = "no") -> Accelerator:
    """The accelerator of this process.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; what is there when left out.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ArgumentError: The device is not here, or cannot compute in that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is not None and not there.get(device, False):
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise ArgumentError(
            f"--device {device}: is not available here; there is {found} (CUDA_VISIBLE_DEVICES chooses among several GPUs)"
        )
    state = AcceleratorState._shared_state
    if state and (
        state.get("_mixed_precision") != mixed_precision or (device or state["device"].type) != state["device"].type
    ):
        # accelerate keeps one state per process and refuses to change it; runs here are independent of one another
        AcceleratorState._reset_state(reset_partial_state=state["num_processes"] == 1)
    try:
        return Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    except ValueError as error:
        raise ArgumentError(f"--mixed-precision {mixed_precision}: {' '.join(str(error).split())[:160]}") from error


@contextmanager
def own_random_stream(device: torch.device) -> Iterator[None]:
    """Seeds that are set inside are forgotten at the end; dropout and noise inside layers draw from the global stream."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
