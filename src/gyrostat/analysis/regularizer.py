r"""What noise inside a recurrence adds to the loss, to second order, as a differentiable number.

    h_{m+1} = h_m + δ_m f + ε √δ_m σ(h_m) ξ_m,  σ = σ₁ I + σ₂ diag f:    E ℓ(h_M) = ℓ(h̄_M) + (ε²/2)(P + Q) + O(ε⁴)
    C_{m+1} = J_m C_m J_mᵀ + δ_m σ_m σ_mᵀ,      J_m = I + δ_m ∂f/∂h,     C_0 = 0
    w_{m+1} = J_m w_m + δ_m v_m,                [v_m]_i = tr(C_m ∇²f_i),  w_0 = 0
    Q = tr(∇²ℓ C_M),    P = ∇ℓ · w_M,    P + Q = tr ∇²_ξ ℓ at ξ = 0

C and w are the sums over Φ of the paper's formula, gathered step by step: O(M d³) instead of O(M² d³).

Source: Noisy Recurrent Neural Networks, arXiv:2102.04877 (explicit regularisation).
Differs from the released code: it was never released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._results import Result
from ._arguments import steps
from ._models import drift


@dataclass(frozen=True)
class ExplicitRegularizer(Result):
    """P and Q of the expansion ``E ℓ = ℓ + (ε²/2)(P + Q)``; all tensors keep their graph.

    Attributes:
        value: ``P + Q`` (exact), an unbiased estimate of it (hutchinson), or Q (gauss_newton); add ``ε²/2`` times it.
        P: Curvature of the drift, of either sign; None where it is not computed on its own.
        Q: Frobenius norms of state-to-state Jacobians weighted by the loss Hessian; None likewise.
        mode: How it was computed.
        loss: Loss of the noiseless path.
    """

    value: Tensor
    P: Tensor | None
    Q: Tensor | None
    mode: str
    loss: Tensor


def explicit_regularizer(
    model: Any,
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    state: Tensor | None = None,
    *,
    dt: Any,
    sigma1: float = 0.0,
    sigma2: float = 0.0,
    mode: str = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> ExplicitRegularizer:
    """The explicit regulariser of noise injection; differentiable in the weights.

    Args:
        model: A one-layer LipschitzRNN or NoisyRNN, or the drift ``f(h (B, d), x (B, F)) -> (B, d)``.
        loss: Of the last state ``(B, d)``, a sum or mean of terms of single samples; a scalar.
        x: Inputs ``(M, F)`` or ``(M, B, F)``, time first.
        state: ``h_0`` ``(d,)`` or ``(B, d)``; needed with a function, zero for a layer when left out.
        dt: δ, a number or ``(M,)``.
        sigma1: Additive noise.
        sigma2: Noise proportional to the drift.
        mode: ``"exact"``; ``"hutchinson"``: ``vᵀ∇²_ξℓ v`` over Rademacher v, one product per probe, unbiased;
            ``"gauss_newton"``: Q alone, not negative for a convex loss.
        probes: For ``"hutchinson"``.
        generator: For ``"hutchinson"``; a fixed seed when left out.

    Raises:
        ArgumentError: ``dt <= 0``, a negative noise level, shapes that do not fit, an unknown mode.
        ArgumentTypeError: The model has no drift.

    Source: arXiv:2102.04877.

    Example:
        >>> import torch
        >>> still = lambda h, x: 0 * h
        >>> loss = lambda h: (h**2).sum() / 2
        >>> result = explicit_regularizer(still, loss, torch.zeros(5, 1), torch.ones(3), dt=0.1, sigma1=2.0)
        >>> round(result.Q.item(), 4), result.P.item()  # sigma1² · total time · trace
        (6.0, 0.0)
    """
    where = "explicit_regularizer"
    rules = {
        "sigma1": Real(low=0),
        "sigma2": Real(low=0),
        "mode": OneOf(("exact", "hutchinson", "gauss_newton")),
        "probes": Integer(low=1),
    }
    check(rules, locals(), where)
    f = drift(model, where)
    if not isinstance(x, Tensor) or x.ndim not in (2, 3) or x.shape[0] == 0:
        raise ArgumentError(f"{where}: x must be a tensor (M, F) or (M, B, F) with at least one step")
    sequence = x[:, None] if x.ndim == 2 else x  # (M, B, F)
    M, B = sequence.shape[:2]
    if state is None:
        d = getattr(model, "hidden_size", None)
        if d is None:
            raise ArgumentError(f"{where}: state must be given with a function f(h, x): its size is not known")
        state = sequence.new_zeros(B, d)
    h = state.expand(B, -1) if state.ndim == 1 else state
    if h.shape[0] != B:
        raise ArgumentError(f"{where}: state must have the batch of x, {B}, got {h.shape[0]}")
    delta = steps(dt, where).to(h)
    if delta.numel() not in (1, M):
        raise ArgumentError(f"{where}: dt must be a number or one per step, {M}, got {delta.numel()}")
    delta = delta.expand(M)
    with torch.enable_grad():
        if mode == "hutchinson":
            return _hutchinson(f, loss, sequence, h, delta, sigma1, sigma2, probes, generator)
        return _closed_form(f, loss, sequence, h, delta, sigma1, sigma2, mode)


def _closed_form(
    f: Callable[[Tensor, Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    h: Tensor,
    delta: Tensor,
    sigma1: float,
    sigma2: float,
    mode: str,
) -> ExplicitRegularizer:
    from torch.func import jacrev, vmap

    def single(h: Tensor, x: Tensor) -> Tensor:
        return f(h[None], x[None])[0]

    B, d = h.shape
    eye = torch.eye(d, dtype=h.dtype, device=h.device)
    C, w = h.new_zeros(B, d, d), h.new_zeros(B, d)
    for m in range(len(x)):
        step = delta[m]
        drift_now = f(h, x[m])  # (B, d)
        J = eye + step * vmap(jacrev(single))(h, x[m])  # (B, d, d)
        if mode == "exact":
            w = torch.einsum("bij,bj->bi", J, w)
            if m > 0:
                second = vmap(jacrev(jacrev(single)))(h, x[m])  # (B, d, d, d): output, then both inputs
                w = w + step * torch.einsum("bac,biac->bi", C, second)
        sigma = sigma1 + sigma2 * drift_now  # (B, d)
        C = J @ C @ J.mT + torch.diag_embed(step * sigma**2)
        h = h + step * drift_now
    end = h if h.requires_grad else h.requires_grad_()
    value = loss(end)
    (g,) = torch.autograd.grad(value, end, create_graph=True)
    Q = h.new_zeros(())
    for i in range(d):
        if not g.requires_grad:
            break  # a linear loss has no curvature
        (row,) = torch.autograd.grad(g[:, i].sum(), end, create_graph=True, allow_unused=True)
        if row is not None:
            Q = Q + (row * C[:, i]).sum()
    if mode == "gauss_newton":
        return ExplicitRegularizer(Q, None, Q, mode, value)
    P = (g * w).sum()
    return ExplicitRegularizer(P + Q, P, Q, mode, value)


def noisy_path(
    f: Callable[[Tensor, Tensor], Tensor], x: Tensor, h: Tensor, delta: Tensor, sigma1: float, sigma2: float, xi: Tensor
) -> Tensor:
    """The last state of ``h ← h + δ f + √δ (σ₁ + σ₂ f) ξ`` for given draws ``xi (M, B, d)``."""
    for m in range(len(x)):
        drift_now = f(h, x[m])
        h = h + delta[m] * drift_now + delta[m].sqrt() * (sigma1 + sigma2 * drift_now) * xi[m]
    return h


def _hutchinson(
    f: Callable[[Tensor, Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    h: Tensor,
    delta: Tensor,
    sigma1: float,
    sigma2: float,
    probes: int,
    generator: torch.Generator | None,
) -> ExplicitRegularizer:
    draw = generator if generator is not None else torch.Generator().manual_seed(0)
    xi = h.new_zeros(len(x), *h.shape).requires_grad_()
    value = loss(noisy_path(f, x, h, delta, sigma1, sigma2, xi))
    (g,) = torch.autograd.grad(value, xi, create_graph=True)
    total = h.new_zeros(())
    for _ in range(probes):
        v = (torch.randint(0, 2, xi.shape, generator=draw, device=draw.device) * 2 - 1).to(xi)
        (Hv,) = torch.autograd.grad((g * v).sum(), xi, create_graph=True)
        total = total + (v * Hv).sum()
    return ExplicitRegularizer(total / probes, None, None, "hutchinson", value)
