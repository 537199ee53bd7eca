"""MNIST and Fashion-MNIST from IDX files: images of 28 x 28, pixel by pixel, row by row, or permuted.

The permuted variants use the order of expRNN, ``RandomState(92916)``; those of the other released codes are options:
``permute=lipschitz,scale=255,split=lipschitz`` (pixels up to 255) and ``permute=lem``.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from .._checks import OneOf
from .._errors import DataError
from .images import HUB, LIMIT, ORDERS, SCALE, SPLIT, ImageData, as_sequences, held_out
from .sequences import SequenceData
from .source import HUB_HINT, Source, find

PARTS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
LICENCES = {"mnist": "CC BY-SA 3.0", "fashion-mnist": "MIT"}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
}
_LIMIT = 400_000_000


def read_idx(path: Path) -> np.ndarray:
    """An array from an IDX file of unsigned bytes, gzipped or plain; its size is checked before it is believed."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: not a whole gzip file; fetch it again") from error
    if len(raw) > _LIMIT:
        raise DataError(f"{path.name}: unpacks to more than {_LIMIT} bytes")
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path.name}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3])
    if body.size != int(np.prod(shape, dtype=object)):
        raise DataError(f"{path.name}: announces {shape} and holds {body.size} bytes")
    return body.reshape(shape)


def _load(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for stem in PARTS[part]:
        places = tuple(f"{folder}{stem}{ending}" for folder in (f"{name}/", "") for ending in (".gz", ""))
        arrays.append(read_idx(find(name, places, f"the file {name}/{stem}.gz", HUB_HINT)))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{name}: {part} images {images.shape} and labels {labels.shape} do not belong together")
    return images[:, None], labels


def mnist_images(name: str, *, split: str = "random", limit: int = 0, hub: bool = False, seed: int = 0) -> ImageData:
    """The images of one of the sets; ``limit`` keeps the first so many for training and a fifth of that for tests."""
    if hub:
        from .hub import images_from_hub

        (train, train_y), (test, test_y) = (images_from_hub(name, part, limit) for part in ("train", "test"))
    else:
        (train, train_y), (test, test_y) = _load(name, "train"), _load(name, "test")
    if limit:
        train, train_y, test, test_y = train[:limit], train_y[:limit], test[: limit // 5], test_y[: limit // 5]
    share = 1 / 30 if split == "lipschitz" else 1 / 20
    return ImageData(
        name,
        np.concatenate([train, test]),
        np.concatenate([train_y, test_y]).astype(np.int64),
        held_out(name, len(train), len(test), split, share, seed),
        CLASSES[name],
        licence=LICENCES[name],
        provenance="the hub" if hub else "IDX files",
    )


def mnist_sequences(
    name: str,
    *,
    layout: str = "pixels",
    permute: str = "none",
    scale: float = 1.0,
    split: str = "random",
    limit: int = 0,
    hub: bool = False,
    seed: int = 0,
) -> SequenceData:
    """The images read step by step: 784 pixels, 28 rows, or 98 steps of 8 pixels."""
    images = mnist_images(name, split=split, limit=limit, hub=hub, seed=seed)
    return as_sequences(images, layout, permute=permute, scale=scale)


_OPTIONS = {
    "layout": OneOf(("pixels", "rows", "98x8")),
    "permute": OneOf(ORDERS),
    "scale": SCALE,
    "split": SPLIT,
    "limit": LIMIT,
    "hub": HUB,
}
SOURCES = {
    prefix + name: Source(
        partial(mnist_sequences, name, **({"permute": "exprnn"} if prefix else {})),
        f"{what}{', pixels permuted' if prefix else ''}",
        _OPTIONS,
        licence=LICENCES[name],
        files=f"`{name}/` with the four IDX files, gzipped or not",
        images=None if prefix else partial(mnist_images, name),
    )
    for name, what in (("mnist", "70,000 handwritten digits"), ("fashion-mnist", "70,000 pictures of clothes"))
    for prefix in ("", "permuted-")
}
