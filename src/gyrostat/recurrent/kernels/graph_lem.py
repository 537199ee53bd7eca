"""Steps of ``gyrostat::lem`` for sizes beyond ``triton_lem``: two products of torch and two kernels for a step.

P = y [W₂ W₁ W_z]ᵀ,   z⁺ = z + dt s_z (c_z - z);      Q = z⁺ W_yᵀ,   y⁺ = y + dt s_y (c_y - y)       twin: ``twin.lem``
The steps of a chunk are one CUDA graph, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .graph import Plan, Recorded, chunk_of, chunks, plan
from .graph_lipschitz import TILE, grid
from .shapes import BLOCK
from .triton_common import pointer, sigmoid, step_kind, tanh
from .triton_lem import Pass, outputs
from .triton_lipschitz import step_of

SLOTS = ("s_y", "s_z", "c_y", "c_z")  # as the stash has them


@triton.jit
def _place(t, B, H, ROWS: tl.constexpr, UNITS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    return rows, units, inside, tile, tl.cast(t, tl.int64) * B * H + tile


@triton.jit(do_not_specialize=["t"])
def forward_point(
    products, u, ys, zs, s_y, s_z, c_y, c_z, dt, active, t, B, H, step, SECOND: tl.constexpr, DT: tl.constexpr,
    HELD: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """The pointwise part of step t: to the next z, then (``SECOND``) to the next y."""
    rows, units, inside, tile, place = _place(t, B, H, ROWS, UNITS)
    d = step_of(dt, step, t, B, H, rows, units, DT)
    at = u + tl.cast(t, tl.int64) * B * 4 * H + rows[:, None] * (4 * H) + units[None, :]
    if SECOND:
        old = tl.load(ys + place, mask=inside, other=0.0)
        gate = tl.load(s_y + place, mask=inside, other=0.0)
        c = tanh(tl.load(products + tile, mask=inside, other=0.0) + tl.load(at + 2 * H, mask=inside, other=0.0))
        tl.store(c_y + place, c, mask=inside)
        to = ys
    else:
        old = tl.load(zs + place, mask=inside, other=0.0)
        three = products + rows[:, None] * (3 * H) + units[None, :]
        other = tl.load(three, mask=inside, other=0.0) + tl.load(at, mask=inside, other=0.0)
        tl.store(s_y + place, sigmoid(other), mask=inside)
        gate = sigmoid(tl.load(three + H, mask=inside, other=0.0) + tl.load(at + H, mask=inside, other=0.0))
        c = tanh(tl.load(three + 2 * H, mask=inside, other=0.0) + tl.load(at + 3 * H, mask=inside, other=0.0))
        tl.store(s_z + place, gate, mask=inside)
        tl.store(c_z + place, c, mask=inside)
        to = zs
    new = old + d * gate * (c - old)
    if HELD:
        moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
        new = tl.where(moves, new, old)
    tl.store(to + B * H + place, new, mask=inside)


@triton.jit(do_not_specialize=["t"])
def backward_point(
    g, given, g_z, given_z, base, a_y, of_y, s_y, s_z, c_y, c_z, ys, zs, dsteps, dt, active, t, B, H, step,
    SECOND: tl.constexpr, EACH: tl.constexpr, EACH_Z: tl.constexpr, LEARNS: tl.constexpr, DT: tl.constexpr,
    HELD: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Step t back: the part of y, which prepares ``g_z`` for its product, then (``SECOND``) that of z."""
    rows, units, inside, tile, place = _place(t, B, H, ROWS, UNITS)
    d = step_of(dt, step, t, B, H, rows, units, DT)
    three = of_y + tl.cast(t, tl.int64) * B * 3 * H + rows[:, None] * (3 * H) + units[None, :]
    total_z = tl.load(g_z + tile, mask=inside, other=0.0)
    moves = inside
    if HELD:
        moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
    if SECOND:
        # g_z has the gradient of the new z; where the state is held, that is the gradient of the old one
        from_z = total_z
        if HELD:
            from_z = tl.where(moves, total_z, 0.0)
        gate, c = tl.load(s_z + place, mask=inside, other=0.0), tl.load(c_z + place, mask=inside, other=0.0)
        old = tl.load(zs + place, mask=inside, other=0.0)
        tl.store(three + H, from_z * d * (c - old) * gate * (1.0 - gate), mask=inside)
        tl.store(three + 2 * H, from_z * d * gate * (1.0 - c * c), mask=inside)
        tl.store(g_z + tile, total_z - from_z * (d * gate), mask=inside)
        if LEARNS:
            earlier = tl.load(dsteps + place, mask=inside, other=0.0)
            tl.store(dsteps + place, earlier + from_z * gate * (c - old), mask=inside)
    else:
        total = tl.load(g + tile, mask=inside, other=0.0)
        if EACH:
            total += tl.load(given + place, mask=inside, other=0.0)
        if EACH_Z:
            tl.store(g_z + tile, total_z + tl.load(given_z + place, mask=inside, other=0.0), mask=inside)
        from_y = total
        if HELD:
            from_y = tl.where(moves, total, 0.0)
        gate, c = tl.load(s_y + place, mask=inside, other=0.0), tl.load(c_y + place, mask=inside, other=0.0)
        old = tl.load(ys + place, mask=inside, other=0.0)
        tl.store(a_y + place, from_y * d * gate * (1.0 - c * c), mask=inside)
        tl.store(three, from_y * d * (c - old) * gate * (1.0 - gate), mask=inside)
        tl.store(base + tile, total - from_y * (d * gate), mask=inside)
        if LEARNS:
            tl.store(dsteps + place, from_y * gate * (c - old), mask=inside)


