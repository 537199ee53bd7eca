"""Handwritten digits, 1,797 images of 8 x 8, bundled with scikit-learn, as images and read as sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import OneOf
from .images import ImageData
from .sequences import SequenceData
from .source import Source

LAYOUTS = {"64x1": (64, 1), "16x4": (16, 4), "8x8": (8, 8)}
LICENCE = "CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)"


def digit_images(*, seed: int = 0) -> ImageData:
    """The digits as images in [0, 1]; the split is fixed (1,257 / 180 / 360), whatever the seed."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))  # the split of the reference runs
    split = {"train": order[:1257], "valid": order[1257:1437], "test": order[1437:]}
    return ImageData(
        "digits",
        (found.data / 16.0).astype(np.float32).reshape(-1, 1, 8, 8),
        found.target.astype(np.int64),
        {k: np.sort(v) for k, v in split.items()},
        tuple("0123456789"),
        licence=LICENCE,
        provenance="sklearn.datasets.load_digits; pixels / 16 in raster order",
    )


def digits(*, layout: str = "16x4", seed: int = 0) -> SequenceData:
    """The digits in raster order, scaled to [0, 1]."""
    images = digit_images()
    x = images.pixels.reshape(-1, *LAYOUTS[layout])
    return SequenceData(
        f"digits {layout}", x, images.y, "classify", split=images.split, licence=LICENCE, provenance=images.provenance
    )


SOURCES = {
    "digits": Source(
        digits,
        "1,797 handwritten digits of scikit-learn",
        {"layout": OneOf(tuple(LAYOUTS))},
        licence=LICENCE,
        images=digit_images,
    )
}
