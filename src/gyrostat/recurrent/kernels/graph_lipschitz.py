"""Steps of ``gyrostat::lipschitz`` for sizes beyond ``triton_lipschitz``: a product of torch and a kernel for each stage.

P = h [W A]ᵀ,   p = φ(P_W + u),   f = P_A + p,   h⁺ = h + dt f (or f alone)            twin: ``twin.lipschitz``
γ = g ∂h⁺/∂f,   a = γ φ',   g_h = g + [a γ] [W; A]
The steps of a chunk are one CUDA graph. For midpoint the stage is made twice, from h and from h + dt f / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .graph import Plan, Recorded, chunk_of, chunks, plan
from .shapes import BLOCK
from .triton_common import activation, pointer, slope, step_kind
from .triton_lipschitz import Pass, advance, by_dt, outputs, reach_of, step_of

TILE = {"ROWS": 8, "UNITS": 128}


@triton.jit(do_not_specialize=["t"])
def forward_point(
    products, u, states, middle, p_kept, f_kept, dt, active, seeds, additive, factor, t, B, H, step, sigma_a, sigma_m,
    MIDDLE: tl.constexpr, KEEP: tl.constexpr, SLOPES: tl.constexpr, LINEAR: tl.constexpr, PHI: tl.constexpr,
    RESIDUAL: tl.constexpr, NOISE: tl.constexpr, DT: tl.constexpr, HELD: tl.constexpr, ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):  # fmt: skip
    """The pointwise part of one stage at step t: to the middle of the step, or to the next state."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    place = tl.cast(t, tl.int64) * B * H + rows[:, None] * H + units[None, :]
    at = rows[:, None] * ((1 + LINEAR) * H) + units[None, :]
    d = step_of(dt, step, t, B, H, rows, units, DT)
    h = tl.load(states + place, mask=inside, other=0.0)
    p = tl.load(products + at, mask=inside, other=0.0) + tl.load(u + place, mask=inside, other=0.0)
    p = activation(p, PHI)
    f = p
    if LINEAR:
        f = tl.load(products + at + H, mask=inside, other=0.0) + p
    if KEEP:
        tl.store(p_kept + place, p, mask=inside)
        if SLOPES:
            tl.store(f_kept + place, f, mask=inside)
    if MIDDLE:
        tl.store(middle + place, h + 0.5 * d * f, mask=inside)
    else:
        new = advance(
            h, f, d, seeds, additive, factor, t, rows, units, place, inside, sigma_a, sigma_m, RESIDUAL, NOISE
        )
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            new = tl.where(moves, new, h)
        tl.store(states + B * H + place, new, mask=inside)