def _own(made: Plan, p: Pass, C: int, like: Tensor) -> tuple[Tensor, ...]:
    # buffers for what changes from call to call, with a substitute for what is absent
    dt = made.like_steps("dt", p.dt, None if step_kind(p.dt) == 1 else C)
    return pointer(dt, like), pointer(made.like_steps("active", p.active, C), like)


def _key(p: Pass, B: int, H: int) -> tuple[Any, ...]:
    return (chunk_of(B, H), B, H, step_kind(p.dt), p.active is not None, p.step)


def _fill(made: Plan, p: Pass, part: slice) -> None:
    made.fill(part, active=p.active, **({"dt": p.dt} if step_kind(p.dt) == 2 else {}))


def _fill_once(made: Plan, p: Pass) -> None:
    made.fill(hidden=p.weight_hh, other=p.weight_zy, **({"dt": p.dt} if step_kind(p.dt) == 1 else {}))


def _forward_plan(like: Tensor, p: Pass, C: int, B: int, H: int) -> Plan:
    made = Plan(like)
    u, hidden, other = made.empty("u", C, B, 4 * H), made.empty("hidden", 3 * H, H), made.empty("other", H, H)
    ys, zs = made.empty("y", C + 1, B, H), made.empty("z", C + 1, B, H)
    three, one = made.empty("three", B, 3 * H), made.empty("one", B, H)
    rest = (u, ys, zs, *(made.empty(k, C, B, H) for k in SLOTS), *_own(made, p, C, u))
    first, second = ({"SECOND": k, **p.constants(), **TILE} for k in (False, True))
    sizes: dict[str, Any] = {"B": B, "H": H, "step": p.step}

    def body(n: int) -> None:
        for t in range(n):
            torch.mm(ys[t], hidden.T, out=three)
            forward_point[grid(B, H)](three, *rest, t=t, **sizes, **first)
            torch.mm(zs[t + 1], other.T, out=one)
            forward_point[grid(B, H)](one, *rest, t=t, **sizes, **second)

    made.run = Recorded(body, like.device)
    return made


