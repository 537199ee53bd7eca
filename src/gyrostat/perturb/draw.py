r"""One draw of Noisy Feature Mixup, and what it does to a batch of features.

    m = λ h + (1 − λ) h[π],                λ ~ Beta(α, β),  π a uniform permutation
    h̃ = (1 + σ_m b_m U) ⊙ m + σ_a b_a Z,    b ~ Beta(2, 5),  U ~ U(−1, 1),  Z ~ N(0, 1)

Order of the draws: layer, λ, π, b_a, Z, b_m, U. Z and U are drawn as seeds; the arrays follow from the seeds wherever
they are needed, so a recomputed forward pass sees the same noise and none of it is stored.

Source: Noisy Feature Mixup, arXiv:2110.02180, section 3.
Differs from the released code: α = 0 leaves the noise on (λ = 1); λ may be one per sample; α ≠ β is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ArgumentError, ShapeError
from ..numerics.noise import beta, feature_noise, seeded_noise


@dataclass(frozen=True)
class MixDraw:
    """Everything random about one mixed forward pass; recorded arrays can be put in by hand.

    Attributes:
        layer: ``"input"`` or the name of a submodule.
        lam: λ, a scalar or ``(B,)``; None leaves the features unmixed.
        perm: π ``(B,)``; None with ``lam`` None.
        beta_add: b_a, None for no additive noise.
        beta_mult: b_m, None for no multiplicative noise.
        normal: Z of the shape of the features, instead of ``seed_add``.
        uniform: Draws on [0, 1) of the shape of the features (U = 2 uniform − 1), instead of ``seed_mult``.
        seed_add: Seed of Z, an int64 scalar.
        seed_mult: Seed of U.

    Example:
        >>> import torch
        >>> draw = MixDraw("input", torch.tensor(0.75), torch.tensor([1, 0]))
        >>> noisy_mix(torch.tensor([[0.0], [1.0]]), draw)
        tensor([[0.2500],
                [0.7500]])
    """

    layer: str
    lam: Tensor | None = None
    perm: Tensor | None = None
    beta_add: Tensor | None = None
    beta_mult: Tensor | None = None
    normal: Tensor | None = None
    uniform: Tensor | None = None
    seed_add: Tensor | None = None
    seed_mult: Tensor | None = None


def sample_draw(
    batch_size: int,
    layers: Sequence[str],
    *,
    alpha: float | tuple[float, float] = 1.0,
    additive: float = 0.4,
    multiplicative: float = 0.2,
    per_sample: bool = False,
    layer_probs: Sequence[float] | None = None,
    noise_beta: tuple[float, float] = (2.0, 5.0),
    generator: torch.Generator | None = None,
) -> MixDraw:
    """A draw, in the order layer, λ, π, b_a, Z, b_m, U; what has level zero is not drawn.

    Args:
        batch_size: B.
        layers: Names to choose from.
        alpha: α, or (α, β); 0 for no mixing.
        additive: σ_a; only whether it is zero matters here.
        multiplicative: σ_m, likewise.
        per_sample: One λ per sample.
        layer_probs: Chances of the layers, equal when left out.
        noise_beta: Law of b_a and b_m.
        generator: Torch's own stream when left out, as for dropout.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    if layer_probs is None:
        k = torch.randint(len(layers), (), generator=generator, device=device)
    else:
        weights = torch.tensor(layer_probs, dtype=torch.float64, device=device)
        k = torch.multinomial(weights, 1, generator=generator)
    a, b = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    lam = perm = None
    if a > 0:
        lam = beta(a, b, (batch_size,) if per_sample else (), generator=generator).cpu()
        perm = torch.randperm(batch_size, generator=generator, device=device)

    def scale_and_seed(level: float) -> tuple[Tensor | None, Tensor | None]:
        if level == 0:
            return None, None
        scale = beta(*noise_beta, generator=generator).cpu()
        return scale, torch.randint(2**62, (), generator=generator, device=device).cpu()

    beta_add, seed_add = scale_and_seed(additive)
    beta_mult, seed_mult = scale_and_seed(multiplicative)
    return MixDraw(
        layers[int(k)], lam, perm, beta_add, beta_mult, seed_add=seed_add, seed_mult=seed_mult
    )  # fmt: skip


def noisy_mix(
    h: Tensor,
    draw: MixDraw,
    *,
    additive: float = 0.4,
    multiplicative: float = 0.2,
    batch_dim: int = 0,
    relative: bool = False,
) -> Tensor:
    """The features ``h`` mixed with their own permutation, then perturbed.

    Args:
        h: Floating features of any rank.
        draw: λ, π, scales and noise.
        additive: σ_a.
        multiplicative: σ_m.
        batch_dim: Where the samples are.
        relative: σ_a in units of the standard deviation of the mixed features.
    """
    if draw.lam is not None and draw.perm is not None:
        h = _mix(h, draw.lam, draw.perm.to(h.device), batch_dim)
    add: float | Tensor = 0.0
    mult: float | Tensor = 0.0
    normal = uniform = None
    if draw.beta_add is not None:
        normal = _noise(h, draw.normal, draw.seed_add, "normal")
        add = _scaled(additive, draw.beta_add)
        if relative:
            add = add * h.detach().std(correction=0)
    if draw.beta_mult is not None:
        uniform = _noise(h, draw.uniform, draw.seed_mult, "uniform")
        mult = _scaled(multiplicative, draw.beta_mult)
    return feature_noise(h, additive=add, multiplicative=mult, normal=normal, uniform=uniform)


def _mix(h: Tensor, lam: Tensor, perm: Tensor, batch_dim: int) -> Tensor:
    other = h.index_select(batch_dim, perm)
    if lam.ndim == 0 and not torch.compiler.is_compiling():
        return torch.lerp(other, h, float(lam))
    shape = [1] * h.ndim
    if lam.ndim:
        shape[batch_dim] = -1
    return torch.lerp(other, h, lam.to(h).view(shape))


def _scaled(level: float, scale: Tensor) -> float | Tensor:
    # a number of Python would be burnt into a compiled graph
    return level * scale if torch.compiler.is_compiling() else level * float(scale)


def _noise(h: Tensor, given: Tensor | None, seed: Tensor | None, law: str) -> Tensor:
    if given is not None:
        if given.shape != h.shape:
            raise ShapeError(
                f"noisy_mix: the draw's noise has shape {tuple(given.shape)}, the features {tuple(h.shape)}"
            )
        return given.to(h)
    if seed is None:
        raise ArgumentError("noisy_mix: a draw with a noise scale needs the noise or its seed")
    return seeded_noise(h, seed, law)
