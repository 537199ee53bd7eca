"""The fused operators on a GPU: which cells Triton takes, and its kernels registered without importing it.

one program for 16 rows, all T steps, the matrices in shared memory           ``triton_lipschitz``, ``triton_lem``
a product of torch and a kernel for each step, recorded as CUDA graphs        ``graph_lipschitz``, ``graph_lem``, beyond
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..cell import Cell

MODULES = {
    "lipschitz": "gpu_lipschitz",
    "lipschitz_backward": "gpu_lipschitz",
    "lem": "gpu_lem",
    "lem_backward": "gpu_lem",
}


def available(cell: Cell, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether Triton kernels run this cell, and what runs or why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "the package triton is not installed; builds of torch for GPUs bring it"
    if dtype != torch.float32:
        return False, f"the Triton kernels keep states in float32, not {str(dtype).removeprefix('torch.')}"
    from .triton_common import precision, too_large
    from .triton_lipschitz import unsupported

    solver = "lem" if cell.name == "lem" else getattr(cell, "solver", "euler")
    if solver != "lem":
        reason = unsupported(getattr(cell, "nonlinearity", "tanh"), getattr(cell, "gated", False), solver)
        if reason:
            return False, reason
    reason = too_large(solver, cell.hidden_size)
    if reason:
        return True, f"torch products and Triton kernels in CUDA graphs, step by step: {reason}"
    return True, f"Triton kernel, products in {precision()}"


def kernel(name: str) -> Any:
    """The kernel of one operator; Triton is imported on its first call."""

    def run(*arguments: Any) -> Any:
        module = importlib.import_module(f"{__package__}.{MODULES[name]}")
        return getattr(module, name)(*arguments)

    return run
