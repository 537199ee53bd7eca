r"""Influence through any set of parameters: products with the curvature, never the matrix where it would be large.

    hessian       H v = ∇_θ(∇_θ L · v),                        L = (1/n) Σ_i CE(f(x_i), y_i)
    gauss_newton  H v = (1/n) Σ_i J_iᵀ (diag p_i − p_i p_iᵀ) J_i v,      positive semi-definite always
    scores        s_t = (H + λI)⁻¹ ∇ℓ_t,      s_t · ∇ℓ_i = dℓ_i(θ + τ s_t)/dτ, all i in one forward-mode pass

Source: Koh and Liang, arXiv:1703.04730; the experiments of arXiv:2007.05869.
Differs from the released code: it has the last layer only, and the full matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from .._errors import ArgumentError
from ..analysis.hessian import HessianOperator
from ..numerics.krylov import conjugate_gradient
from .head import Solved
from .parts import below, module_of

Progress = Callable[[int, int], None]


def cross_entropy_each(logits: Tensor, y: Tensor) -> Tensor:
    """Loss of every sample, ``(B,)``."""
    return torch.nn.functional.cross_entropy(logits, y, reduction="none")


class ChosenParameters:
    """A copy of the model in ``dtype`` whose chosen parameters are one flat vector; all in evaluation mode."""

    def __init__(self, model: nn.Module, names: str | Sequence[str], dtype: torch.dtype, where: str) -> None:
        self.model = copy.deepcopy(model).to(dtype).eval()
        parts = [""] if names == "all" else [names] if isinstance(names, str) else list(names)
        known = dict(self.model.named_parameters())
        for part in parts:
            if part not in known:
                module_of(self.model, part, where)
        self.chosen = {n: p for n, p in known.items() if below(n, parts)}
        if not self.chosen:
            raise ArgumentError(f"{where}: parameters={names!r} has no parameters below it")
        for name, p in known.items():
            p.requires_grad_(name in self.chosen)
        self.n = sum(p.numel() for p in self.chosen.values())

    def theta(self) -> Tensor:
        """The parameters as they are, ``(p,)``."""
        return torch.cat([p.detach().reshape(-1) for p in self.chosen.values()])

    def call(self, theta: Tensor, x: Tensor) -> Tensor:
        """Logits at other parameters."""
        sizes = [p.numel() for p in self.chosen.values()]
        pieces = {n: t.view_as(p) for (n, p), t in zip(self.chosen.items(), theta.split(sizes))}
        return functional_call(self.model, pieces, (x,))

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of one sample's loss, ``(p,)``."""
        loss = cross_entropy_each(self.model(x[None]), y[None]).sum()
        found = torch.autograd.grad(loss, list(self.chosen.values()), allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(found, self.chosen.values())]
        )

    def along(self, s: Tensor, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """``∇ℓ_i · s`` for all samples, ``(n,)``."""
        theta = self.theta()
        pieces = []
        for x, y in batches:
            pieces.append(jvp(lambda t, x=x, y=y: cross_entropy_each(self.call(t, x), y), (theta,), (s,))[1].detach())
        return torch.cat(pieces)


class GaussNewtonOperator:
    """``v ↦ H v`` on flat vectors ``(p,)``, summed over batches."""

    def __init__(self, at: ChosenParameters, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.at, self.batches, self.n = at, batches, at.n
        self.samples = sum(len(y) for _, y in batches)

    def __call__(self, v: Tensor) -> Tensor:
        """The product of the Gauss-Newton matrix with ``v (p,)``."""
        theta = self.at.theta()
        total = torch.zeros_like(v)
        for x, _ in self.batches:
            logits, Jv = jvp(lambda t, x=x: self.at.call(t, x), (theta,), (v,))[:2]
            p = logits.softmax(1)
            back: Any = vjp(lambda t, x=x: self.at.call(t, x), theta)[1]
            total = total + back((p * Jv - p * (p * Jv).sum(1, keepdim=True)) / self.samples)[0].detach()
        return total


def curvature_operator(
    at: ChosenParameters, batches: list[tuple[Tensor, Tensor]], kind: str, where: str
) -> Callable[[Tensor], Tensor]:
    """Products with the Hessian or the Gauss-Newton matrix of the mean loss."""
    if kind == "gauss_newton":
        return GaussNewtonOperator(at, batches)
    return HessianOperator(at.model, torch.nn.functional.cross_entropy, list(batches), where)


def solve_columns(
    product: Callable[[Tensor], Tensor],
    G: Callable[[int], Tensor],
    count: int,
    shift: float,
    tol: float,
    max_steps: int | None,
    use: Callable[[int, Tensor, Tensor], None],
    progress: Progress | None,
) -> Solved:
    """Conjugate gradients, one right-hand side after another; ``use(i, g, x)`` takes each solution and lets it go."""
    worst, products, size = 0.0, 0, 0
    for i in range(count):
        g = G(i)
        size = len(g)
        try:
            found = conjugate_gradient(product, g, damping=shift, tol=tol, max_steps=max_steps)
        except ArgumentError as error:
            if "positive definite" not in str(error):
                raise
            raise ArgumentError(
                "influence_scores: the Hessian has a direction of negative curvature; take curvature='gauss_newton', or "
                "raise damping= above its size"
            ) from error
        worst, products = max(worst, found.residual), products + found.iterations
        use(i, g, found.x)
        if progress:
            progress(i + 1, count)
    return Solved(torch.empty(0), worst, products, size)


def dense(product: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The matrix of a product, column by column, symmetric to the last bit."""
    H = torch.stack([product(e).detach() for e in torch.eye(len(theta), dtype=theta.dtype, device=theta.device)], 1)
    return (H + H.T) / 2