@triton.jit(do_not_specialize=["t"])
def backward_point(
    g, given, base, back, grads, p_kept, f_kept, dsteps, dt, active, seeds, additive, factor, t, B, H, step, sigma_a,
    sigma_m,
    FIRST: tl.constexpr, EACH: tl.constexpr, LEARNS: tl.constexpr, SLOPES: tl.constexpr, LINEAR: tl.constexpr,
    PHI: tl.constexpr, RESIDUAL: tl.constexpr, NOISE: tl.constexpr, DT: tl.constexpr, HELD: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """The gradients of one stage at step t: of the last stage from g, of the first one of two from what came back to it."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    place = tl.cast(t, tl.int64) * B * H + tile
    d = step_of(dt, step, t, B, H, rows, units, DT)
    p = tl.load(p_kept + place, mask=inside, other=0.0)
    f = p
    if SLOPES:
        f = tl.load(f_kept + place, mask=inside, other=0.0)
    if FIRST:
        came = tl.load(back + tile, mask=inside, other=0.0)
        through = 0.5 * d * came
        tl.store(base + tile, tl.load(base + tile, mask=inside, other=0.0) + came, mask=inside)
        if LEARNS:
            earlier = tl.load(dsteps + place, mask=inside, other=0.0)
            tl.store(dsteps + place, earlier + 0.5 * f * came, mask=inside)
    else:
        total = tl.load(g + tile, mask=inside, other=0.0)
        if EACH:
            total += tl.load(given + place, mask=inside, other=0.0)
        moving = total
        kept = total
        if not RESIDUAL:
            kept = tl.zeros((ROWS, UNITS), tl.float32)
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            moving = tl.where(moves, total, 0.0)
            kept = tl.where(moves, kept, total)
        reach, draw = reach_of(d, seeds, additive, factor, t, rows, units, place, inside, sigma_m, RESIDUAL, NOISE)
        through = reach * moving
        tl.store(base + tile, kept, mask=inside)
        if LEARNS:
            tl.store(dsteps + place, by_dt(f, d, draw, sigma_a, sigma_m, NOISE) * moving, mask=inside)
    at = tl.cast(t, tl.int64) * B * (1 + LINEAR) * H + rows[:, None] * ((1 + LINEAR) * H) + units[None, :]
    tl.store(grads + at, through * slope(p, PHI), mask=inside)
    if LINEAR:
        tl.store(grads + at + H, through, mask=inside)


def grid(B: int, H: int) -> tuple[int, int]:
    """Programs of a pointwise kernel."""
    return triton.cdiv(B, TILE["ROWS"]), triton.cdiv(H, TILE["UNITS"])


def _weights(p: Pass) -> Tensor:
    return p.W.contiguous() if p.A is None else torch.cat([p.W, p.A])  # (H or 2H, H)


def _timed(p: Pass) -> dict[str, Tensor | None]:
    return {k: getattr(p, k) for k in ("active", "seeds", "additive", "factor")}


def _own(made: Plan, p: Pass, C: int, like: Tensor) -> tuple[Tensor, ...]:
    """What ``p.pointers`` gives, on buffers of a plan."""
    own = {k: made.like_steps(k, t, C) for k, t in _timed(p).items()}
    return p._replace(dt=made.like_steps("dt", p.dt, None if step_kind(p.dt) == 1 else C), **own).pointers(like)


def _key(p: Pass, B: int, H: int) -> tuple[Any, ...]:
    # everything that a recording has inside itself
    return (chunk_of(B, H), B, H, *(v if not isinstance(v, Tensor) else v.ndim for v in p))


def _fill(made: Plan, p: Pass, part: slice) -> None:
    made.fill(part, **_timed(p), **({"dt": p.dt} if step_kind(p.dt) == 2 else {}))


def _fill_once(made: Plan, p: Pass) -> None:
    made.fill(weights=_weights(p), **({"dt": p.dt} if step_kind(p.dt) == 1 else {}))


def _forward_plan(like: Tensor, p: Pass, C: int, B: int, H: int, keep: bool, slopes: bool) -> Plan:
    made, stages, wide = Plan(like), p.stages(), (1 + (p.A is not None)) * H
    u, states, weights = made.empty("u", C, B, H), made.empty("states", C + 1, B, H), made.empty("weights", wide, H)
    own = _own(made, p, C, u)
    products, middle = made.empty("products", B, wide), made.empty("middle", C if stages == 2 else 0, B, H)
    kept = [[made.empty(f"{k}{i}", C, B, H) if keep else u for k in ("p", "f")[: 1 + slopes]] for i in range(stages)]
    constants = {"KEEP": keep, "SLOPES": int(slopes), **p.constants(), **TILE}
    stage = [{"MIDDLE": i + 1 < stages, **constants} for i in range(stages)]
    sizes: dict[str, Any] = {"B": B, "H": H, "step": p.step, "sigma_a": p.sigma_a, "sigma_m": p.sigma_m}

    def body(n: int) -> None:
        for t in range(n):
            for i in range(stages):
                torch.mm(middle[t] if i else states[t], weights.T, out=products)
                forward_point[grid(B, H)](
                    products, u, states, pointer(middle, u), kept[i][0], kept[i][-1], *own, t=t, **sizes, **stage[i],
                )  # fmt: skip

    made.run = Recorded(body, like.device)
    return made


def run_forward(
    u: Tensor, h0: Tensor, p: Pass, wanted: int, save: str, slopes: bool, n_slots: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``triton_lipschitz.run_forward``."""
    T, B, H = u.shape
    last, sequence, stash = outputs(u, h0, wanted, save, n_slots)
    keep, C = save == "full", chunk_of(B, H)
    make: Callable[[], Plan] = lambda: _forward_plan(u, p, C, B, H, keep, slopes)  # noqa: E731
    made = plan(make, u, "lipschitz forward", keep, slopes, *_key(p, B, H))
    names = [f"{k}{i}" for i in range(p.stages()) for k in ("p", "f")[: 1 + slopes]]
    names += ["middle"] if p.stages() == 2 else []
    with made.lock:
        _fill_once(made, p)
        states = made.buffers["states"]
        states[0].copy_(h0)
        for part, n in chunks(T, C):
            made.fill(part, u=u)
            _fill(made, p, part)
            made.run(n)
            if wanted:
                sequence[part] = states[1 : n + 1]
            elif keep:
                stash[-1, part] = states[1 : n + 1]
            if keep:
                for slot, name in zip(stash, names):
                    slot[part] = made.buffers[name][:n]
            elif save == "low":
                stash[0, part.start // BLOCK : -(-part.stop // BLOCK)] = states[:n:BLOCK]
            states[0].copy_(states[n])
        last.copy_(states[0])
    return last, sequence, stash


def _backward_plan(like: Tensor, p: Pass, C: int, B: int, H: int, each: bool, slopes: bool, learns: bool) -> Plan:
    made, stages, wide = Plan(like), p.stages(), (1 + (p.A is not None)) * H
    g, base, back = (made.empty(k, B, H) for k in ("g", "base", "back"))
    weights = made.empty("weights", wide, H)
    own = _own(made, p, C, g)
    given = made.empty("given", C, B, H) if each else g
    dsteps = made.empty("dsteps", C, B, H) if learns else g
    grads = [made.empty(f"grads{i}", C, B, wide) for i in range(stages)]
    kept = [[made.empty(f"{k}{i}", C, B, H) for k in ("p", "f")[: 1 + slopes]] for i in range(stages)]
    constants = {"EACH": each, "LEARNS": learns, "SLOPES": int(slopes), **p.constants(), **TILE}
    stage = [{"FIRST": i + 1 < stages, **constants} for i in range(stages)]
    sizes: dict[str, Any] = {"B": B, "H": H, "step": p.step, "sigma_a": p.sigma_a, "sigma_m": p.sigma_m}

    def body(n: int) -> None:
        for t in reversed(range(n)):
            for i in reversed(range(stages)):
                backward_point[grid(B, H)](
                    g, given, base, back, grads[i], kept[i][0], kept[i][-1], dsteps, *own, t=t, **sizes,
                    **stage[i],
                )  # fmt: skip
                if i:
                    torch.mm(grads[i][t], weights, out=back)
                else:
                    torch.addmm(base, grads[i][t], weights, out=g)

    made.run = Recorded(body, like.device)
    return made


def run_backward(
    g: Tensor | None, given: Tensor | None, stash: Tensor, p: Pass, slopes: bool, learns: bool
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor | None]:
    """As ``triton_lipschitz.run_backward``."""
    n_steps, B, H = stash.shape[1:]
    C, each = chunk_of(B, H), given is not None
    make: Callable[[], Plan] = lambda: _backward_plan(stash, p, C, B, H, each, slopes, learns)  # noqa: E731
    made = plan(make, stash, "lipschitz backward", each, slopes, learns, *_key(p, B, H))
    names = [f"{k}{i}" for i in range(p.stages()) for k in ("p", "f")[: 1 + slopes]]
    pre = [stash.new_empty(n_steps, B, H) for _ in range(p.stages())]
    through = [stash.new_empty(n_steps, B, H) for _ in range(p.stages())] if p.A is not None else []
    by_row = step_kind(p.dt) == 2
    dstep = stash.new_zeros((n_steps, B) if by_row else (1, H)) if learns else None
    with made.lock:
        _fill_once(made, p)
        state = made.buffers["g"]
        state.copy_(g) if g is not None else state.zero_()
        for part, n in reversed(list(chunks(n_steps, C))):
            made.fill(part, given=given, **dict(zip(names, stash)))
            _fill(made, p, part)
            made.run(n)
            for i in range(p.stages()):
                found = made.buffers[f"grads{i}"][:n]
                pre[i][part] = found[..., :H]
                if through:
                    through[i][part] = found[..., H:]
            if dstep is not None and by_row:
                dstep[part] = made.buffers["dsteps"][:n].sum(-1)
            elif dstep is not None:
                dstep += made.buffers["dsteps"][:n].sum((0, 1))
        return pre, through, state.clone(), dstep
