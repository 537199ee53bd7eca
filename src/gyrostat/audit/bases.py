"""Base inputs of an audit: images made from a seed, or the user's own.

Data-free bases in [0, 1]: ``uniform`` x ~ U[0, 1]; ``gauss_minmax`` normal draws, each image scaled to its own minimum and
maximum; ``gray`` .5; ``black`` 0; ``procedural`` a mix of 1/f noise, gradients, checkerboards and constant colours.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import ArgumentError, DataError, NonFiniteError
from .._rng import torch_stream
from .laws import one_over_f

BASES = ("uniform", "gauss_minmax", "gray", "black", "procedural")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def data_free(kind: str, n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """``n`` base inputs of the given shape, made from the seed alone.

    Returns:
        Float32 values in [0, 1], ``(n, *shape)``.
    """
    stream = torch_stream(seed, "base", kind)
    if kind == "uniform":
        return torch.rand(n, *shape, generator=stream)
    if kind == "gauss_minmax":
        x = torch.randn(n, *shape, generator=stream).flatten(1)  # (N, F)
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        return ((x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)).reshape(n, *shape)
    if kind == "gray":
        return torch.full((n, *shape), 0.5)
    if kind == "black":
        return torch.zeros(n, *shape)
    if kind == "procedural":
        return _procedural(n, shape, stream)
    raise ArgumentError(f"titrate: base must be one of {', '.join(BASES)}, got {kind!r}")


def _procedural(n: int, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    if len(shape) != 3:
        raise ArgumentError(f"titrate: base 'procedural' draws images (C, H, W), not inputs of shape {shape}")
    C, H, W = shape
    rows, columns = torch.linspace(0, 1, H)[:, None], torch.linspace(0, 1, W)[None]  # (H, 1), (1, W)

    def unit(*size: int) -> Tensor:
        return torch.rand(*size, generator=stream)

    images = []
    for i in range(n):
        if i % 4 == 0:  # 1/f noise, the spectrum of natural images
            x = one_over_f(1, shape, stream)[0]  # (C, H, W)
            x = (x - x.amin()) / (x.amax() - x.amin()).clamp_min(1e-12)
        elif i % 4 == 1:
            slope = unit(2, C, 1, 1) * 2 - 1
            x = slope[0] * rows + slope[1] * columns
            x = (x - x.amin()) / (x.amax() - x.amin()).clamp_min(1e-12)
        elif i % 4 == 2:
            side = int(torch.randint(1, max(2, min(H, W) // 2) + 1, (), generator=stream))
            board = ((torch.arange(H)[:, None] // side + torch.arange(W)[None] // side) % 2).float()  # (H, W)
            pair = unit(2, C, 1, 1)
            x = pair[0] * board + pair[1] * (1 - board)
        else:
            x = unit(C, 1, 1).expand(C, H, W)
        images.append(x.expand(C, H, W))
    return torch.stack(images)  # (N, C, H, W)


def given(images: Any, shape: tuple[int, ...] | None, limit: int) -> Tensor:
    """The user's base inputs as one float32 tensor: a tensor, an array, a folder of images, or an iterable of them.

    Args:
        images: What the user handed over.
        shape: Shape of one input; images of a folder are resized to it.
        limit: No more than this many are taken from a folder or an iterable.

    Raises:
        DataError: Nothing usable is there, or the inputs differ in shape.
        NonFiniteError: An input holds NaN or Inf; the message says which.
    """
    if isinstance(images, (str, Path)):
        images = _folder(Path(images), shape, limit)
    if not isinstance(images, (Tensor, np.ndarray)):
        if not isinstance(images, Iterable):
            raise DataError(f"base_images must be an array, a folder or an iterable, got {type(images).__name__}")
        taken = [torch.as_tensor(np.asarray(x)) for x, _ in zip(images, range(limit))]
        if not taken:
            raise DataError("base_images is empty")
        if len({tuple(x.shape) for x in taken}) > 1:
            raise DataError("base_images differ in shape; resize them to one")
        images = torch.stack(taken)
    x = torch.as_tensor(images).detach().to("cpu", torch.float32)  # (N, ...)
    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"base_images must be (N, ...) with N >= 1, got shape {tuple(x.shape)}")
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        raise DataError(f"base_images have shape {tuple(x.shape[1:])} and the model takes {tuple(shape)}")
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x.flatten(1))).any(1).nonzero()[0])
        raise NonFiniteError(f"base_images: image {bad} holds NaN or Inf")
    return x


def _folder(folder: Path, shape: tuple[int, ...] | None, limit: int) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    if shape is None or len(shape) != 3 or shape[0] not in (1, 3):
        raise ArgumentError(f"a folder of images needs input_shape=(1 or 3, H, W), got {shape}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())[:limit]
    if not paths:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_ENDINGS)})")
    found = []
    for path in paths:
        try:
            with Image.open(path) as file:
                image = file.convert("L" if shape[0] == 1 else "RGB").resize((shape[2], shape[1]))
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path.name}: not a readable image") from error
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
        found.append(pixels[None] if shape[0] == 1 else pixels.permute(2, 0, 1))  # (C, H, W)
    return torch.stack(found)
