"""What the operators, their kernels and their fake kernels agree on: sizes, and the precision of products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 16  # steps between two kept states when memory is low
LIMIT = 512 * 2**20  # bytes of stash above which memory="auto" keeps few states


def lipschitz_slots(linear: bool, gated: bool, stages: int, wanted: int, learns_dt: bool) -> int:
    """Arrays ``(T, B, H)`` in a full stash.

    In this order, for each stage: φ, the gate, A h + φ (with A, where the gate or the step has to be differentiated);
    then the inputs of the stages after the first; then the state itself unless it is the sequence.
    """
    each = 1 + gated + (linear and (gated or learns_dt))
    return stages * each + stages - 1 + (wanted == 0)


def lem_slots(wanted: int) -> int:
    """Arrays ``(T, B, H)`` in a full stash: σ̂ for y, σ̂ for z, both candidates; then z, y unless they are sequences."""
    return 4 + max(0, 2 - wanted)


def stash_shape(save: str, slots: int, states: int, x: Tensor, state: Tensor) -> tuple[Any, ...]:
    """``(slots, T, B, H)``, ``(states, blocks, B, H)`` or nothing."""
    if save == "none":
        return (0,)
    T = x.shape[0]
    return (slots, T, *state.shape) if save == "full" else (states, (T + BLOCK - 1) // BLOCK, *state.shape)


def sequence_shape(there: bool, x: Tensor, state: Tensor) -> tuple[Any, ...]:
    """``(T, B, H)``, or an empty tensor for a sequence that nobody wants."""
    return (x.shape[0], *state.shape) if there else (0, *state.shape)


def precision() -> str:
    """``highest``, ``high`` or ``medium``, as ``torch.set_float32_matmul_precision`` said."""
    if torch.compiler.is_compiling():
        return "highest"  # nothing that is traced depends on it: the kernels ask when they run
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch has no single answer when its backends were told different things
        return "highest"
