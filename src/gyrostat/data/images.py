"""Image sets read as sequences: MNIST and Fashion-MNIST in IDX files, pixel by pixel, row by row, or permuted."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from .._errors import DataError
from .._rng import numpy_stream
from .catalogue import data_folder
from .sequences import SequenceData

PARTS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
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


def _load(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for stem in PARTS[part]:
        path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
        if path is None:
            raise DataError(
                f"{folder.name}: the file {stem}(.gz) is not in the folder {folder.name} under GYROSTAT_DATA"
            )
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{folder.name}: {part} images {images.shape} and labels {labels.shape} do not belong together")
    return images, labels


def permutation(kind: str, size: int) -> np.ndarray | None:
    """A pixel order: ``none``, or that of a released code: ``lipschitz`` (torch 12008), ``lem`` (torch 5544), ``exprnn``."""
    if kind == "none":
        return None
    if kind == "exprnn":
        return np.random.RandomState(92916).permutation(size)  # the stream of the released code
    seeds = {"lipschitz": 12008, "lem": 5544}
    if kind not in seeds:
        raise DataError(f"permute must be none, lipschitz, lem or exprnn, got {kind!r}")
    import torch

    return torch.randperm(size, generator=torch.Generator().manual_seed(seeds[kind])).numpy()


def _images(name: str, licence: str, layout: str, permute: str, scale: float, limit: int, seed: int) -> SequenceData:
    folder = data_folder() / name
    if not folder.is_dir():
        raise DataError(f"{name}: there is no folder {name} under GYROSTAT_DATA; it must hold the four IDX files")
    if layout not in ("pixels", "rows"):
        raise DataError(f"{name}: layout must be pixels or rows, got {layout!r}")
    (train, train_y), (test, test_y) = _load(folder, "train"), _load(folder, "test")
    if limit:
        train, train_y, test, test_y = train[:limit], train_y[:limit], test[: limit // 5], test_y[: limit // 5]
    images = np.concatenate([train, test]).astype(np.float32) * (scale / 255)
    N, height, width = images.shape
    x = images.reshape(N, -1)
    order = permutation(permute, height * width)
    x = x if order is None else x[:, order]
    rows = numpy_stream(seed, "split", name).permutation(len(train))
    held = max(1, len(train) // 20)
    return SequenceData(
        f"{name} {layout}" + ("" if order is None else f" permuted ({permute})"),
        x.reshape(N, -1, 1) if layout == "pixels" else x.reshape(N, height, width),
        np.concatenate([train_y, test_y]).astype(np.int64),
        "classify",
        split={"train": np.sort(rows[held:]), "valid": np.sort(rows[:held]), "test": np.arange(len(train), N)},
        licence=licence,
        provenance=f"IDX files; pixels scaled to [0, {scale:g}]",
    )


def mnist(
    *, layout: str = "pixels", permute: str = "none", scale: float = 1.0, limit: int = 0, seed: int = 0
) -> SequenceData:
    """MNIST from GYROSTAT_DATA/mnist; ``scale=255,permute=lipschitz`` is the released psMNIST."""
    return _images("mnist", "CC BY-SA 3.0", layout, permute, scale, limit, seed)


def fashion_mnist(
    *, layout: str = "pixels", permute: str = "none", scale: float = 1.0, limit: int = 0, seed: int = 0
) -> SequenceData:
    """Fashion-MNIST from GYROSTAT_DATA/fashion-mnist; ``limit`` keeps the first so many training images."""
    return _images("fashion-mnist", "MIT", layout, permute, scale, limit, seed)


SOURCES = {"mnist": mnist, "fashion-mnist": fashion_mnist}
