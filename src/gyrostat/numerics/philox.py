"""Philox4x32-10: a random number is a function of its key and its place, so nothing has to be stored or drawn in order.

    c0, c1, c2, c3  ←  hi(M₁ c2) ⊕ c1 ⊕ k0,  lo(M₁ c2),  hi(M₀ c0) ⊕ c3 ⊕ k1,  lo(M₀ c0),      ten rounds
    uniform   u = (⌊c / 2⁹⌋ + ½) 2⁻²³                  in (0, 1), exact in float32
    normal    √(-2 ln u₁) (cos 2πu₂, sin 2πu₂)         from (c0, c1) and from (c2, c3)

Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011. Box and Muller, 1958.
Here: the key is the seed of the step; the counter is (block of units, row, law, 0), law 0 normal and 1 uniform. A block q
serves the units 64 ⌊q/16⌋ + 16 i + (q mod 16), i = 0..3, which suits vectors of 4, 8 and 16 lanes.
The fused kernels compute the same integers; this file is their slow twin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

M0, M1, W0, W1, MASK = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF
NORMAL, UNIFORM = 0, 1


def _product(constant: int, c: Tensor) -> tuple[Tensor, Tensor]:
    # 32 x 32 bits to (high, low) in int64, without the sign bit ever mattering
    high = (c * (constant >> 16) + ((c * (constant & 0xFFFF)) >> 16)) >> 16
    return high, (c * constant) & MASK


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 bits in int64 tensors from a key of two and a counter of four; all broadcast.

    Example:
        >>> import torch
        >>> zero = torch.zeros((), dtype=torch.int64)
        >>> [hex(int(w)) for w in philox((zero, zero), (zero, zero, zero, zero))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = _product(M0, c0)
        high1, low1 = _product(M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c0, c1, c2, c3


def _words(seeds: Tensor, B: int, H: int, law: int) -> tuple[Tensor, ...]:
    blocks = -(-H // 64) * 16
    device = seeds.device
    q = torch.arange(blocks, device=device)[None, None, :]
    row = torch.arange(B, device=device)[None, :, None]
    none = torch.zeros((), dtype=torch.int64, device=device)
    key = (seeds & MASK)[:, None, None], ((seeds >> 32) & MASK)[:, None, None]
    return philox(key, (q, row, none + law, none))  # (T, B, blocks) each


def _in_order(parts: list[Tensor], H: int) -> Tensor:
    T, B, blocks = parts[0].shape
    groups = [p.reshape(T, B, blocks // 16, 1, 16) for p in parts]
    return torch.cat(groups, 3).reshape(T, B, 4 * blocks)[..., :H]  # (T, B, H)


def _open(word: Tensor, like: Tensor) -> Tensor:
    return ((word >> 9).to(like.dtype if like.dtype == torch.float64 else torch.float32) + 0.5) * 2.0**-23


def uniform(seeds: Tensor, B: int, H: int, like: Tensor) -> Tensor:
    """Uniform numbers ``(T, B, H)`` of the type and device of ``like``, one seed ``(T,)`` for each step."""
    return _in_order([_open(w, like) for w in _words(seeds, B, H, UNIFORM)], H).to(like)


def normal(seeds: Tensor, B: int, H: int, like: Tensor) -> Tensor:
    """Standard normal numbers ``(T, B, H)`` of the type and device of ``like``, one seed ``(T,)`` for each step.

    Example:
        >>> import torch
        >>> seeds = draw_seeds(3, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> whole = normal(seeds, 4, 5, torch.empty(()))
        >>> torch.equal(whole[1:2], normal(seeds[1:2], 4, 5, torch.empty(())))
        True
    """
    u = [_open(w, like) for w in _words(seeds, B, H, NORMAL)]
    parts = []
    for first, second in ((u[0], u[1]), (u[2], u[3])):
        radius, angle = torch.sqrt(-2 * torch.log(first)), 2 * math.pi * second
        parts += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return _in_order(parts, H).to(like)


def draw_seeds(steps: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """One seed (int64) per step from ``generator``; drawing them one by one gives the same."""
    place = generator.device if generator is not None else device
    low, high = -(2**63), 2**63 - 1
    if place.type == "cpu":  # such a generator serves integers in order; others advance by calls
        return torch.randint(low, high, (steps,), generator=generator, device=place).to(device)
    drawn = [torch.randint(low, high, (1,), generator=generator, device=place) for _ in range(steps)]
    return torch.cat(drawn).to(device)
