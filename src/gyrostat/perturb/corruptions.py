r"""Common corruptions of images in five severities, made here, and the mean corruption error over them.

    E_c = mean_s error(f, c, s),      mCE = mean_c Σ_s error(f, c, s) / Σ_s error(reference, c, s)

Source: in the style of CIFAR-10-C, Hendrycks and Dietterich, arXiv:1903.12261, as used by arXiv:2110.02180.
Differs from the released sets: kinds and strengths are this project's own (the table below), in units of [0, 1] and of
the image's side, so numbers compare models with each other and not with those of the published sets.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .._checks import Integer, OneOf
from .._errors import ArgumentError, ArgumentTypeError
from .._rng import numpy_stream

Array = np.ndarray
# An image is (H, W, C) in [0, 1]; `side` scales lengths: 1 for 32 pixels.
Law = Callable[[Array, float, float, np.random.Generator], Array]


def _gaussian_noise(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    return x + s * rng.standard_normal(x.shape)


def _shot_noise(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    return rng.poisson(x * s) / s


def _impulse_noise(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    u = rng.random(x.shape)
    return np.where(u < s / 2, 0.0, np.where(u < s, 1.0, x))


def _speckle_noise(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    return x * (1 + s * rng.standard_normal(x.shape))


def _convolve(x: Array, kernel: Array) -> Array:
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="nearest") for c in range(x.shape[2])], axis=2)


def _gaussian_blur(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    return ndimage.gaussian_filter(x, (s * side, s * side, 0), mode="nearest")


def _defocus_blur(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    radius = s * side
    reach = math.ceil(radius)
    grid = np.arange(-reach, reach + 1)
    # a disc with a soft rim, so that radii between whole pixels differ
    disc = np.clip(radius + 0.5 - np.hypot(grid[:, None], grid[None]), 0, 1)
    return _convolve(x, disc / disc.sum())


def _motion_blur(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    length, angle = s * side, rng.uniform(0, math.pi)
    reach = math.ceil(length / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for t in np.linspace(-length / 2, length / 2, 8 * reach + 1):
        kernel[reach + round(t * math.sin(angle)), reach + round(t * math.cos(angle))] += 1
    return _convolve(x, kernel / kernel.sum())


def _zoom_blur(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    center = (np.array(x.shape[:2]) - 1) / 2
    views = []
    for zoom in np.linspace(1, 1 + s, 8):
        offset = center * (1 - 1 / zoom)
        views.append(
            np.stack(
                [
                    ndimage.affine_transform(x[..., c], np.eye(2) / zoom, offset, order=1, mode="nearest")
                    for c in range(x.shape[2])
                ],
                axis=2,
            )
        )
    return np.mean(views, axis=0)


def _moved(x: Array, dy: Array, dx: Array, order: int) -> Array:
    rows, columns = np.indices(x.shape[:2])
    where = [rows + dy, columns + dx]
    parts = [ndimage.map_coordinates(x[..., c], where, order=order, mode="nearest") for c in range(x.shape[2])]
    return np.stack(parts, axis=2)


def _glass_blur(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    dy, dx = np.rint(s * side * rng.uniform(-1, 1, (2, *x.shape[:2])))
    return ndimage.gaussian_filter(_moved(x, dy, dx, order=0), (0.4 * side, 0.4 * side, 0), mode="nearest")


def _elastic_transform(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    field = ndimage.gaussian_filter(rng.standard_normal((2, *x.shape[:2])), (0, 3 * side, 3 * side), mode="nearest")
    dy, dx = s * side * field / max(float(field.std()), 1e-12)
    return _moved(x, dy, dx, order=1)


def _fog(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    haze = sum(
        ndimage.gaussian_filter(rng.standard_normal(x.shape[:2]), k * side, mode="wrap") * k * side for k in (2, 4, 8)
    )
    haze = np.asarray(haze)
    haze = (haze - haze.min()) / max(float(np.ptp(haze)), 1e-12)
    return (x + s * (0.5 + haze)[..., None]) / (1 + s)


def _brightness(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    return x + s


def _contrast(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    mean = x.mean((0, 1), keepdims=True)
    return mean + s * (x - mean)


def _through_image(x: Array, act: Callable[[object], object]) -> Array:
    from PIL import Image

    bytes_ = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    layers = [bytes_] if x.shape[2] == 3 else [bytes_[..., c] for c in range(x.shape[2])]
    out = [np.asarray(act(Image.fromarray(layer)), dtype=np.float64) / 255 for layer in layers]
    return out[0] if x.shape[2] == 3 else np.stack(out, axis=2)


def _pixelate(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    from PIL import Image

    H, W = x.shape[:2]
    small = (max(1, round(W * s)), max(1, round(H * s)))

    def act(image: object) -> object:
        return image.resize(small, Image.Resampling.BOX).resize((W, H), Image.Resampling.NEAREST)  # pyright: ignore

    return _through_image(x, act)


def _jpeg_compression(x: Array, s: float, side: float, rng: np.random.Generator) -> Array:
    from PIL import Image

    def act(image: object) -> object:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(s))  # pyright: ignore[reportAttributeAccessIssue]
        return Image.open(file)

    return _through_image(x, act)


_TABLE: dict[str, tuple[Law, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.10, 0.14)),  # standard deviation
    "shot_noise": (_shot_noise, (250, 120, 60, 40, 25)),  # photons of a white pixel
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.05, 0.08, 0.14)),  # share of entries
    "speckle_noise": (_speckle_noise, (0.06, 0.12, 0.18, 0.25, 0.35)),  # relative standard deviation
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.8, 1.0, 1.4)),  # standard deviation, pixels of 32
    "defocus_blur": (_defocus_blur, (0.6, 0.9, 1.2, 1.6, 2.2)),  # radius, pixels of 32
    "motion_blur": (_motion_blur, (2, 3, 4, 5, 7)),  # length, pixels of 32
    "zoom_blur": (_zoom_blur, (0.06, 0.11, 0.16, 0.22, 0.30)),  # largest zoom
    "glass_blur": (_glass_blur, (0.5, 0.7, 1.0, 1.5, 2.0)),  # reach, pixels of 32
    "fog": (_fog, (0.2, 0.4, 0.6, 0.9, 1.3)),  # density
    "brightness": (_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),  # added
    "contrast": (_contrast, (0.75, 0.6, 0.45, 0.3, 0.2)),  # factor
    "elastic_transform": (_elastic_transform, (0.3, 0.6, 0.9, 1.2, 1.6)),  # mean shift, pixels of 32
    "pixelate": (_pixelate, (0.9, 0.75, 0.6, 0.5, 0.4)),  # share of the resolution
    "jpeg_compression": (_jpeg_compression, (80, 60, 40, 25, 12)),  # quality
}
CORRUPTIONS = tuple(_TABLE)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Images under one common corruption.

    Args:
        images: ``(B, C, H, W)`` or ``(B, H, W)``: floating in [0, 1], or bytes.
        name: One of gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, motion_blur,
            zoom_blur, glass_blur, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression.
        severity: 1 to 5; 0 leaves the images.
        seed: Each image has its own stream: it does not matter which images share a batch.

    Returns:
        Images of the same shape and dtype, in [0, 1] or bytes.

    Raises:
        ArgumentError: An unknown corruption (the nearest is suggested), images outside [0, 1].
        ArgumentTypeError: No images.

    Source: arXiv:1903.12261; strengths are this project's.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 3, 32, 32)
        >>> corrupt(x, "jpeg_compression", 3).shape
        torch.Size([2, 3, 32, 32])
    """
    where = "corrupt"
    OneOf(CORRUPTIONS).check("name", name, where)
    Integer(0, 5).check("severity", severity, where)
    _check_images(images, where)
    if severity == 0 or len(images) == 0:
        return images.clone()
    law, levels = _TABLE[name]
    scale = 1 if images.is_floating_point() else 255
    array = images.detach().cpu().numpy().astype(np.float64) / scale
    array = array[:, None] if array.ndim == 3 else array
    side = min(array.shape[2:]) / 32
    found = np.empty_like(array)
    for i, image in enumerate(array):
        # the content names the stream, so neither batch nor order matters
        content = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        rng = numpy_stream(seed, "corrupt", name, severity, content)
        changed = law(np.moveaxis(image, 0, 2), levels[severity - 1], side, rng)
        found[i] = np.moveaxis(np.clip(changed, 0, 1), 2, 0)
    out = torch.from_numpy(found.reshape(images.shape))
    return (out if scale == 1 else (out * 255).round()).to(images)


def _check_images(images: Tensor, where: str) -> None:
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.is_complex():
        raise ArgumentTypeError(f"{where}: images must be a tensor (B, C, H, W) or (B, H, W)")
    if not images.is_floating_point():
        if images.dtype != torch.uint8:
            raise ArgumentTypeError(f"{where}: images must be floating in [0, 1] or bytes, got {images.dtype}")
    elif images.numel() and not (float(images.min()) >= -1e-6 and float(images.max()) <= 1 + 1e-6):
        raise ArgumentError(f"{where}: images must be finite and lie in [0, 1]; corrupt before you normalise")


def choose_corruptions(names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The named corruptions, all of them when None."""
    for name in names or ():
        OneOf(CORRUPTIONS).check("corruptions", name, where)
    return tuple(names) if names else CORRUPTIONS
