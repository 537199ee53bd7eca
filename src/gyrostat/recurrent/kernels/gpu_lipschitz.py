"""``gyrostat::lipschitz`` on a GPU: the input products, the steps by one of two engines, the sums over time.

h⁺ = h + dt f (or f alone),   f = A h + φ(W h + u),   u = U x + b                      twin: ``twin.lipschitz``
dA = Σ γᵀ h,   dW = Σ aᵀ h,   du = a,   where a and γ are the gradients inside φ and of f

The steps are made by one kernel (``triton_lipschitz``) while the matrices fit a GPU core, by a product of torch and a kernel
for each step (``graph_lipschitz``) beyond.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import graph_lipschitz, triton_lipschitz
from .shapes import BLOCK
from .triton_common import optional, step_kind, summed, too_large
from .triton_lipschitz import Pass

GROUP = 8 * BLOCK  # steps recomputed at a time when memory is low


def engine(solver: str, H: int) -> Any:
    """What makes the steps: a module with ``run_forward`` and ``run_backward``."""
    return graph_lipschitz if too_large(solver, H) else triton_lipschitz


def _pass(arguments: tuple[Any, ...], options: tuple[Any, ...]) -> Pass:
    A, W, _, dt, active, seeds, additive, factor = arguments[4:12]
    step, phi, _, residual, solver, noise, sigma_a, sigma_m = options[:8]
    A = A if A is None else A.contiguous()
    return Pass(
        A, W.contiguous(), dt, active, seeds, additive, factor, step, phi, residual, solver, noise, sigma_a, sigma_m
    )


def _slots(slopes: bool, p: Pass, wanted: int) -> int:
    # arrays (T, B, H) that a full stash holds, as shapes.lipschitz_slots counts them
    return p.stages() * (1 + slopes) + p.stages() - 1 + (wanted == 0)


def lipschitz(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lipschitz`` for a GPU."""
    x, h0, weight_ih, bias = arguments[:4]
    wanted, save, learns_dt = arguments[20:]
    p = _pass(arguments, arguments[12:])
    slopes = p.A is not None and learns_dt
    u = F.linear(x, weight_ih, bias)  # (T, B, H)
    n_slots = _slots(slopes, p, wanted)
    if x.shape[0] == 0 or x.shape[1] == 0:
        last, sequence, stash = triton_lipschitz.outputs(u, h0, wanted, save, n_slots)
        return last.copy_(h0), sequence, stash
    return engine(p.solver, h0.shape[1]).run_forward(u, h0.contiguous(), p, wanted, save, slopes, n_slots)


def lipschitz_backward(grad_last: Tensor | None, grad_sequence: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Kernel of ``gyrostat::lipschitz_backward`` for a GPU.

    With few states kept, pieces of ``GROUP`` steps run forward again from the state at their start, last piece first.
    """
    x, h0, weight_ih, bias, A, W, inner, dt = arguments[:8]
    sequence, stash = arguments[12:14]
    wanted, save, learns_dt, needs = arguments[22:]
    p = _pass(arguments, arguments[14:])
    T, B, H = x.shape[0], x.shape[1], h0.shape[1]
    slopes = A is not None and learns_dt
    if B == 0 or T == 0:
        zeros: list[Any] = [
            None if t is None else torch.zeros_like(t) for t in (x, h0, weight_ih, bias, A, W, inner, dt)
        ]
        zeros[1] = grad_last if grad_last is not None else zeros[1]
        return optional(zeros, needs, x)
    steps_by = engine(p.solver, H)
    found: dict[str, Any] = {}

    def add(name: str, value: Tensor) -> None:
        found[name] = value if name not in found else found[name] + value

    group = T if save != "low" else GROUP
    u_all = F.linear(x, weight_ih, bias) if save != "full" else None  # (T, B, H)
    g = grad_last
    learns = bool(needs[7] and dt is not None)
    pieces: list[Tensor] = []
    steps: list[Tensor] = []
    for start in reversed(range(0, T, group)):
        part = slice(start, min(start + group, T))
        own_pass = p.part(part)
        begin = h0 if start == 0 else stash[0, start // BLOCK]
        own, states = stash, sequence if wanted else stash[-1:].flatten(0, 1) if save == "full" else sequence
        if u_all is not None:
            _, states, own = steps_by.run_forward(
                u_all[part], begin.contiguous(), own_pass, 1, "full", slopes, _slots(slopes, p, 1)
            )
        n, given = part.stop - part.start, None if grad_sequence is None else grad_sequence[part]
        pre, through, g, dstep = steps_by.run_backward(g, given, own, own_pass, slopes, learns)
        before = torch.cat([begin[None], states[: n - 1]])  # (n, B, H)
        reads = [before] if len(pre) == 1 else [before, own[2 * (1 + slopes)]]
        for a, r in zip(pre, reads, strict=True):
            add("W", summed(a, r)) if needs[5] else None
        for f, r in zip(through, reads):
            add("A", summed(f, r)) if needs[4] else None
        du = pre[0] if len(pre) == 1 else pre[0] + pre[1]  # (n, B, H)
        add("weight_ih", summed(du, x[part])) if needs[2] else None
        if bias is not None and needs[3]:
            add("bias", du.sum((0, 1)))
        if needs[0]:
            pieces.insert(0, du @ weight_ih)
        if dstep is not None:
            steps.insert(0, dstep if step_kind(dt) == 2 else dstep.sum(0))
    dt_grad = None if not steps else torch.cat(steps) if step_kind(dt) == 2 else torch.stack(steps).sum(0)
    dx = torch.cat(pieces) if pieces else None
    grads = [dx, g, found.get("weight_ih"), found.get("bias"), found.get("A"), found.get("W"), None, dt_grad]
    return optional(grads, needs, x)
