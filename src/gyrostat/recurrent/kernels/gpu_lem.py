"""``gyrostat::lem`` on a GPU: the input products, the steps by one of two engines, the sums over time.

z⁺ = z + dt s_z (c_z - z),   y⁺ = y + dt s_y (c_y - y),   s = σ̂(·),  c = tanh(·)             twin: ``twin.lem``
As for ``gpu_lipschitz``, the steps are made by ``triton_lem`` while the matrices fit a GPU core, else by ``graph_lem``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import graph_lem, triton_lem
from .gpu_lipschitz import GROUP
from .shapes import BLOCK
from .triton_common import optional, step_kind, summed, too_large
from .triton_lem import Pass


def engine(H: int) -> Any:
    """What makes the steps: a module with ``run_forward`` and ``run_backward``."""
    return graph_lem if too_large("lem", H) else triton_lem


def lem(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lem`` for a GPU."""
    x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt, active, step, wanted, save = arguments
    u = F.linear(x, weight_ih, bias)  # (T, B, 4H)
    if x.shape[0] == 0 or x.shape[1] == 0:
        y, z, ys, zs, stash = triton_lem.outputs(u, y0, wanted, save)
        return y.copy_(y0), z.copy_(z0), ys, zs, stash
    p = Pass(weight_hh.contiguous(), weight_zy.contiguous(), dt, active, step)
    return engine(y0.shape[1]).run_forward(u, y0.contiguous(), z0.contiguous(), p, wanted, save)


def lem_backward(*arguments: Any) -> list[Tensor]:
    """Kernel of ``gyrostat::lem_backward`` for a GPU; pieces run forward again where few states were kept."""
    grad_y, grad_z, grad_ys, grad_zs, x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt, active = arguments[:13]
    ys, zs, stash, step, wanted, save, needs = arguments[13:]
    T, B, H = x.shape[0], x.shape[1], y0.shape[1]
    if B == 0 or T == 0:
        zeros: list[Any] = [
            None if t is None else torch.zeros_like(t) for t in (x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt)
        ]
        zeros[1], zeros[2] = (g if g is not None else zero for g, zero in zip((grad_y, grad_z), zeros[1:3]))
        return optional(zeros, needs, x)
    steps_by, whole = engine(H), Pass(weight_hh.contiguous(), weight_zy.contiguous(), dt, active, step)
    u_all = F.linear(x, weight_ih, bias) if save != "full" else None  # (T, B, 4H)
    learns = bool(needs[7] and dt is not None)
    found: list[Any] = [None] * 8
    pieces: list[Tensor] = []
    steps: list[Tensor] = []
    g = (grad_y, grad_z)
    group = GROUP if save == "low" else T
    for start in reversed(range(0, T, group)):
        part = slice(start, min(start + group, T))
        n, p = part.stop - part.start, whole.part(part)
        begin = (y0, z0) if start == 0 else stash[:, start // BLOCK].unbind()
        begin = tuple(s.contiguous() for s in begin)
        if u_all is not None:
            *_, y_states, z_states, own = steps_by.run_forward(u_all[part], *begin, p, 2, "full")
        else:
            own = stash
            y_states, z_states = ys if wanted >= 1 else stash[5], zs if wanted >= 2 else stash[4]
        each = tuple(t if t is None else t[part] for t in (grad_ys, grad_zs))
        dpre, g, dstep = steps_by.run_backward(g, each, begin, (y_states, z_states), own, p, learns)
        y_before = torch.cat([begin[0][None], y_states[: n - 1]])  # (n, B, H)
        of_y = torch.cat([dpre[..., : 2 * H], dpre[..., 3 * H :]], -1)  # (n, B, 3H)
        # where the state is held these gradients are zero, so what z would have become there does not matter
        parts = {3: (dpre, x[part]), 5: (of_y, y_before), 6: (dpre[..., 2 * H : 3 * H], z_states)}
        for k, (grad, reads) in parts.items():
            if needs[k]:
                value = summed(grad, reads)
                found[k] = value if found[k] is None else found[k] + value
        if bias is not None and needs[4]:
            total = dpre.sum((0, 1))
            found[4] = total if found[4] is None else found[4] + total
        if needs[0]:
            pieces.insert(0, dpre @ weight_ih)
        if dstep is not None:
            steps.insert(0, dstep if step_kind(dt) == 2 else dstep.sum(0))
    found[0], found[1], found[2] = torch.cat(pieces) if pieces else None, *g
    found[7] = None if not steps else torch.cat(steps) if step_kind(dt) == 2 else torch.stack(steps).sum(0)
    return optional(found, needs, x)
