"""Triton kernels of ``gyrostat::lem``, forward and backward.

z⁺ = z + dt s_z (c_z - z),   y⁺ = y + dt s_y (c_y - y),   s = σ̂(·),  c = tanh(·)             twin: ``twin.lem``
The four gradients before σ̂ and tanh leave the kernel; torch sums them over time into those of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .shapes import BLOCK
from .triton_common import (
    ROWS,
    launch,
    matrix,
    optional,
    pointer,
    product,
    sigmoid,
    step_kind,
    summed,
    tanh,
)
from .triton_lipschitz import GROUP, SAVE, step_of


@triton.jit
def forward_kernel(
    u, y0, z0, weight_hh, weight_zy, dt, active, y, z, ys, zs, stash, T, B, H, step,
    DT: tl.constexpr, HELD: tl.constexpr, WANTED: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, HP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps for one tile of rows; ``u (T, B, 4H)`` has the parts of s_y, s_z, c_y, c_z."""
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    size = B * H
    slot = tl.cast(T, tl.int64) * size
    wide = rows[:, None] * (4 * H) + units[None, :]
    W2 = matrix(weight_hh, units, units, H, 1, H, PRECISION)
    W1 = matrix(weight_hh + H * H, units, units, H, 1, H, PRECISION)
    Wz = matrix(weight_hh + 2 * H * H, units, units, H, 1, H, PRECISION)
    Wy = matrix(weight_zy, units, units, H, 1, H, PRECISION)
    y_now = tl.load(y0 + tile, mask=inside, other=0.0)
    z_now = tl.load(z0 + tile, mask=inside, other=0.0)
    for t in range(T):
        place = tl.cast(t, tl.int64) * size + tile
        at = u + tl.cast(t, tl.int64) * size * 4 + wide
        d = step_of(dt, step, t, B, H, rows, units, DT)
        if SAVE == 2:
            begins = inside & ((rows * 0 + t % BLOCK) == 0)[:, None]
            kept = tl.cast(t // BLOCK, tl.int64) * size + tile
            tl.store(stash + kept, y_now, mask=begins)
            tl.store(stash + tl.cast((T + BLOCK - 1) // BLOCK, tl.int64) * size + kept, z_now, mask=begins)
        s_y = sigmoid(product(y_now, W2, PRECISION) + tl.load(at, mask=inside, other=0.0))
        s_z = sigmoid(product(y_now, W1, PRECISION) + tl.load(at + H, mask=inside, other=0.0))
        c_z = tanh(product(y_now, Wz, PRECISION) + tl.load(at + 3 * H, mask=inside, other=0.0))
        z_new = z_now + d * s_z * (c_z - z_now)
        c_y = tanh(product(z_new, Wy, PRECISION) + tl.load(at + 2 * H, mask=inside, other=0.0))
        y_new = y_now + d * s_y * (c_y - y_now)
        if SAVE == 1:
            tl.store(stash + place, s_y, mask=inside)
            tl.store(stash + slot + place, s_z, mask=inside)
            tl.store(stash + 2 * slot + place, c_y, mask=inside)
            tl.store(stash + 3 * slot + place, c_z, mask=inside)
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            z_new = tl.where(moves, z_new, z_now)
            y_new = tl.where(moves, y_new, y_now)
        y_now, z_now = y_new, z_new
        if WANTED >= 1:
            tl.store(ys + place, y_now, mask=inside)
        elif SAVE == 1:
            tl.store(stash + 5 * slot + place, y_now, mask=inside)
        if WANTED >= 2:
            tl.store(zs + place, z_now, mask=inside)
        elif SAVE == 1:
            tl.store(stash + 4 * slot + place, z_now, mask=inside)
    tl.store(y + tile, y_now, mask=inside)
    tl.store(z + tile, z_now, mask=inside)


@triton.jit
def backward_kernel(
    grad_y, grad_z, grad_ys, grad_zs, weight_hh, weight_zy, dt, active, stash, y0, z0, ys, zs, dy0, dz0, dpre, dstep,
    T, B, H, step,
    LAST_Y: tl.constexpr, LAST_Z: tl.constexpr, EACH_Y: tl.constexpr, EACH_Z: tl.constexpr, DT: tl.constexpr,
    HELD: tl.constexpr, LEARNS: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The steps from the last to the first for one tile of rows."""
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    size = B * H
    slot = tl.cast(T, tl.int64) * size
    wide = rows[:, None] * (4 * H) + units[None, :]
    W2 = matrix(weight_hh, units, units, H, H, 1, PRECISION)
    W1 = matrix(weight_hh + H * H, units, units, H, H, 1, PRECISION)
    Wz = matrix(weight_hh + 2 * H * H, units, units, H, H, 1, PRECISION)
    Wy = matrix(weight_zy, units, units, H, H, 1, PRECISION)
    g_y = tl.zeros((ROWS, HP), tl.float32)
    g_z = tl.zeros((ROWS, HP), tl.float32)
    of_units = tl.zeros((HP,), tl.float32)
    if LAST_Y:
        g_y = tl.load(grad_y + tile, mask=inside, other=0.0)
    if LAST_Z:
        g_z = tl.load(grad_z + tile, mask=inside, other=0.0)
    for i in range(T):
        t = T - 1 - i
        place = tl.cast(t, tl.int64) * size + tile
        earlier = inside & ((rows * 0 + t) > 0)[:, None]
        first = inside & ((rows * 0 + t) == 0)[:, None]
        y_old = tl.load(ys + place - size, mask=earlier, other=0.0) + tl.load(y0 + tile, mask=first, other=0.0)
        z_old = tl.load(zs + place - size, mask=earlier, other=0.0) + tl.load(z0 + tile, mask=first, other=0.0)
        if EACH_Y:
            g_y += tl.load(grad_ys + place, mask=inside, other=0.0)
        if EACH_Z:
            g_z += tl.load(grad_zs + place, mask=inside, other=0.0)
        d = step_of(dt, step, t, B, H, rows, units, DT)
        s_y = tl.load(stash + place, mask=inside, other=0.0)
        s_z = tl.load(stash + slot + place, mask=inside, other=0.0)
        c_y = tl.load(stash + 2 * slot + place, mask=inside, other=0.0)
        c_z = tl.load(stash + 3 * slot + place, mask=inside, other=0.0)
        from_y, from_z = g_y, g_z
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            from_y = tl.where(moves, g_y, 0.0)
            from_z = tl.where(moves, g_z, 0.0)
        a_y = from_y * d * s_y * (1.0 - c_y * c_y)
        a_2 = from_y * d * (c_y - y_old) * s_y * (1.0 - s_y)
        from_z += product(a_y, Wy, PRECISION)
        a_z = from_z * d * s_z * (1.0 - c_z * c_z)
        a_1 = from_z * d * (c_z - z_old) * s_z * (1.0 - s_z)
        if LEARNS:
            by_step = from_y * s_y * (c_y - y_old) + from_z * s_z * (c_z - z_old)
            if DT == 2:
                tl.store(dstep + t * B + rows, tl.sum(by_step, 1), mask=rows < B)
            else:
                of_units += tl.sum(by_step, 0)
        back_y = from_y * (1.0 - d * s_y) + product(a_2, W2, PRECISION)
        back_y += product(a_1, W1, PRECISION) + product(a_z, Wz, PRECISION)
        back_z = from_z * (1.0 - d * s_z)
        at = dpre + tl.cast(t, tl.int64) * size * 4 + wide
        tl.store(at, a_2, mask=inside)
        tl.store(at + H, a_1, mask=inside)
        tl.store(at + 2 * H, a_y, mask=inside)
        tl.store(at + 3 * H, a_z, mask=inside)
        if HELD:
            back_y = tl.where(moves, back_y, g_y)
            back_z = tl.where(moves, back_z, g_z)
        g_y, g_z = back_y, back_z
    tl.store(dy0 + tile, g_y, mask=inside)
    tl.store(dz0 + tile, g_z, mask=inside)
    if LEARNS and DT == 1:
        tl.store(dstep + tl.program_id(0) * H + units, of_units, mask=units < H)


def _settings(dt: Any, active: Any, H: int) -> dict[str, Any]:
    return {
        "DT": step_kind(dt), "HELD": active is not None, **launch(H),
    }  # fmt: skip


def run_forward(
    u: Tensor, y0: Tensor, z0: Tensor, weight_hh: Tensor, weight_zy: Tensor, dt: Any, active: Any, step: float, wanted: int,
    save: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Last states, sequences and stash from the input products ``u (T, B, 4H)``."""
    T, B, H = u.shape[0], u.shape[1], y0.shape[1]
    y, z = (torch.empty_like(s, memory_format=torch.contiguous_format) for s in (y0, z0))
    ys, zs = (u.new_empty((T if wanted > k else 0, B, H)) for k in range(2))
    slots = 4 + max(0, 2 - wanted)
    stash = u.new_empty({"none": (0,), "full": (slots, T, B, H), "low": (2, -(-T // BLOCK), B, H)}[save])
    if B == 0 or T == 0:
        return y.copy_(y0), z.copy_(z0), ys, zs, stash
    forward_kernel[(triton.cdiv(B, ROWS),)](
        u, y0, z0, weight_hh, weight_zy, pointer(dt, u), pointer(active, u), y, z, pointer(ys, u), pointer(zs, u),
        pointer(stash, u), T, B, H, step, WANTED=wanted, SAVE=SAVE[save], BLOCK=BLOCK, **_settings(dt, active, H),
    )  # fmt: skip
    return y, z, ys, zs, stash


def lem(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lem`` for a GPU."""
    x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt, active, step, wanted, save = arguments
    u = F.linear(x, weight_ih, bias)  # (T, B, 4H)
    return run_forward(
        u,
        y0.contiguous(),
        z0.contiguous(),
        weight_hh.contiguous(),
        weight_zy.contiguous(),
        dt,
        active,
        step,
        wanted,
        save,
    )


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
    u_all = F.linear(x, weight_ih, bias) if save != "full" else None  # (T, B, 4H)
    learns = bool(needs[7] and dt is not None)
    programs = triton.cdiv(B, ROWS)
    found: list[Any] = [None] * 8
    pieces: list[Tensor] = []
    steps: list[Tensor] = []
    hidden, other = weight_hh.contiguous(), weight_zy.contiguous()
    group = GROUP if save == "low" else T
    for start in reversed(range(0, T, group)):
        part = slice(start, min(start + group, T))
        n = part.stop - start
        begin = (y0, z0) if start == 0 else stash[:, start // BLOCK].unbind()
        y_begin, z_begin = (s.contiguous() for s in begin)
        rows_dt = dt if dt is None or dt.ndim == 1 else dt[part].contiguous()
        held = None if active is None else active[part]
        if u_all is not None:
            *_, y_states, z_states, own = run_forward(
                u_all[part], y_begin, z_begin, hidden, other, rows_dt, held, step, 2, "full"
            )
        else:
            own = stash
            y_states, z_states = ys if wanted >= 1 else stash[5], zs if wanted >= 2 else stash[4]
        each_y, each_z = (None if g is None else g[part] for g in (grad_ys, grad_zs))
        dpre = x.new_empty(n, B, 4 * H)
        dy0, dz0 = torch.empty_like(y_begin), torch.empty_like(z_begin)
        dstep = x.new_zeros((n, B) if step_kind(dt) == 2 else (programs, H)) if learns else x
        backward_kernel[(programs,)](
            pointer(grad_y, x), pointer(grad_z, x), pointer(each_y, x), pointer(each_z, x), hidden, other,
            pointer(rows_dt, x), pointer(held, x), own, y_begin, z_begin, y_states, z_states, dy0, dz0, dpre, dstep,
            n, B, H, step, LAST_Y=grad_y is not None, LAST_Z=grad_z is not None, EACH_Y=each_y is not None,
            EACH_Z=each_z is not None, LEARNS=learns, **_settings(dt, active, H),
        )  # fmt: skip
        y_before = torch.cat([y_begin[None], y_states[: n - 1]])  # (n, B, H)
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
        if learns:
            steps.insert(0, dstep if step_kind(dt) == 2 else dstep.sum(0))
        grad_y, grad_z = dy0, dz0
    found[0], found[1], found[2] = torch.cat(pieces) if pieces else None, grad_y, grad_z
    found[7] = None if not steps else torch.cat(steps) if step_kind(dt) == 2 else torch.stack(steps).sum(0)
    return optional(found, needs, x)
