"""CIFAR-10, 60,000 photographs of 32 x 32 in 10 classes: as images, pixel by pixel, row by row, padded with noise.

    cifar10        x_t = one pixel (1,024 steps of 3 colours) unless another layout is chosen
    cifar10-noise  x_t = [R row t, G row t, B row t] for t < 32, then standard normal steps up to ``length``

Source: the tasks of arXiv:2006.12070 and arXiv:2110.04744. The released codes draw one noise block and share it among all
images (``noise=fixed``, the default); ``noise=fresh`` draws one for each. ``layout=code`` cuts the channels-first memory
into steps as two of the released codes do: 1024 x 3 mixes three neighbours of one colour, 32 x 96 mixes rows.
Training crops and flips of the released pixel task are not applied.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from .._checks import Boolean, Integer, OneOf
from .._errors import DataError
from .archives import members
from .images import HUB, LIMIT, ORDERS, SCALE, SPLIT, ImageData, as_sequences, held_out
from .sequences import SequenceData
from .source import HUB_HINT, Source, find

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, DEVIATION = (0.4914, 0.4823, 0.4465), (0.2471, 0.2435, 0.2616)
NEEDS = "cifar-10-batches-bin/ (or its .tar.gz), or cifar10_jpeg.tar.xz (or a folder) with train/<class>/*.jpg"
PLACES = (
    "cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar10/cifar-10-batches-bin", "cifar10/data_batch_1.bin",
    "cifar10/cifar-10-binary.tar.gz", "cifar10_jpeg.tar.xz", "cifar10_jpeg", "cifar10/cifar10_jpeg.tar.xz", "cifar10",
)  # fmt: skip
RECORD = 1 + 3 * 32 * 32
_BINARY = re.compile(r"(?:^|/)(data_batch_\d|test_batch)\.bin$")
_JPEG = re.compile(r"(?:^|/)(train|test)/(\w+)/([^/]+)\.(?:jpe?g|png)$")
Part = tuple[np.ndarray, np.ndarray]


def read_binary(path: Path) -> dict[str, Part]:
    """Images ``(n, 3, 32, 32)`` and labels of ``data_batch_*.bin`` and ``test_batch.bin`` in a folder or archive."""
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for name, raw in sorted(members(path, lambda n: _BINARY.search(n) is not None)):
        if not raw or len(raw) % RECORD:
            raise DataError(f"{name}: {len(raw)} bytes are not whole records of {RECORD}; fetch it again")
        records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, RECORD)
        if records[:, 0].max() > 9:
            raise DataError(f"{name}: has the label {records[:, 0].max()}; it is not CIFAR-10's binary version")
        found["test" if "test_batch" in name else "train"].append(records)
    return {
        part: (r[:, 1:].reshape(-1, 3, 32, 32), r[:, 0])
        for part, pieces in found.items()
        if pieces and (r := np.concatenate(pieces)) is not None
    }


def read_jpeg(path: Path, limit: int = 0) -> dict[str, Part]:
    """Images and labels of ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, the classes taking turns.

    Args:
        path: Folder or archive.
        limit: First so many training images, and a fifth of that for tests; 0 takes all.
    """
    from PIL import Image, UnidentifiedImageError

    found: dict[str, list[tuple[str, int, bytes]]] = {"train": [], "test": []}
    for name, raw in members(path, lambda n: _JPEG.search(n) is not None):
        part, label, stem = _JPEG.search(name).groups()  # type: ignore[union-attr]
        if label not in CLASSES:
            raise DataError(f"{path.name}: {name} is in a folder {label!r}, which is no class of CIFAR-10")
        found[part].append((stem, CLASSES.index(label), raw))
    read: dict[str, Part] = {}
    for part, files in found.items():
        chosen = sorted(files, key=lambda f: f[:2])[: (limit if part == "train" else limit // 5) or None]
        pixels = np.empty((len(chosen), 3, 32, 32), dtype=np.uint8)
        for i, (stem, label, raw) in enumerate(chosen):
            try:
                with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as image:
                    if image.size != (32, 32):
                        raise DataError(f"{path.name}: {CLASSES[label]}/{stem} is {image.size}, not 32 x 32")
                    pixels[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            except (UnidentifiedImageError, OSError, SyntaxError) as error:
                raise DataError(f"{path.name}: {CLASSES[label]}/{stem} is not a whole image; fetch it again") from error
        if len(chosen):
            read[part] = pixels, np.array([c[1] for c in chosen])
    return read


def cifar10_images(*, split: str = "random", limit: int = 0, hub: bool = False, seed: int = 0) -> ImageData:
    """CIFAR-10 as images; ``limit`` keeps the first so many for training and a fifth of that for tests."""
    if hub:
        from .hub import images_from_hub

        parts, where = {part: images_from_hub("cifar10", part, limit) for part in ("train", "test")}, "the hub"
    else:
        path = find("cifar10", PLACES, NEEDS, HUB_HINT)
        path = path.parent if path.suffix == ".bin" else path
        binary = "bin" in path.name or (path.is_dir() and (path / "data_batch_1.bin").is_file())
        parts, where = (read_binary(path) if binary else read_jpeg(path, limit)), path.name
        if not {"train", "test"} <= set(parts):
            raise DataError(f"cifar10: {path.name} lacks training or test images; it must hold {NEEDS}")
    (train, train_y), (test, test_y) = parts["train"], parts["test"]
    if limit:
        train, train_y, test, test_y = train[:limit], train_y[:limit], test[: limit // 5], test_y[: limit // 5]
    return ImageData(
        "cifar10",
        np.concatenate([train, test]),
        np.concatenate([train_y, test_y]).astype(np.int64),
        held_out("cifar10", len(train), len(test), split, 1 / 25, seed),
        CLASSES,
        licence="none stated by its authors",
        provenance=where + (", re-encoded as JPEG" if "jpeg" in where else ""),
    )


def cifar10(
    *,
    layout: str = "pixels",
    permute: str = "none",
    scale: float = 1.0,
    normalize: bool = True,
    split: str = "random",
    limit: int = 0,
    hub: bool = False,
    seed: int = 0,
) -> SequenceData:
    """Sequential CIFAR-10: 1,024 pixels of 3 colours, or another layout."""
    images = cifar10_images(split=split, limit=limit, hub=hub, seed=seed)
    statistics = (MEAN, DEVIATION) if normalize else None
    return as_sequences(
        images, "1024x3" if layout == "code" else layout, permute=permute, scale=scale, normalize=statistics
    )


def cifar10_noise(
    *,
    length: int = 1000,
    noise: str = "fixed",
    layout: str = "rows",
    normalize: bool = False,
    split: str = "random",
    limit: int = 0,
    hub: bool = False,
    seed: int = 0,
) -> SequenceData:
    """Noise-padded CIFAR-10: 32 rows of 96 numbers, then noise."""
    images = cifar10_images(split=split, limit=limit, hub=hub, seed=seed)
    statistics = (MEAN, DEVIATION) if normalize else None
    cut = "32x96" if layout == "code" else "rows"
    return as_sequences(images, cut, normalize=statistics, noise=noise, length=length, seed=seed)


_SHARED = {"normalize": Boolean(), "split": SPLIT, "limit": LIMIT, "hub": HUB}
SOURCES = {
    "cifar10": Source(
        cifar10,
        "60,000 colour photographs, pixel by pixel",
        {"layout": OneOf(("pixels", "code", "rows", "grey")), "permute": OneOf(ORDERS), "scale": SCALE, **_SHARED},
        licence="none stated",
        files=NEEDS,
        images=cifar10_images,
    ),
    "cifar10-noise": Source(
        cifar10_noise,
        "the rows of a photograph, then noise",
        {
            "length": Integer(low=32, high=100_000),
            "noise": OneOf(("fixed", "fresh")),
            "layout": OneOf(("rows", "code")),
            **_SHARED,
        },
        licence="none stated",
        files=NEEDS,
    ),
}
