"""The fused operators in plain torch, step by step: their oracle, and what double backward differentiates.

h⁺ = h + dt f,      f = (A h + φ(W h + u)) ⊙ σ̂(W h + v)                 gyrostat::lipschitz
z⁺ = z + dt σ̂₁ (tanh_z - z),      y⁺ = y + dt σ̂₂ (tanh_y - y)           gyrostat::lem
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics.philox import normal, uniform
from ...numerics.tableau import rk_step, tableau
from ..cell import NONLINEARITIES, root_of_step


def _unit_or_row(dt: Tensor | None, step: float, t: int) -> Any:
    if dt is None:
        return step
    return dt if dt.ndim == 1 else dt[t][:, None]


def _held(active: Tensor | None, t: int, new: Tensor, old: Tensor) -> Tensor:
    return new if active is None else torch.where(active[t][:, None], new, old)


def _phi(phi: str, a: Tensor, inner_bias: Any) -> Tensor:
    if phi == "modrelu":
        return torch.sign(a) * torch.relu(a.abs() + inner_bias)
    return NONLINEARITIES[phi](a)


def _draws(noise: str, seeds: Any, additive: Any, factor: Any, sigma_a: float, sigma_m: float, h0: Tensor) -> Any:
    """The additive part, the factor of the drift and the Gaussians of a pass, ``(T, B, H)`` each where there are any."""
    B, H = h0.shape
    if noise in ("sde", "scalar"):
        return None, None, normal(seeds, B, H if noise == "sde" else 1, h0)
    if noise == "released":
        return sigma_a * normal(seeds, B, H, h0), sigma_m * uniform(seeds, B, H, h0) + (1 - sigma_m), None
    return additive, factor, None


def lipschitz(
    x: Tensor, h0: Tensor, weight_ih: Tensor, bias: Tensor | None, A: Tensor | None, W: Tensor,
    inner_bias: Tensor | None, dt: Tensor | None, active: Tensor | None, seeds: Tensor | None, additive: Any,
    factor: Any, step: float, phi: str, gated: bool, residual: bool, solver: str, noise: str, sigma_a: float,
    sigma_m: float, *_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The last state and the sequence of ``gyrostat::lipschitz``."""
    H = h0.shape[1]
    additive, factor, xi = _draws(noise, seeds, additive, factor, sigma_a, sigma_m, h0)
    inputs = F.linear(x, weight_ih, bias)  # (T, B, H or 2H)
    h, states = h0, []
    for t in range(x.shape[0]):
        u, v = inputs[t, :, :H], inputs[t, :, H:]  # (B, H) each

        def drift(h: Tensor, u: Tensor = u, v: Tensor = v) -> Tensor:
            Wh = F.linear(h, W)  # (B, H)
            f = _phi(phi, Wh + u, inner_bias)
            f = f if A is None else F.linear(h, A) + f
            return f * torch.sigmoid(Wh + v) if gated else f

        d = _unit_or_row(dt, step, t)
        if not residual:
            new = drift(h)
        elif xi is not None:
            f = drift(h)
            new = h + (d * f + root_of_step(d) * ((sigma_a + sigma_m * f) * xi[t]))
        elif factor is not None:
            new = h + (d * (factor[t] * drift(h)) + additive[t])
        else:
            new = rk_step(tableau(solver), drift, h, d)
        h = _held(active, t, new, h)
        states.append(h)
    return h, torch.stack(states)


def lem(
    x: Tensor, y0: Tensor, z0: Tensor, weight_ih: Tensor, bias: Tensor | None, weight_hh: Tensor, weight_zy: Tensor,
    dt: Tensor | None, active: Tensor | None, step: float, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The last states and the sequences of ``gyrostat::lem``."""
    inputs = F.linear(x, weight_ih, bias)  # (T, B, 4H)
    y, z, ys, zs = y0, z0, [], []
    for t in range(x.shape[0]):
        i2, i1, iy, iz = inputs[t].chunk(4, -1)  # (B, H) each
        h2, h1, hz = F.linear(y, weight_hh).chunk(3, -1)  # (B, H) each
        d = _unit_or_row(dt, step, t)
        new_z = z + d * torch.sigmoid(i1 + h1) * (torch.tanh(iz + hz) - z)
        new_y = y + d * torch.sigmoid(i2 + h2) * (torch.tanh(F.linear(new_z, weight_zy) + iy) - y)
        z, y = _held(active, t, new_z, z), _held(active, t, new_y, y)
        ys.append(y)
        zs.append(z)
    return y, z, torch.stack(ys), torch.stack(zs)


def gradients(function: Any, inputs: tuple[Any, ...], options: tuple[Any, ...], given: Any, needs: list[bool]) -> list:
    """Gradients of the first eight inputs, themselves differentiable where grad mode is on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves: list[Any] = [
            i if again or i is None else i.detach().requires_grad_(n) for i, n in zip(inputs[:8], needs)
        ]
        outputs = function(*leaves, *inputs[8:], *options)
        pairs: list[Any] = [(o, g) for o, g in zip(outputs, given) if g is not None]
        wanted = [leaf for leaf, n in zip(leaves, needs) if n]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=again, allow_unused=True
            )
        )
    return [next(found) if n else None for n in needs]
