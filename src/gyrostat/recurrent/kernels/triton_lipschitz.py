"""Triton kernels of ``gyrostat::lipschitz``: Euler and midpoint, with or without A and noise, forward and backward.

h⁺ = h + dt f (or f alone),   f = A h + φ(W h + u),   u = U x + b made by torch        twin: ``twin.lipschitz``
γ = g ∂h⁺/∂f,   a = γ φ',   g_h = g + γ A + a W;      dA = Σ γᵀ h,   dW = Σ aᵀ h,   du = a
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
    NOISE,
    PHI,
    ROWS,
    activation,
    launch,
    matrix,
    normals,
    optional,
    pointer,
    product,
    slope,
    step_kind,
    summed,
    uniforms,
)

SOLVERS = ("euler", "midpoint")
SAVE = {"none": 0, "full": 1, "low": 2}
GROUP = 8 * BLOCK  # steps recomputed at a time when memory is low


def unsupported(phi: str, gated: bool, solver: str) -> str:
    """Why a cell has no Triton kernel, or nothing."""
    if gated or phi not in PHI or solver not in SOLVERS:
        what = "gated=True" if gated else f"nonlinearity {phi!r}" if phi not in PHI else f"solver {solver!r}"
        return f"no Triton kernel is built for {what}"
    return ""


@triton.jit
def noise_of(seeds, additive, factor, t, rows, units, place, inside, NOISE: tl.constexpr):
    """The draws of one step: a Gaussian for ``sde``, or the additive part and the factor."""
    first = tl.zeros(inside.shape, tl.float32)
    second = first + 1.0
    if NOISE == 1:
        first = normals(tl.load(seeds + t), rows, units)
    elif NOISE == 2:
        first = normals(tl.load(seeds + t), rows, units * 0)
    elif NOISE == 3:
        first = normals(tl.load(seeds + t), rows, units)
        second = uniforms(tl.load(seeds + t), rows, units)
    elif NOISE == 4:
        first = tl.load(additive + place, mask=inside, other=0.0)
        second = tl.load(factor + place, mask=inside, other=1.0)
    return first, second


@triton.jit
def step_of(dt, step, t, B, H, rows, units, DT: tl.constexpr):
    """The dt of this step, to be broadcast over rows and units."""
    found = tl.full((1, 1), 1.0, tl.float32) * step
    if DT == 1:
        found = tl.load(dt + units, mask=units < H, other=1.0)[None, :]
    elif DT == 2:
        found = tl.load(dt + t * B + rows, mask=rows < B, other=1.0)[:, None]
    return found


@triton.jit
def forward_kernel(
    u, h0, A, W, dt, active, seeds, additive, factor, last, sequence, stash, T, B, H, step, sigma_a, sigma_m,
    LINEAR: tl.constexpr, PHI: tl.constexpr, RESIDUAL: tl.constexpr, STAGES: tl.constexpr, NOISE: tl.constexpr,
    DT: tl.constexpr, HELD: tl.constexpr, WANTED: tl.constexpr, SAVE: tl.constexpr, SLOPES: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps for one tile of rows."""
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    size = B * H
    slot = tl.cast(T, tl.int64) * size
    Wt = matrix(W, units, units, H, 1, H, PRECISION)
    if LINEAR:
        At = matrix(A, units, units, H, 1, H, PRECISION)
    h = tl.load(h0 + tile, mask=inside, other=0.0)
    for t in range(T):
        place = tl.cast(t, tl.int64) * size + tile
        pre = tl.load(u + place, mask=inside, other=0.0)
        d = step_of(dt, step, t, B, H, rows, units, DT)
        if SAVE == 2:
            tl.store(
                stash + tl.cast(t // BLOCK, tl.int64) * size + tile,
                h,
                mask=inside & ((rows * 0 + t % BLOCK) == 0)[:, None],
            )
        p = activation(product(h, Wt, PRECISION) + pre, PHI)
        f = p
        if LINEAR:
            f = product(h, At, PRECISION) + p
        if SAVE == 1:
            tl.store(stash + place, p, mask=inside)
            if SLOPES:
                tl.store(stash + slot + place, f, mask=inside)
        if STAGES == 2:
            middle = h + 0.5 * d * f
            p = activation(product(middle, Wt, PRECISION) + pre, PHI)
            f = p
            if LINEAR:
                f = product(middle, At, PRECISION) + p
            if SAVE == 1:
                tl.store(stash + (1 + SLOPES) * slot + place, p, mask=inside)
                if SLOPES:
                    tl.store(stash + 3 * slot + place, f, mask=inside)
                tl.store(stash + 2 * (1 + SLOPES) * slot + place, middle, mask=inside)
        if NOISE == 0:
            new = h + d * f if RESIDUAL else f
        else:
            first, second = noise_of(seeds, additive, factor, t, rows, units, place, inside, NOISE)
            if NOISE <= 2:
                new = h + (d * f + tl.sqrt(d) * ((sigma_a + sigma_m * f) * first))
            elif NOISE == 3:
                new = h + (d * ((sigma_m * second + (1.0 - sigma_m)) * f) + sigma_a * first)
            else:
                new = h + (d * (second * f) + first)
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            new = tl.where(moves, new, h)
        h = new
        if WANTED:
            tl.store(sequence + place, h, mask=inside)
        elif SAVE == 1:
            tl.store(stash + (STAGES * (1 + SLOPES) + STAGES - 1) * slot + place, h, mask=inside)
    tl.store(last + tile, h, mask=inside)


@triton.jit
def backward_kernel(
    grad_last, grad_sequence, A, W, dt, active, seeds, additive, factor, stash, dh0, pre_1, slope_1, pre_2, slope_2,
    dstep, T, B, H, step, sigma_a, sigma_m,
    LAST: tl.constexpr, EACH: tl.constexpr, LINEAR: tl.constexpr, PHI: tl.constexpr, RESIDUAL: tl.constexpr,
    STAGES: tl.constexpr, NOISE: tl.constexpr, DT: tl.constexpr, HELD: tl.constexpr, SLOPES: tl.constexpr,
    LEARNS: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The steps from the last to the first for one tile of rows; what the weight gradients need goes out."""
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    tile = rows[:, None] * H + units[None, :]
    size = B * H
    slot = tl.cast(T, tl.int64) * size
    W_ = matrix(W, units, units, H, H, 1, PRECISION)
    if LINEAR:
        A_ = matrix(A, units, units, H, H, 1, PRECISION)
    g = tl.zeros((ROWS, HP), tl.float32)
    if LAST:
        g = tl.load(grad_last + tile, mask=inside, other=0.0)
    of_units = tl.zeros((HP,), tl.float32)
    for i in range(T):
        t = T - 1 - i
        place = tl.cast(t, tl.int64) * size + tile
        if EACH:
            g += tl.load(grad_sequence + place, mask=inside, other=0.0)
        d = step_of(dt, step, t, B, H, rows, units, DT)
        moving = g
        if HELD:
            moves = tl.load(active + t * B + rows, mask=rows < B, other=0)[:, None] != 0
            moving = tl.where(moves, g, 0.0)
        by_step = tl.zeros((ROWS, HP), tl.float32) + 1.0
        reach = d + by_step * 0.0
        if RESIDUAL:
            back = moving
        else:
            back = moving * 0.0
            reach = by_step
        draw = by_step
        if NOISE != 0:
            first, second = noise_of(seeds, additive, factor, t, rows, units, place, inside, NOISE)
            if NOISE <= 2:
                reach = d + tl.sqrt(d) * (sigma_m * first)
                draw = first
            elif NOISE == 3:
                draw = sigma_m * second + (1.0 - sigma_m)
                reach = d * draw
            else:
                draw = second
                reach = d * draw
        if STAGES == 2:
            p = tl.load(stash + (1 + SLOPES) * slot + place, mask=inside, other=0.0)
            through = reach * moving
            a = through * slope(p, PHI)
            tl.store(pre_2 + place, a, mask=inside)
            at_middle = product(a, W_, PRECISION)
            if LINEAR:
                tl.store(slope_2 + place, through, mask=inside)
                at_middle += product(through, A_, PRECISION)
            back += at_middle
            if LEARNS:
                f = p
                if SLOPES:
                    f = tl.load(stash + 3 * slot + place, mask=inside, other=0.0)
                by_step = f * moving
            through = 0.5 * d * at_middle
        else:
            through = reach * moving
        p = tl.load(stash + place, mask=inside, other=0.0)
        a = through * slope(p, PHI)
        tl.store(pre_1 + place, a, mask=inside)
        back += product(a, W_, PRECISION)
        if LINEAR:
            tl.store(slope_1 + place, through, mask=inside)
            back += product(through, A_, PRECISION)
        if LEARNS:
            f = p
            if SLOPES:
                f = tl.load(stash + slot + place, mask=inside, other=0.0)
            if STAGES == 2:
                by_step += 0.5 * f * at_middle
            elif NOISE == 0:
                by_step = f * moving
            elif NOISE <= 2:
                by_step = (f + 0.5 / tl.sqrt(d) * ((sigma_a + sigma_m * f) * draw)) * moving
            else:
                by_step = f * draw * moving
            by_step = tl.where(inside, by_step, 0.0)
            if DT == 2:
                tl.store(dstep + t * B + rows, tl.sum(by_step, 1), mask=rows < B)
            else:
                of_units += tl.sum(by_step, 0)
        if HELD:
            back = tl.where(moves, back, g)
        g = back
    tl.store(dh0 + tile, g, mask=inside)
    if LEARNS and DT == 1:
        tl.store(dstep + tl.program_id(0) * H + units, of_units, mask=units < H)


def _settings(
    A: Any, dt: Any, active: Any, phi: str, residual: bool, solver: str, noise: str, H: int
) -> dict[str, Any]:
    return {
        "LINEAR": A is not None, "PHI": PHI[phi], "RESIDUAL": residual, "STAGES": 1 + SOLVERS.index(solver),
        "NOISE": NOISE[noise], "DT": step_kind(dt), "HELD": active is not None, **launch(H),
    }  # fmt: skip


def run_forward(
    u: Tensor, h0: Tensor, A: Any, W: Tensor, dt: Any, active: Any, seeds: Any, additive: Any, factor: Any, step: float,
    phi: str, residual: bool, solver: str, noise: str, sigma_a: float, sigma_m: float, wanted: int, save: str,
    slopes: bool, n_slots: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Last state, sequence and stash from the input products ``u (T, B, H)``."""
    T, B, H = u.shape
    last = torch.empty_like(h0, memory_format=torch.contiguous_format)
    sequence = u.new_empty((T if wanted else 0, B, H))
    shape = {"none": (0,), "full": (n_slots, T, B, H), "low": (1, -(-T // BLOCK), B, H)}[save]
    stash = u.new_empty(shape)
    if B == 0 or T == 0:
        return last.copy_(h0), sequence, stash
    forward_kernel[(triton.cdiv(B, ROWS),)](
        u, h0, pointer(A, u), W, pointer(dt, u), pointer(active, u), pointer(seeds, u), pointer(additive, u),
        pointer(factor, u), last, pointer(sequence, u), pointer(stash, u), T, B, H, step, sigma_a, sigma_m,
        WANTED=wanted > 0, SAVE=SAVE[save], SLOPES=int(slopes), BLOCK=BLOCK,
        **_settings(A, dt, active, phi, residual, solver, noise, H),
    )  # fmt: skip
    return last, sequence, stash


def lipschitz(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lipschitz`` for a GPU."""
    x, h0, weight_ih, bias, A, W, _, dt, active, seeds, additive, factor = arguments[:12]
    step, phi, _, residual, solver, noise, sigma_a, sigma_m, wanted, save, learns_dt = arguments[12:]
    slopes = A is not None and learns_dt
    n_slots = slots_of(slopes, solver, wanted)
    u = F.linear(x, weight_ih, bias)  # (T, B, H)
    return run_forward(
        u, h0.contiguous(), A, W, dt, active, seeds, additive, factor, step, phi, residual, solver, noise, sigma_a,
        sigma_m, wanted, save, slopes, n_slots,
    )  # fmt: skip


def slots_of(slopes: bool, solver: str, wanted: int) -> int:
    """Arrays ``(T, B, H)`` that a full stash holds, as ``shapes.lipschitz_slots`` counts them."""
    stages = 1 + SOLVERS.index(solver)
    return stages * (1 + slopes) + stages - 1 + (wanted == 0)


def lipschitz_backward(grad_last: Tensor | None, grad_sequence: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Kernel of ``gyrostat::lipschitz_backward`` for a GPU.

    With few states kept, pieces of ``GROUP`` steps run forward again from the state at their start, last piece first.
    """
    x, h0, weight_ih, bias, A, W, inner, dt, active, seeds, additive, factor = arguments[:12]
    sequence, stash = arguments[12:14]
    step, phi, _, residual, solver, noise, sigma_a, sigma_m, wanted, save, learns_dt = arguments[14:25]
    needs = arguments[25]
    T, B, H = x.shape[0], x.shape[1], h0.shape[1]
    slopes = A is not None and learns_dt
    if B == 0 or T == 0:
        zeros: list[Any] = [
            None if t is None else torch.zeros_like(t) for t in (x, h0, weight_ih, bias, A, W, inner, dt)
        ]
        zeros[1] = grad_last if grad_last is not None else zeros[1]
        return optional(zeros, needs, x)
    found: dict[str, Any] = {}

    def add(name: str, value: Tensor) -> None:
        found[name] = value if name not in found else found[name] + value

    group = T if save != "low" else GROUP
    u_all = F.linear(x, weight_ih, bias) if save != "full" else None  # (T, B, H)
    g = grad_last
    pieces: list[Tensor] = []
    steps: list[Tensor] = []
    for start in reversed(range(0, T, group)):
        part = slice(start, min(start + group, T))

        def cut(t: Any, part: slice = part) -> Any:
            return t if t is None or t.ndim == 0 else t[part]

        rows_dt = dt if dt is None or dt.ndim == 1 else dt[part].contiguous()
        begin = h0 if start == 0 else stash[0, start // BLOCK]
        own, states = stash, sequence if wanted else stash[-1:].flatten(0, 1) if save == "full" else sequence
        if u_all is not None:
            _, states, own = run_forward(
                u_all[part], begin.contiguous(), A, W, rows_dt, cut(active), cut(seeds), cut(additive), cut(factor), step,
                phi, residual, solver, noise, sigma_a, sigma_m, 1, "full", slopes, slots_of(slopes, solver, 1),
            )  # fmt: skip
        n, given = part.stop - part.start, cut(grad_sequence)
        stages = 1 + SOLVERS.index(solver)
        pre = [x.new_empty(n, B, H) for _ in range(stages)]
        through = [x.new_empty(n, B, H) for _ in range(stages)] if A is not None else []
        dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
        learns = bool(needs[7] and dt is not None)
        programs = triton.cdiv(B, ROWS)
        dstep = x.new_zeros((n, B) if step_kind(dt) == 2 else (programs, H)) if learns else x
        backward_kernel[(programs,)](
            pointer(g, x), pointer(given, x), pointer(A, x), W, pointer(rows_dt, x), pointer(cut(active), x),
            pointer(cut(seeds), x), pointer(cut(additive), x), pointer(cut(factor), x), own, dh0, pre[0],
            (through or pre)[0], pre[-1], (through or pre)[-1], dstep, n, B, H, step, sigma_a, sigma_m,
            LAST=g is not None, EACH=given is not None, SLOPES=int(slopes), LEARNS=learns,
            **_settings(A, dt, active, phi, residual, solver, noise, H),
        )  # fmt: skip
        before = torch.cat([begin[None], states[: n - 1]])  # (n, B, H)
        reads = [before]
        if stages == 2:
            reads.append(own[2 * (1 + slopes)])
        for a, r in zip(pre, reads, strict=True):
            add("W", summed(a, r)) if needs[5] else None
        for f, r in zip(through, reads):
            add("A", summed(f, r)) if needs[4] else None
        du = pre[0] if stages == 1 else pre[0] + pre[1]  # (n, B, H)
        add("weight_ih", summed(du, x[part])) if needs[2] else None
        if bias is not None and needs[3]:
            add("bias", du.sum((0, 1)))
        if needs[0]:
            pieces.insert(0, du @ weight_ih)
        if learns:
            steps.insert(0, dstep if step_kind(dt) == 2 else dstep.sum(0))
        g = dh0
    dt_grad = None if not steps else torch.cat(steps) if step_kind(dt) == 2 else torch.stack(steps).sum(0)
    dx = torch.cat(pieces) if pieces else None
    grads = [dx, g, found.get("weight_ih"), found.get("bias"), found.get("A"), found.get("W"), None, dt_grad]
    return optional(grads, needs, x)
