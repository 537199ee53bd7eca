"""Laws of perturbation, as functions of tensors and a generator.

    white           x + σ Z,          Z ~ N(0, 1)
    multiplicative  x (1 + σ Z)
    uniform         x + σ U,          U ~ U(-1, 1)
    salt_pepper     each entry with probability α becomes low or high, with equal chance

Source: the definitions of the spec for the robustness experiments of arXiv:2006.12070 and arXiv:2102.04877.
Differs from the released code: explicit ranges and generators; nothing is clipped.
"""

from __future__ import annotations

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


LAWS = {"white": white, "multiplicative": multiplicative, "uniform": uniform, "salt_pepper": salt_pepper}