def run_forward(
    u: Tensor, y0: Tensor, z0: Tensor, p: Pass, wanted: int, save: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``triton_lem.run_forward``."""
    T, B, H = u.shape[0], *y0.shape
    y, z, ys, zs, stash = outputs(u, y0, wanted, save)
    C = chunk_of(B, H)
    made = plan(lambda: _forward_plan(u, p, C, B, H), u, "lem forward", *_key(p, B, H))
    with made.lock:
        _fill_once(made, p)
        states = made.buffers["y"], made.buffers["z"]
        for own, start in zip(states, (y0, z0)):
            own[0].copy_(start)
        for part, n in chunks(T, C):
            made.fill(part, u=u)
            _fill(made, p, part)
            made.run(n)
            for k, (own, whole, slot) in enumerate(zip(states, (ys, zs), (5, 4))):
                if wanted > k:
                    whole[part] = own[1 : n + 1]
                elif save == "full":
                    stash[slot, part] = own[1 : n + 1]
                if save == "low":
                    stash[k, part.start // BLOCK : -(-part.stop // BLOCK)] = own[:n:BLOCK]
            if save == "full":
                for slot, name in zip(stash, SLOTS):
                    slot[part] = made.buffers[name][:n]
            for own in states:
                own[0].copy_(own[n])
        y.copy_(states[0][0])
        z.copy_(states[1][0])
    return y, z, ys, zs, stash


def _backward_plan(like: Tensor, p: Pass, C: int, B: int, H: int, each: tuple[bool, bool], learns: bool) -> Plan:
    made = Plan(like)
    g, g_z, base = (made.empty(k, B, H) for k in ("g_y", "g_z", "base"))
    hidden, other = made.empty("hidden", 3 * H, H), made.empty("other", H, H)
    given, given_z = (made.empty(k, C, B, H) if there else g for k, there in zip(("each_y", "each_z"), each))
    a_y, of_y = made.empty("a_y", C, B, H), made.empty("of_y", C, B, 3 * H)
    kept = [made.empty(k, C, B, H) for k in (*SLOTS, "y", "z")]
    dsteps = made.empty("dsteps", C, B, H) if learns else g
    rest = (g, given, g_z, given_z, base, a_y, of_y, *kept, dsteps, *_own(made, p, C, g))
    constants: dict[str, Any] = {"EACH": each[0], "EACH_Z": each[1], "LEARNS": learns, **p.constants(), **TILE}
    sizes: dict[str, Any] = {"B": B, "H": H, "step": p.step}
    first, second = ({"SECOND": k, **constants} for k in (False, True))

    def body(n: int) -> None:
        for t in reversed(range(n)):
            backward_point[grid(B, H)](*rest, t=t, **sizes, **first)
            g_z.addmm_(a_y[t], other)
            backward_point[grid(B, H)](*rest, t=t, **sizes, **second)
            torch.addmm(base, of_y[t], hidden, out=g)

    made.run = Recorded(body, like.device)
    return made


def run_backward(
    last: tuple[Tensor | None, Tensor | None], each: tuple[Tensor | None, Tensor | None], start: tuple[Tensor, Tensor],
    states: tuple[Tensor, Tensor], stash: Tensor, p: Pass, learns: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:  # fmt: skip
    """As ``triton_lem.run_backward``."""
    n_steps, B, H = states[0].shape
    C, there = chunk_of(B, H), (each[0] is not None, each[1] is not None)
    make = lambda: _backward_plan(stash, p, C, B, H, there, learns)  # noqa: E731
    made = plan(make, stash, "lem backward", there, learns, *_key(p, B, H))
    dpre = stash.new_empty(n_steps, B, 4 * H)
    by_row = step_kind(p.dt) == 2
    dstep = stash.new_zeros((n_steps, B) if by_row else (1, H)) if learns else None
    with made.lock:
        own = made.buffers
        _fill_once(made, p)
        for name, g in zip(("g_y", "g_z"), last):
            own[name].copy_(g) if g is not None else own[name].zero_()
        for part, n in reversed(list(chunks(n_steps, C))):
            made.fill(part, each_y=each[0], each_z=each[1], **dict(zip(SLOTS, stash)))
            _fill(made, p, part)
            for name, begin, after in zip("yz", start, states):
                # the states before the steps of the part
                own[name][0] = after[part.start - 1] if part.start else begin
                own[name][1:n] = after[part.start : part.stop - 1]
            made.run(n)
            dpre[part, :, : 2 * H] = own["of_y"][:n, :, : 2 * H]
            dpre[part, :, 2 * H : 3 * H] = own["a_y"][:n]
            dpre[part, :, 3 * H :] = own["of_y"][:n, :, 2 * H :]
            if dstep is not None and by_row:
                dstep[part] = own["dsteps"][:n].sum(-1)
            elif dstep is not None:
                dstep += own["dsteps"][:n].sum((0, 1))
        return dpre, (own["g_y"].clone(), own["g_z"].clone()), dstep
