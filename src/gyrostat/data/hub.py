"""The one door to the hub: data sets that their user downloads with the packages of the extra ``[hub]``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .._errors import DataError, missing_extra

# name -> repository, column of the image, column of the label
IMAGE_SETS = {
    "mnist": ("ylecun/mnist", "image", "label"),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", "image", "label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
}


def images_from_hub(name: str, part: str, limit: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, C, H, W)`` uint8 and labels of one part, downloaded once and kept by the package ``datasets``.

    Args:
        name: ``mnist``, ``fashion-mnist`` or ``cifar10``.
        part: ``"train"`` or ``"test"``.
        limit: First so many training images, and a fifth of that for tests; 0 takes all.

    Raises:
        MissingExtraError: The package ``datasets`` is not installed.
        DataError: The hub cannot be reached, or gives something else than images.
    """
    repository, image, label = IMAGE_SETS[name]
    rows = _load(name, repository, part)
    count = min((limit if part == "train" else limit // 5) or len(rows), len(rows))
    try:
        pixels = np.stack([np.asarray(rows[i][image], dtype=np.uint8) for i in range(count)])
        y = np.array([int(rows[i][label]) for i in range(count)])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{name}: {repository} on the hub does not hold the columns {image} and {label}") from error
    if pixels.ndim == 3:
        return pixels[:, None], y
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), y


def _load(name: str, repository: str, part: str) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise missing_extra("datasets", "hub", f"downloading {name}") from None
    try:
        return datasets.load_dataset(repository, split=part)
    except Exception as error:
        # the packages below raise errors of half a dozen libraries when there is no network
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{name}: cannot be downloaded from {repository} ({type(error).__name__}: {reason}); "
            "go online, or leave hub=true out and put the files under GYROSTAT_DATA"
        ) from error
