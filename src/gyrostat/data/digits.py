"""Handwritten digits, 1,797 images of 8 x 8, bundled with scikit-learn, read as sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._errors import DataError
from .sequences import SequenceData

LAYOUTS = {"64x1": (64, 1), "16x4": (16, 4), "8x8": (8, 8)}


def digits(*, layout: str = "16x4", seed: int = 0) -> SequenceData:
    """The digits in raster order, scaled to [0, 1]; the split is fixed (1,257 / 180 / 360), whatever the seed."""
    if layout not in LAYOUTS:
        raise DataError(f"digits: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))  # the split of the reference runs
    split = {"train": order[:1257], "valid": order[1257:1437], "test": order[1437:]}
    return SequenceData(
        f"digits {layout}",
        found.data.reshape(-1, *LAYOUTS[layout]) / 16.0,
        found.target.astype(np.int64),
        "classify",
        split={k: np.sort(v) for k, v in split.items()},
        licence="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
        provenance="sklearn.datasets.load_digits; pixels / 16 in raster order",
    )


SOURCES = {"digits": digits}
