"""Triton kernels of ``gyrostat::lipschitz``: Euler and midpoint, with or without A and noise, forward and backward.

h⁺ = h + dt f (or f alone),   f = A h + φ(W h + u),   u = U x + b made by torch        twin: ``twin.lipschitz``
γ = g ∂h⁺/∂f,   a = γ φ',   g_h = g + γ A + a W;      dA = Σ γᵀ h,   dW = Σ aᵀ h,   du = a
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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
    pointer,
    product,
    slope,
    step_kind,
    uniforms,
)

SOLVERS = ("euler", "midpoint")
SAVE = {"none": 0, "full": 1, "low": 2}


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
def advance(
    h, f, d, seeds, additive, factor, t, rows, units, place, inside, sigma_a, sigma_m, RESIDUAL: tl.constexpr,
    NOISE: tl.constexpr,
):  # fmt: skip
    """The state after a step of length d along the drift f."""
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
    return new


@triton.jit
def reach_of(
    d, seeds, additive, factor, t, rows, units, place, inside, sigma_m, RESIDUAL: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """The derivative of ``advance`` by f, and the draw that the derivative by d reads."""
    one = tl.zeros(inside.shape, tl.float32) + 1.0
    reach, draw = d + one * 0.0, one
    if not RESIDUAL:
        reach = one
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
    return reach, draw


@triton.jit
def by_dt(f, d, draw, sigma_a, sigma_m, NOISE: tl.constexpr):
    """The derivative of ``advance`` by d."""
    if NOISE == 0:
        found = f
    elif NOISE <= 2:
        found = f + 0.5 / tl.sqrt(d) * ((sigma_a + sigma_m * f) * draw)
    else:
        found = f * draw
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
        new = advance(
            h, f, d, seeds, additive, factor, t, rows, units, place, inside, sigma_a, sigma_m, RESIDUAL, NOISE
        )
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
        reach, draw = reach_of(d, seeds, additive, factor, t, rows, units, place, inside, sigma_m, RESIDUAL, NOISE)
        back = moving
        if not RESIDUAL:
            back = moving * 0.0
        by_step = moving
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
            else:
                by_step = by_dt(f, d, draw, sigma_a, sigma_m, NOISE) * moving
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


class Pass(NamedTuple):
    """Arguments of ``gyrostat::lipschitz`` that do not depend on how it is computed."""

    A: Tensor | None
    W: Tensor
    dt: Tensor | None
    active: Tensor | None
    seeds: Tensor | None
    additive: Tensor | None
    factor: Tensor | None
    step: float
    phi: str
    residual: bool
    solver: str
    noise: str
    sigma_a: float
    sigma_m: float

    def part(self, steps: slice) -> Pass:
        """The same for some of the steps."""
        cut = {k: getattr(self, k) for k in ("active", "seeds", "additive", "factor")}
        cut = {k: v if v is None else v[steps] for k, v in cut.items()}
        dt = self.dt if self.dt is None or self.dt.ndim == 1 else self.dt[steps].contiguous()
        return self._replace(dt=dt, **cut)

    def stages(self) -> int:
        """Drifts for a step."""
        return 1 + SOLVERS.index(self.solver)

    def constants(self) -> dict[str, Any]:
        """What the kernels know when they are compiled."""
        return {
            "LINEAR": self.A is not None, "PHI": PHI[self.phi], "RESIDUAL": self.residual, "NOISE": NOISE[self.noise],
            "DT": step_kind(self.dt), "HELD": self.active is not None,
        }  # fmt: skip

    def pointers(self, like: Tensor) -> tuple[Tensor, ...]:
        """The tensors beside the matrices, with a substitute for those that are absent."""
        return tuple(pointer(t, like) for t in (self.dt, self.active, self.seeds, self.additive, self.factor))


def outputs(u: Tensor, h0: Tensor, wanted: int, save: str, n_slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the last state, the sequence and the stash."""
    T, B, H = u.shape
    shape = {"none": (0,), "full": (n_slots, T, B, H), "low": (1, -(-T // BLOCK), B, H)}[save]
    last = torch.empty_like(h0, memory_format=torch.contiguous_format)
    return last, u.new_empty((T if wanted else 0, B, H)), u.new_empty(shape)


def run_forward(
    u: Tensor, h0: Tensor, p: Pass, wanted: int, save: str, slopes: bool, n_slots: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Last state, sequence and stash from the input products ``u (T, B, H)``."""
    T, B, H = u.shape
    last, sequence, stash = outputs(u, h0, wanted, save, n_slots)
    forward_kernel[(triton.cdiv(B, ROWS),)](
        u, h0, pointer(p.A, u), p.W, *p.pointers(u), last, pointer(sequence, u), pointer(stash, u), T, B, H, p.step,
        p.sigma_a, p.sigma_m, WANTED=wanted > 0, SAVE=SAVE[save], SLOPES=int(slopes), BLOCK=BLOCK, STAGES=p.stages(),
        **p.constants(), **launch(H),
    )  # fmt: skip
    return last, sequence, stash


def run_backward(
    g: Tensor | None, given: Tensor | None, stash: Tensor, p: Pass, slopes: bool, learns: bool
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor | None]:
    """Per stage the gradients inside φ and of the drift, ``(n, B, H)``; of the state before; of dt, ``(n, B)`` or rows of H."""
    n, B, H = stash.shape[1:]
    pre = [stash.new_empty(n, B, H) for _ in range(p.stages())]
    through = [stash.new_empty(n, B, H) for _ in range(p.stages())] if p.A is not None else []
    dh0 = stash.new_empty(B, H)
    programs = triton.cdiv(B, ROWS)
    dstep = stash.new_zeros((n, B) if step_kind(p.dt) == 2 else (programs, H)) if learns else None
    backward_kernel[(programs,)](
        pointer(g, stash), pointer(given, stash), pointer(p.A, stash), p.W, *p.pointers(stash), stash, dh0, pre[0],
        (through or pre)[0], pre[-1], (through or pre)[-1], pointer(dstep, stash), n, B, H, p.step, p.sigma_a, p.sigma_m,
        LAST=g is not None, EACH=given is not None, SLOPES=int(slopes), LEARNS=learns, STAGES=p.stages(),
        **p.constants(), **launch(H),
    )  # fmt: skip
    return pre, through, dh0, dstep
