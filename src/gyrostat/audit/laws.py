"""Noise laws: what is poured into an input. White noise excites everything a little, structured noise some things a lot.

    white     η ~ N(0, I)                                 smooth   spectrum 1/f, each image scaled to deviation 1
    waves     η = √2 sin(2π f·u + φ), f and φ random      blobs    η = ±2 exp(-|u - u₀|² / 2s²), u₀ and s random
    patches   η = 1, -1 or a checkerboard on one square of an 8 x 8 grid of places, 0 elsewhere
    mixed     patches and waves in turn, 32 images each

Every law is a function of (seed, draw, index of the image) alone, so the batch size never changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import ArgumentError
from .._rng import torch_stream

BLOCK = 32  # images that share one stream
PLACES = 8


def draw_noise(law: str, seed: int, rep: int, rows: slice, shape: tuple[int, ...]) -> Tensor:
    """Noise of a law for the images ``rows``, ``(B, *shape)``.

    Raises:
        ArgumentError: A structured law was asked for inputs that are not images ``(C, H, W)``.
    """
    if law != "white" and len(shape) != 3:
        raise ArgumentError(f"titrate: noise_law {law!r} is for images (C, H, W), not inputs of shape {tuple(shape)}")
    first, last = rows.start // BLOCK, (rows.stop - 1) // BLOCK
    names = () if law == "white" else (law,)
    blocks = [LAWS[law](b, tuple(shape), torch_stream(seed, "eta", rep, b, *names)) for b in range(first, last + 1)]
    return torch.cat(blocks)[rows.start - first * BLOCK : rows.stop - first * BLOCK]


def _white(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    return torch.randn(BLOCK, *shape, generator=stream)


def one_over_f(n: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    """Images ``(n, C, H, W)`` of random phase with a spectrum that falls like 1/f, as that of natural images does."""
    C, H, W = shape
    radius = (torch.fft.fftfreq(H)[:, None] ** 2 + torch.fft.fftfreq(W)[None] ** 2).sqrt().clamp_min(1 / max(H, W))
    return torch.fft.ifft2(torch.fft.fft2(torch.randn(n, C, H, W, generator=stream)) / radius).real


def _smooth(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    x = one_over_f(BLOCK, shape, stream).flatten(1)  # (B, F)
    x = x - x.mean(1, keepdim=True)
    return (x / x.std(1, unbiased=False, keepdim=True).clamp_min(1e-12)).reshape(BLOCK, *shape)


def _places(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.arange(shape[1])[:, None] / shape[1], torch.arange(shape[2])[None] / shape[2]  # (H, 1), (1, W)


def _waves(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    frequency, angle, phase = torch.rand(3, BLOCK, 1, 1, generator=stream)  # (B, 1, 1) each
    frequency = 1 + frequency * max(0, min(shape[1:]) / 2 - 1)
    rows, columns = _places(shape)
    across = columns * (2 * math.pi * angle).cos() + rows * (2 * math.pi * angle).sin()  # (B, H, W)
    wave = math.sqrt(2) * (2 * math.pi * (frequency * across + phase)).sin()
    return wave[:, None].repeat(1, shape[0], 1, 1)


def _blobs(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    y, x, width, sign = torch.rand(4, BLOCK, 1, 1, generator=stream)
    rows, columns = _places(shape)
    square = (rows - y) ** 2 + (columns - x) ** 2  # (B, H, W)
    blob = 2 * torch.where(sign < 0.5, -1.0, 1.0) * torch.exp(-square / (2 * (0.05 + 0.2 * width) ** 2))
    return blob[:, None].repeat(1, shape[0], 1, 1)


def _patches(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    C, H, W = shape
    eta = torch.zeros(BLOCK, C, H, W)
    small, large = (min(H, W, max(least, round(min(H, W) / part))) for least, part in ((2, 8), (3, 4)))
    for i in range(BLOCK):
        turn, place = divmod(block * BLOCK + i, PLACES * PLACES)
        side = (small, large, large, small)[turn % 4]
        squares = torch.arange(side)[:, None] + torch.arange(side)[None]
        values = (1.0, 1.0, 1.0 - 2.0 * (squares % 2), -1.0)[turn % 4]
        row = round((place // PLACES) * (H - side) / (PLACES - 1))
        column = round((place % PLACES) * (W - side) / (PLACES - 1))
        eta[i, :, row : row + side, column : column + side] = values
    return eta


def _mixed(block: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    return (_waves if block % 2 else _patches)(block // 2, shape, stream)


LAWS: dict[str, Callable[[int, tuple[int, ...], torch.Generator], Tensor]] = {
    "white": _white,
    "smooth": _smooth,
    "waves": _waves,
    "patches": _patches,
    "blobs": _blobs,
    "mixed": _mixed,
}
