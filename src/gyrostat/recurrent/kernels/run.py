"""From a pass of the layer to one call of an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._loop import run_cell
from ..cell import Cell, State, Step
from . import ops, plans


def run_fused(
    cell: Cell,
    parameters: dict[str, Tensor],
    x: Tensor,
    state: State,
    dt: Step,
    extras: State,
    active: Tensor | None,
    *,
    wanted: int | None = None,
    memory: str = "auto",
) -> tuple[State, State]:
    """As ``run_cell``, by the fused operator; what it cannot differentiate or transform goes to ``run_cell`` by itself."""
    tensors = (x, *state, *extras, *parameters.values(), *((dt,) if isinstance(dt, Tensor) else ()))
    if _needs_reference(tensors) or (len(extras) == 2 and any(e.requires_grad for e in extras)):
        return run_cell(cell, parameters, x, state, dt, extras, active, wanted=wanted, memory=memory)
    wanted = len(state) if wanted is None else wanted
    T, B, H = x.shape[0], x.shape[1], cell.hidden_size
    make, reason = plans.plan(cell)
    if make is None:
        raise TypeError(reason)
    name, found, options = make(cell, parameters)
    step = 1.0 if isinstance(dt, Tensor) else float(dt)
    steps = _steps(dt, T, B, H) if isinstance(dt, Tensor) else None
    held = None if active is None else active[:, :, 0].expand(T, B).contiguous()
    arguments: dict[str, Any] = {**found, "dt": steps, "active": held}
    inputs = [t for t in (x, *state, *arguments.values()) if isinstance(t, Tensor)]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if name == "lem":
        y, z, *sequences, _ = ops.lem(x, *state, **arguments, step=step, wanted=wanted, memory=memory, learns=learns)
        return tuple(sequences[:wanted]), (y, z)
    if len(extras) == 1:
        arguments["seeds"] = extras[0]
    elif extras:
        arguments |= {"additive": extras[0].contiguous(), "factor": extras[1].contiguous()}
        options["noise"] = "given"
    else:
        options = {k: v for k, v in options.items() if k not in ("noise", "sigma_a", "sigma_m")}
    last, sequence, _ = ops.lipschitz(
        x, *state, **arguments, **options, step=step, wanted=wanted, memory=memory, learns=learns
    )
    return (sequence,)[:wanted], (last,)


def _steps(dt: Tensor, T: int, B: int, H: int) -> Tensor:
    # one step for each unit (H,), or for each row at each time (T, B)
    return dt[:, :, 0].expand(T, B).contiguous() if dt.ndim == 3 else dt.expand(H).contiguous()


def _needs_reference(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a transform is at work that the operators do not know, or the call is exported for other machines."""
    if torch.compiler.is_exporting():
        return True
    if torch.is_autocast_enabled(tensors[0].device.type):
        return True
    if torch.compiler.is_compiling():
        return False
    stack = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    if stack is not None:
        return True
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
