"""Laws of perturbation, as functions of tensors and a generator.

    white           x + σ Z,          Z ~ N(0, 1)
    multiplicative  x (1 + σ Z)
    uniform         x + σ U,          U ~ U(-1, 1)
    salt_pepper     each entry with probability α becomes low or high, with equal chance
    impulse_pixels  ⌈αN/2⌉ pixels of each image become its minimum, then as many its maximum
    feature_noise   (1 + σ_m b_m U) ⊙ x + σ_a b_a Z                       (Noisy Feature Mixup)
    beta            G_a / (G_a + G_b),  log G_a = log G_{a+1} + log(V) / a,  V ~ U(0, 1)

Source: the definitions of the spec for the robustness experiments of arXiv:2006.12070, arXiv:2102.04877 and
arXiv:2110.02180.
Differs from the released code: explicit ranges and generators; nothing is clipped; Beta(a, b) is right for small a too
(``torch.distributions.Beta`` returns 0.5 there).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _uniform(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def white(x: Tensor, level: float, *, generator: torch.Generator | None = None) -> Tensor:
    """White noise: x + level * Z."""
    return x + level * _normal(x, generator)


def multiplicative(x: Tensor, level: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Multiplicative noise: x * (1 + level * Z)."""
    return x * (1 + level * _normal(x, generator))


def uniform(x: Tensor, level: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise: x + level * U, U uniform on [-1, 1]."""
    return x + level * (2 * _uniform(x, generator) - 1)


def salt_pepper(
    x: Tensor, level: float, *, low: float = 0.0, high: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Each entry with probability ``level`` replaced by ``low`` or ``high``."""
    hit = _uniform(x, generator) < level
    salt = _uniform(x, generator) < 0.5
    return torch.where(hit, torch.where(salt, torch.full_like(x, high), torch.full_like(x, low)), x)


def impulse_pixels(
    x: Tensor,
    level: float,
    *,
    channels: list[int] | None = None,
    at_low: Tensor | None = None,
    at_high: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Salt and pepper in the extremes of each image, by number of pixels.

    Args:
        x: Images ``(B, C, ...)``.
        level: α, the share of pixels that are hit (fewer where the two draws meet).
        channels: The channels that are hit, each with its own extremes; all of them when left out.
        at_low: Pixels that take the minimum, flat indices ``(B, n)``; drawn when left out.
        at_high: Pixels that take the maximum, afterwards.
        generator: For the draws.
    """
    B, C = x.shape[:2]
    pixels = x.flatten(2)  # (B, C, N)
    N = pixels.shape[2]
    count = min(N, math.ceil(level * N / 2))

    def places(given: Tensor | None) -> Tensor:
        if given is not None:
            return given
        order = torch.rand(B, N, generator=generator, device=generator.device if generator else x.device)
        return order.argsort(1)[:, :count].to(x.device)

    found = pixels.clone()
    chosen = list(range(C)) if channels is None else channels
    for index, extreme in ((places(at_low), pixels.amin(2)), (places(at_high), pixels.amax(2))):
        for c in chosen:
            found[:, c] = found[:, c].scatter(1, index, extreme[:, c, None].expand(-1, index.shape[1]))
    return found.view_as(x)


def beta(a: float, b: float, size: tuple[int, ...] = (), *, generator: torch.Generator | None = None) -> Tensor:
    """Draws of Beta(a, b) in float64, right for every a, b > 0: at 1e-8 they are 0 or 1.

    The logarithm of a Gamma variable of small shape is exact where the variable itself underflows.
    """
    device = generator.device if generator is not None else torch.device("cpu")

    def log_gamma(shape: float) -> Tensor:
        raised = torch.full(size, shape + 1.0, dtype=torch.float64, device=device)
        V = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
        G = torch._standard_gamma(raised, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        return G.log() + (1 - V).log() / shape

    return (log_gamma(a) - log_gamma(b)).sigmoid()


@torch.library.custom_op("gyrostat::seeded_noise", mutates_args=())
def _seeded_noise(like: Tensor, seed: Tensor, law: str) -> Tensor:
    return _draw_seeded(like, int(seed), law)


@_seeded_noise.register_fake
def _(like: Tensor, seed: Tensor, law: str) -> Tensor:
    return torch.empty_like(like)


def _draw_seeded(like: Tensor, seed: int, law: str) -> Tensor:
    stream = torch.Generator(device=like.device).manual_seed(seed)
    empty = torch.empty_like(like)
    return empty.normal_(generator=stream) if law == "normal" else empty.uniform_(generator=stream)


def seeded_noise(like: Tensor, seed: Tensor, law: str) -> Tensor:
    """Noise that is a function of its seed: drawn again, not stored, when a forward pass is recomputed.

    Args:
        like: Shape, dtype, device and memory layout.
        seed: An int64 scalar on the CPU.
        law: ``"normal"`` or ``"uniform"`` on [0, 1).
    """
    like = like.detach()
    if torch.compiler.is_compiling():
        return _seeded_noise(like, seed, law)
    return _draw_seeded(like, int(seed), law)


def feature_noise(
    x: Tensor,
    *,
    additive: float | Tensor = 0.0,
    multiplicative: float | Tensor = 0.0,
    normal: Tensor | None = None,
    uniform: Tensor | None = None,
) -> Tensor:
    """``(1 + multiplicative (2 uniform − 1)) x + additive normal``; a term whose draw is None is left out.

    Args:
        x: Features of any shape.
        additive: σ_a b_a.
        multiplicative: σ_m b_m.
        normal: Standard normal draws.
        uniform: Uniform draws on [0, 1).
    """
    if uniform is not None:
        x = x * (uniform * (2 * multiplicative) + (1 - multiplicative))
    if normal is None:
        return x
    if isinstance(additive, Tensor):
        return x + additive * normal
    return torch.add(x, normal, alpha=additive)


LAWS = {
    "white": white,
    "multiplicative": multiplicative,
    "uniform": uniform,
    "salt_pepper": salt_pepper,
    "impulse_pixels": impulse_pixels,
}
