"""The time loop: plain Python in eager mode, torch's scan operator under compile and export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cell import Cell, State, Step


def run_cell(
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
    """The time loop: ``x (T, B, F)`` to the states ``(T, B, H)`` and the last ones ``(B, H)``.

    ``active (T, B or 1, 1)`` says where the state moves; elsewhere it is held. ``wanted`` is how many of the states are
    returned as sequences, all by default; ``memory`` is for the fused runners, this loop keeps what autograd keeps.
    """
    per_step = isinstance(dt, Tensor) and dt.ndim == 3
    wanted = len(state) if wanted is None else wanted
    weights = cell.prepare(parameters, None if per_step else dt)
    streams: list[Any] = [x, *cell.draws(extras, state[0])]
    streams += ([dt] if per_step else []) + ([active] if active is not None else [])

    def advance(state: State, inputs: tuple[Tensor, ...]) -> State:
        inputs, held = (inputs[:-1], inputs[-1]) if active is not None else (inputs, None)
        inputs, dt_t = (inputs[:-1], inputs[-1]) if per_step else (inputs, dt)
        new = cell.step(weights, inputs[0], state, dt_t, inputs[1:])
        return new if held is None else tuple(torch.where(held, n, s) for n, s in zip(new, state))

    if torch.compiler.is_compiling():
        sequences, last = _scan(advance, state, streams)
        return sequences[:wanted], last
    history: list[State] = []
    for x_t, *rest in zip(*(s.unbind(0) for s in streams)):
        # a copy of its own, because matrix products may round differently on memory that is aligned differently
        state = advance(state, (x_t.clone(), *rest))
        history.append(state[:wanted])
    return tuple(torch.stack(h) for h in zip(*history)), state


def _scan(advance: Any, state: State, streams: list[Any]) -> tuple[State, State]:
    # an unrolled loop compiles for minutes and fixes T; torch's scan operator does neither
    from torch._higher_order_ops.scan import scan

    def combine(carry: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        new = advance(tuple(carry), tuple(inputs))
        return [n.clone() for n in new], [n.clone() for n in new]

    last, history = scan(combine, [s.clone() for s in state], streams)
    return tuple(history), tuple(last)
