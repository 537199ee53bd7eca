r"""Adversarial inputs: the projected gradient method in an L∞ or L2 ball around the clean input.

    linf  x ← x + η sign(G),           δ ← clip(x − x⁰, −ε, ε)
    l2    x ← x + η G_i / ‖G_i‖₂,      δ ← δ · min(1, ε / ‖δ‖₂)             per sample
    x ← clip(x⁰ + δ, low, high),       G = ∇_x Σ_i CE(model(x)_i, y_i)       (targeted: −G)
    fgsm  one step of size ε from x⁰
    start  x⁰, or x⁰ + ε U(−1, 1) (linf), or x⁰ + ε g / ‖g‖₂ (l2: "sphere"), times U(0, 1)^{1/d} ("ball")

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
from .._errors import ArgumentError, ArgumentTypeError, NonFiniteError, ShapeError
from .warning import warn_probabilities

NORMS = ("linf", "l2")
Bounds = tuple[float, float] | None
_RULES = {
    "norm": OneOf(NORMS),
    "steps": Integer(low=1),
    "step_size": Real(low=0, closed="neither", optional=True),
    "random_start": OneOf((False, True, "ball", "sphere")),
    "restarts": Integer(low=1),
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


def _radius(eps: Any, x: Tensor, where: str) -> float | Tensor:
    """ε as a number, or one per sample in a shape that spreads over ``x``."""
    if not isinstance(eps, Tensor):
        Real(low=0, high=float("inf"), closed="left").check("eps", eps, where)
        return float(eps)
    if eps.ndim == 0:
        return _radius(float(eps), x, where)
    if eps.shape != x.shape[:1] or not bool((eps >= 0).all() & eps.isfinite().all()):
        raise ArgumentError(f"{where}: eps must be a finite number >= 0, or {len(x)} of them, one per sample")
    return _per_sample(eps.to(x), x)


def _project(x: Tensor, clean: Tensor, norm: str, eps: Any, bounds: Bounds) -> Tensor:
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
        if not _is_range(bounds):
            raise ArgumentError(f"{where}: bounds must be (low, high) or None, got {bounds!r}")
        if x.numel() and (float(x.min()) < bounds[0] - 1e-6 or float(x.max()) > bounds[1] + 1e-6):
            raise ArgumentError(
                f"{where}: x leaves bounds {bounds}: it lies in [{float(x.min()):.4g}, {float(x.max()):.4g}]; "
                "normalise inside the model, or pass the bounds of your data, or bounds=None"
            )


def _is_range(bounds: Any) -> bool:
    try:
        low, high = bounds
        return bool(float(low) < float(high))
    except (TypeError, ValueError):
        return False


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool | str = False,
    targeted: Tensor | None = None,
    best: bool = True,
    restarts: int = 1,
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
        eps: Radius of the ball, or one per sample ``(B,)``; 0 returns ``x``.
        steps: Gradient steps.
        step_size: η, ``2.5 eps / steps`` when left out.
        random_start: ``True``: a random point, uniform in the ball (L∞) or on the sphere (L2). L2 knows ``"ball"`` and
            ``"sphere"``.
        targeted: Labels ``(B,)`` to be reached: their loss is made small.
        best: Return each sample's worst point seen, the clean one (or ``start``) included, instead of the last one.
        restarts: Runs, of which each sample keeps the worst; those after the first start at random.
        bounds: Range of valid inputs, None for unbounded ones.
        start: A start of your own instead of ``x``.
        loss: Per-sample loss ``(output, y) -> (B,)``, cross-entropy when left out.
        generator: For random starts.

    Returns:
        Inputs of the shape of ``x``, inside the ball and the bounds. No gradient reaches the parameters.

    Raises:
        ArgumentError: ``x`` outside the bounds, a label per sample missing or outside the classes, a value outside its
            rule.
        ShapeError: The model's output is not logits ``(B, K)``.

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
    radius = _radius(eps, x, "pgd")
    if norm == "linf" and random_start == "sphere":
        raise ArgumentError("pgd: random_start 'sphere' is for l2; use True or 'ball'")
    if targeted is not None and (not isinstance(targeted, Tensor) or targeted.shape != y.shape):
        raise ArgumentError(f"pgd: targeted must be labels of shape {tuple(y.shape)}")
    if start is not None and (not isinstance(start, Tensor) or start.shape != x.shape):
        raise ArgumentError(f"pgd: start must be a tensor of the shape of x, {tuple(x.shape)}")
    goal, sign = (y, 1.0) if targeted is None else (targeted, -1.0)
    clean = x.detach()
    if len(x) == 0 or (isinstance(radius, float) and radius == 0):
        return clean.clone()
    eta = step_size if step_size is not None else 2.5 * radius / steps
    record = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    kept, checked = clean.clone(), False

    def measure(output: Tensor, goal: Tensor) -> Tensor:
        nonlocal checked
        if loss is not None:
            return loss(output, goal)
        if not checked:
            check_logits(output, goal, "pgd", "; pass a function that does, or loss")
            if not bool(torch.isfinite(output).all()):
                raise NonFiniteError("pgd: the model's output for x has NaN or Inf")
            warn_probabilities(output, "pgd")
            checked = True
        return F.cross_entropy(output, goal, reduction="none")

    def note(losses: Tensor, at: Tensor) -> None:
        nonlocal record, kept
        score = sign * losses.detach().to(record.dtype)
        better = score > record
        record = torch.where(better, score, record)
        kept = torch.where(_per_sample(better, at), at, kept)

    with evaluation_mode(model), torch.enable_grad():
        for run in range(restarts):
            point = clean if start is None or run > 0 else start.detach()
            kind = random_start or ("ball" if run > 0 else False)
            if kind:
                point = clean + _random_offset(clean, norm, radius, kind, generator)
            if (kind or start is not None) and bounds is not None:
                point = point.clamp(*bounds)
            if best and run == 0 and kind:
                with torch.no_grad():
                    note(measure(model(clean), goal), clean)
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
                point = _project(point + sign * eta * direction, clean, norm, radius, bounds)
            if not best and restarts == 1:
                return point
            with torch.no_grad():
                note(measure(model(point), goal), point)
    return kept


def check_logits(output: Any, y: Tensor, where: str, hint: str = "; pass a function that does") -> None:
    """Refuse an output that is not logits ``(B, K)``, and labels ``(B,)`` that are none of its classes."""
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(y) or not output.is_floating_point():
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ShapeError(f"{where}: the model must return logits ({len(y)}, K), got {found}{hint}")
    if y.is_floating_point() or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= output.shape[1]:
        raise ArgumentError(
            f"{where}: labels must be integers (B,) from 0 to {output.shape[1] - 1}, the model's classes"
        )


def _random_offset(
    x: Tensor, norm: str, eps: float | Tensor, kind: bool | str, generator: torch.Generator | None
) -> Tensor:
    if norm == "linf":
        return eps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1)
    g = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    offset = eps * g / _norms(g).clamp_min(torch.finfo(x.dtype).tiny)
    if kind == "ball":
        share = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
        offset = offset * _per_sample(share, x)
    return offset


def fgsm(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    targeted: Tensor | None = None,
) -> Tensor:
    """The fast gradient sign method: one step of size ``eps`` (L∞; along the gradient for L2); as in :func:`pgd`.

    Source: arXiv:1412.6572.

    Example:
        >>> import torch
        >>> x = torch.full((1, 2), 0.5)
        >>> fgsm(lambda x: x * torch.tensor([1.0, 0.0]), x, torch.tensor([0]), eps=0.25)
        tensor([[0.2500, 0.5000]])
    """
    # a step longer than the ball ends on its surface
    return pgd(
        model, x, y, norm=norm, eps=eps, steps=1, step_size=None, best=False, bounds=bounds, targeted=targeted
    )  # fmt: skip
