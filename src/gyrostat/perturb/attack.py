r"""Adversarial inputs: the projected gradient method in an L∞ or L2 ball around the clean input.

    linf  x ← x + η sign(G),           δ ← clip(x − x⁰, −ε, ε)
    l2    x ← x + η G_i / ‖G_i‖₂,      δ ← δ · min(1, ε / ‖δ‖₂)             per sample
    x ← clip(x⁰ + δ, low, high),       G = ∇_x Σ_i CE(model(x)_i, y_i)       (targeted: −G)
    fgsm  one step of size ε from x⁰

Source: the attack used by Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869; Madry et al.,
arXiv:1706.06083; Goodfellow et al., arXiv:1412.6572.
Differs from the released code: the projection divides by the norm itself, not by the norm plus 1e-7 (points agree to
about 1e-7 in L2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError, NonFiniteError

NORMS = ("linf", "l2")
Bounds = tuple[float, float] | None
_RULES = {
    "norm": OneOf(NORMS),
    "eps": Real(low=0),
    "steps": Integer(low=1),
    "step_size": Real(low=0, closed="neither", optional=True),
    "random_start": Boolean(),
    "best": Boolean(),
}


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode while the block lasts; every module gets its own mode back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        # cuDNN's recurrences refuse a backward pass in evaluation mode
        with torch.backends.cudnn.flags(enabled=not any(isinstance(m, nn.RNNBase) for m in modules)):
            yield
    finally:
        for m, mode in zip(modules, modes):
            m.training = mode


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _norms(x: Tensor) -> Tensor:
    return _per_sample(x.flatten(1).norm(dim=1), x)


def _project(x: Tensor, clean: Tensor, norm: str, eps: float, bounds: Bounds) -> Tensor:
    delta = x - clean
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        size = _norms(delta)
        delta = torch.where(size > eps, delta * (eps / size.clamp_min(torch.finfo(x.dtype).tiny)), delta)
    x = clean + delta
    return x if bounds is None else x.clamp(*bounds)


def _check_input(x: Any, y: Any, bounds: Bounds, where: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise ArgumentTypeError(f"{where}: x must be a floating tensor with a batch dimension")
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"{where}: x has NaN or Inf")
    if not isinstance(y, Tensor) or len(y) != len(x):
        raise ArgumentError(f"{where}: y must be a tensor with one entry per sample, {len(x)}")
    if bounds is not None:
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ArgumentError(f"{where}: bounds must be (low, high) or None, got {bounds!r}")
        if x.numel() and (float(x.min()) < bounds[0] - 1e-6 or float(x.max()) > bounds[1] + 1e-6):
            raise ArgumentError(
                f"{where}: x leaves bounds {bounds}: it lies in [{float(x.min()):.4g}, {float(x.max()):.4g}]; "
                "normalise inside the model, or pass the bounds of your data, or bounds=None"
            )


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    targeted: Tensor | None = None,
    best: bool = True,
    bounds: Bounds = (0.0, 1.0),
    start: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Inputs near ``x`` on which the model's loss is large; the model is in evaluation mode meanwhile.

    Args:
        model: From inputs to logits ``(B, K)``; normalisation belongs inside.
        x: Clean inputs ``(B, ...)``: images, sequences, anything with a batch dimension.
        y: Labels ``(B,)``.
        norm: ``"linf"`` or ``"l2"`` (per sample, over all its elements).
        eps: Radius of the ball.
        steps: Gradient steps.
        step_size: η, ``2.5 eps / steps`` when left out.
        random_start: Start from a random point (L∞: uniform in the ball; L2: on the sphere).
        targeted: Labels ``(B,)`` to be reached: their loss is made small.
        best: Return each sample's worst iterate, the start included, instead of the last one.
        bounds: Range of valid inputs, None for unbounded ones.
        start: A start of your own instead of ``x``.
        loss: Per-sample loss ``(output, y) -> (B,)``, cross-entropy when left out.
        generator: For the random start.

    Returns:
        Inputs of the shape of ``x``, inside the ball and the bounds.

    Raises:
        ArgumentError: ``x`` outside the bounds, a label per sample missing, a value outside its rule.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
        >>> bool((pgd(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
        True
    """
    check(_RULES, locals(), "pgd")
    _check_input(x, y, bounds, "pgd")
    if targeted is not None and (not isinstance(targeted, Tensor) or targeted.shape != y.shape):
        raise ArgumentError(f"pgd: targeted must be labels of shape {tuple(y.shape)}")
    measure = loss if loss is not None else _cross_entropy
    goal, sign = (y, 1.0) if targeted is None else (targeted, -1.0)
    eta = step_size if step_size is not None else 2.5 * eps / steps
    clean = x.detach()
    point = clean if start is None else start.detach()
    if random_start:
        point = clean + _random_offset(clean, norm, eps, generator)
    if random_start or start is not None:
        point = point if bounds is None else point.clamp(*bounds)
    record = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    kept = point.clone()
    if len(x) == 0:
        return kept

    def note(losses: Tensor, at: Tensor) -> None:
        nonlocal record, kept
        better = sign * losses.detach() > record
        record = torch.where(better, sign * losses.detach(), record)
        kept = torch.where(_per_sample(better, at), at, kept)

    with evaluation_mode(model), torch.enable_grad():
        for _ in range(steps):
            at = point.detach().requires_grad_()
            losses = measure(model(at), goal)  # (B,)
            (G,) = torch.autograd.grad(losses.sum(), at)
            if best:
                note(losses, point)
            if norm == "linf":
                direction = G.sign()
            else:
                size = _norms(G)
                direction = G / torch.where(size > 0, size, torch.ones_like(size))
            point = _project(point + sign * eta * direction, clean, norm, eps, bounds)
        if not best:
            return point
        with torch.no_grad():
            note(measure(model(point), goal), point)
    return kept


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def _random_offset(x: Tensor, norm: str, eps: float, generator: torch.Generator | None) -> Tensor:
    if norm == "linf":
        return eps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1)
    g = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return eps * g / _norms(g).clamp_min(torch.finfo(x.dtype).tiny)


def fgsm(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: Bounds = (0.0, 1.0),
    targeted: Tensor | None = None,
) -> Tensor:
    """The fast gradient sign method: one L∞ step of size ``eps``; arguments as in :func:`pgd`.

    Source: arXiv:1412.6572.

    Example:
        >>> import torch
        >>> x = torch.full((1, 2), 0.5)
        >>> fgsm(lambda x: x * torch.tensor([1.0, 0.0]), x, torch.tensor([0]), eps=0.25)
        tensor([[0.2500, 0.5000]])
    """
    return pgd(model, x, y, eps=eps, steps=1, step_size=max(eps, 1e-300), best=False, bounds=bounds, targeted=targeted)
