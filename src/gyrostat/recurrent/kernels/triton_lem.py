"""Triton kernels of ``gyrostat::lem``, forward and backward.

z⁺ = z + dt s_z (c_z - z),   y⁺ = y + dt s_y (c_y - y),   s = σ̂(·),  c = tanh(·)             twin: ``twin.lem``
The four gradients before σ̂ and tanh leave the kernel; torch sums them over time into those of the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .shapes import BLOCK
from .triton_common import (
    ROWS,
    launch,
    matrix,
    pointer,
    product,
    sigmoid,
    step_kind,
    tanh,
)
from .triton_lipschitz import SAVE, step_of


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


class Pass(NamedTuple):
    """Arguments of ``gyrostat::lem`` that do not depend on how it is computed."""

    weight_hh: Tensor
    weight_zy: Tensor
    dt: Tensor | None
    active: Tensor | None
    step: float

    def part(self, steps: slice) -> Pass:
        """The same for some of the steps."""
        dt = self.dt if self.dt is None or self.dt.ndim == 1 else self.dt[steps].contiguous()
        return self._replace(dt=dt, active=None if self.active is None else self.active[steps])

    def constants(self) -> dict[str, Any]:
        """What the kernels know when they are compiled."""
        return {"DT": step_kind(self.dt), "HELD": self.active is not None}


def outputs(u: Tensor, y0: Tensor, wanted: int, save: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for the last states, the sequences and the stash."""
    T, B, H = u.shape[0], *y0.shape
    y, z = u.new_empty(B, H), u.new_empty(B, H)
    ys, zs = (u.new_empty((T if wanted > k else 0, B, H)) for k in range(2))
    slots = 4 + max(0, 2 - wanted)
    return y, z, ys, zs, u.new_empty({"none": (0,), "full": (slots, T, B, H), "low": (2, -(-T // BLOCK), B, H)}[save])


def run_forward(
    u: Tensor, y0: Tensor, z0: Tensor, p: Pass, wanted: int, save: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Last states, sequences and stash from the input products ``u (T, B, 4H)``."""
    T, B, H = u.shape[0], *y0.shape
    y, z, ys, zs, stash = outputs(u, y0, wanted, save)
    forward_kernel[(triton.cdiv(B, ROWS),)](
        u, y0, z0, p.weight_hh, p.weight_zy, pointer(p.dt, u), pointer(p.active, u), y, z, pointer(ys, u),
        pointer(zs, u), pointer(stash, u), T, B, H, p.step, WANTED=wanted, SAVE=SAVE[save], BLOCK=BLOCK,
        **p.constants(), **launch(H),
    )  # fmt: skip
    return y, z, ys, zs, stash


def run_backward(
    last: tuple[Tensor | None, Tensor | None], each: tuple[Tensor | None, Tensor | None], start: tuple[Tensor, Tensor],
    states: tuple[Tensor, Tensor], stash: Tensor, p: Pass, learns: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:  # fmt: skip
    """The gradients before σ̂ and tanh ``(n, B, 4H)``, of the states before, of dt: ``(n, B)`` or rows of H.

    ``last``, ``each``, ``start`` and ``states`` are pairs for y and z: gradients of the last states and of the sequences, the
    states before and after the steps.
    """
    n, B, H = states[0].shape
    dpre, dy0, dz0 = stash.new_empty(n, B, 4 * H), stash.new_empty(B, H), stash.new_empty(B, H)
    programs = triton.cdiv(B, ROWS)
    dstep = stash.new_zeros((n, B) if step_kind(p.dt) == 2 else (programs, H)) if learns else None
    given = (pointer(t, stash) for t in (*last, *each))
    backward_kernel[(programs,)](
        *given, p.weight_hh, p.weight_zy, pointer(p.dt, stash), pointer(p.active, stash), stash, *start, *states, dy0, dz0,
        dpre, pointer(dstep, stash), n, B, H, p.step, LAST_Y=last[0] is not None, LAST_Z=last[1] is not None,
        EACH_Y=each[0] is not None, EACH_Z=each[1] is not None, LEARNS=learns, **p.constants(), **launch(H),
    )  # fmt: skip
    return dpre, (dy0, dz0), dstep
