"""One type for labelled images, and the orders in which recurrent models read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._checks import Boolean, Integer, OneOf, Real
from .._errors import DataError
from .._rng import numpy_stream
from .rows import Rows

if TYPE_CHECKING:
    from .sequences import SequenceData

ORDERS = ("none", "exprnn", "lipschitz", "lem")
LIMIT, HUB = Integer(low=0), Boolean()
SCALE = Real(low=0, high=65535, closed="right")
SPLIT = OneOf(("random", "lipschitz"))
_RELEASED_SHUFFLE = 1234  # seed of the training and validation split of the released Lipschitz RNN


@dataclass(frozen=True)
class ImageData:
    """Images with labels and a fixed split.

    Attributes:
        name: What the data set is called in reports.
        pixels: ``(N, C, H, W)``: uint8, or float32 in [0, 1].
        y: ``(N,)`` int64 labels.
        split: Row numbers of ``"train"``, ``"valid"`` and ``"test"``.
        classes: Names of the classes.
        licence: Licence of the data.
        provenance: Where the numbers come from, in a sentence.

    Raises:
        DataError: The arrays do not fit together.

    Example:
        >>> from gyrostat import open_images
        >>> images = open_images("digits")
        >>> x, y = images.part("train", limit=32)
        >>> x.shape, y.shape, float(x.max())
        ((32, 1, 8, 8), (32,), 1.0)
    """

    name: str
    pixels: np.ndarray
    y: np.ndarray
    split: dict[str, np.ndarray]
    classes: tuple[str, ...]
    licence: str = "as given by its owner"
    provenance: str = ""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{self.name}: images must be uint8 or float32 of shape (N, C, H, W), got {self.pixels.dtype} "
                f"{self.pixels.shape}"
            )
        if self.y.shape != (len(self.pixels),) or self.y.dtype.kind not in "iu":
            raise DataError(f"{self.name}: there are {len(self.pixels)} images and labels of shape {self.y.shape}")
        if len(self.y) and not 0 <= self.y.min() <= self.y.max() < len(self.classes):
            raise DataError(f"{self.name}: labels must be between 0 and {len(self.classes) - 1}")
        for part, rows in self.split.items():
            if not len(rows):
                raise DataError(f"{self.name}: no images are left for {part}; raise limit")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def floats(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The chosen images as ``(n, C, H, W)`` float32 in [0, 1]."""
        chosen = self.pixels[rows]
        return chosen.astype(np.float32) / np.float32(255) if chosen.dtype == np.uint8 else chosen

    def part(self, name: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(n, C, H, W)`` in [0, 1] and labels of ``"train"``, ``"valid"`` or ``"test"``, the first ``limit``."""
        rows = self.split[name][:limit]
        return self.floats(rows), self.y[rows]

    @property
    def content_hash(self) -> str:
        """A digest of all numbers and the split."""
        from .sequences import content_hash

        return content_hash(self.pixels, self.y, None, self.split)

    def describe(self) -> str:
        """One line: sizes, classes, split."""
        N, C, H, W = self.pixels.shape
        sizes = "/".join(str(len(self.split[k])) for k in ("train", "valid", "test"))
        return f"{self.name}: {N} images {C} x {H} x {W}, {self.n_classes} classes, train/valid/test {sizes}"


def held_out(name: str, n_train: int, n_test: int, split: str, share: float, seed: int) -> dict[str, np.ndarray]:
    """Row numbers when the first ``n_train`` images are for training and ``n_test`` for tests follow.

    Args:
        name: Stream of the draw.
        n_train: Images that are divided into train and valid.
        n_test: Images after them.
        split: ``"random"`` (from the seed) or ``"lipschitz"`` (the permutation of the released code).
        share: Share of the training images that is held out for validation.
        seed: Seed of the draw.
    """
    held = max(1, round(share * n_train))
    if split == "lipschitz":
        order = np.random.RandomState(_RELEASED_SHUFFLE).permutation(n_train)  # the stream of the released code
        train, valid = order[:-held], order[-held:]
    else:
        order = numpy_stream(seed, "split", name).permutation(n_train)
        train, valid = order[held:], order[:held]
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.arange(n_train, n_train + n_test)}


def permutation(kind: str, size: int) -> np.ndarray | None:
    """A pixel order: ``none``, or that of a released code: ``lipschitz`` (torch 12008), ``lem`` (torch 5544), ``exprnn``."""
    if kind == "none":
        return None
    if kind == "exprnn":
        return np.random.RandomState(92916).permutation(size)  # the stream of the released code
    seeds = {"lipschitz": 12008, "lem": 5544}
    if kind not in seeds:
        raise DataError(f"permute must be one of {', '.join(ORDERS)}, got {kind!r}")
    import torch

    return torch.randperm(size, generator=torch.Generator().manual_seed(seeds[kind])).numpy()


def as_steps(images: np.ndarray, layout: str) -> np.ndarray:
    """Images ``(n, C, H, W)`` as sequences ``(n, T, F)``.

    Args:
        images: The images.
        layout: ``pixels`` (H W steps of C colours), ``rows`` (H steps of [R row, G row, B row]), ``grey`` (H W steps of
            the luminance), or ``TxF``: the channels-first memory cut into T steps of F numbers, as released codes do.
    """
    n, C, H, W = images.shape
    if layout == "pixels":
        return images.reshape(n, C, H * W).transpose(0, 2, 1)
    if layout == "rows":
        return images.transpose(0, 2, 1, 3).reshape(n, H, C * W)
    if layout == "grey":
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return np.tensordot(images, weights, axes=(1, 0)).reshape(n, H * W, 1)
    T, F = (int(word) for word in layout.split("x"))
    return images.reshape(n, T, F)


def as_sequences(
    images: ImageData,
    layout: str,
    *,
    permute: str = "none",
    scale: float = 1.0,
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    noise: str = "none",
    length: int = 0,
    seed: int = 0,
) -> SequenceData:
    """Images read step by step, made batch by batch.

    Args:
        images: The images.
        layout: See :func:`as_steps`.
        permute: Order of the pixels, see :func:`permutation`.
        scale: Largest value of a pixel.
        normalize: Mean and deviation of each colour, on [0, 1].
        noise: ``"none"``, or standard normal steps up to ``length``: ``"fixed"`` (one block for all images) or
            ``"fresh"`` (one block for each).
        length: Steps with noise.
        seed: Seed of the noise.
    """
    from .sequences import SequenceData

    _, C, H, W = images.pixels.shape
    order = permutation(permute, H * W)

    def steps(stored: np.ndarray) -> np.ndarray:
        x = stored.astype(np.float32)
        x /= np.float32((255 if stored.dtype == np.uint8 else 1) / scale)
        if normalize is not None:
            mean, deviation = (np.array(v, dtype=np.float32)[:, None, None] for v in normalize)
            x = (x - mean) / deviation
        if order is not None:
            x = x.reshape(len(x), C, -1)[:, :, order].reshape(x.shape)
        return as_steps(x, layout)

    _, T, F = steps(images.pixels[:1]).shape
    block = numpy_stream(seed, "noise").standard_normal((max(length - T, 0), F), dtype=np.float32)

    def make(stored: np.ndarray, rows: np.ndarray) -> np.ndarray:
        x = steps(stored)
        if noise == "none":
            return x
        if noise == "fixed":
            tail = np.broadcast_to(block, (len(x), *block.shape))
        else:
            drawn = [numpy_stream(seed, "noise", int(r)).standard_normal(block.shape, dtype=np.float32) for r in rows]
            tail = np.stack(drawn) if drawn else np.zeros((0, *block.shape), dtype=np.float32)
        return np.concatenate([x, tail], 1)

    total = T if noise == "none" else length
    key = f"{layout} {permute} {scale} {normalize} {noise} {length} {seed if noise != 'none' else ''}"
    words = f"{images.name} {layout}" + ("" if order is None else f" permuted ({permute})")
    told = f"{images.provenance}; pixels in [0, {scale:g}]" + ("" if normalize is None else ", normalised per colour")
    return SequenceData(
        words + ("" if noise == "none" else f" + {noise} noise"), Rows(images.pixels, make, total, F, key), images.y,
        "classify", split=images.split, classes=images.classes, licence=images.licence, provenance=told,
    )  # fmt: skip
