"""Image classifiers as sources of transfer: trained naturally or adversarially in the one loop, opened from run folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .._checks import Integer
from .._errors import ArgumentError, CheckpointError
from ..data.images import ImageData
from ..perturb.strategy import Strategy
from ..transfer.network import ConvNet
from .config import TrainConfig
from .levels import Images, load_levels
from .loop import Run, train
from .state import load_state


@dataclass(frozen=True)
class ConvConfig:
    """The small convolutional network, as plain values."""

    inputs: int
    outputs: int
    width: int = 16

    @property
    def label(self) -> str:
        """The kind of network."""
        return "convnet"

    def facts(self) -> dict[str, Any]:
        """What a run directory records of it."""
        return {"convnet": asdict(self)}

    def build(self) -> ConvNet:
        """The network with fresh weights."""
        return ConvNet(self.inputs, self.outputs, self.width)


def source_config(epochs: int, lr: float, batch_size: int, seed: int) -> TrainConfig:
    """SGD with momentum, a tenth of the learning rate after 5/8 and again after 7/8 of the epochs; the last weights."""
    falls = tuple(sorted({epochs * 5 // 8 + 1, epochs * 7 // 8 + 1} - {1}))
    return TrainConfig(
        epochs=epochs, lr=lr, batch_size=batch_size, optimizer="sgd", momentum=0.9, weight_decay=5e-4, clip=None,
        decay_at=falls, keep="last", seed=seed,
    )  # fmt: skip


def train_source(
    images: ImageData, config: TrainConfig, folder: Path, *, width: int = 16, strategy: Strategy | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None, on_step: Callable[..., None] | None = None,
    device: str | None = None,
) -> Run:  # fmt: skip
    """Train the small network on images, or go on where an interrupted run of the same settings stopped.

    Args:
        images: The source data.
        config: How.
        folder: Run directory, as of :func:`gyrostat.train.loop.train`.
        width: Channels of the first convolution.
        strategy: :class:`gyrostat.transfer.adversarial.AdversarialTraining`, or plain training when left out.
        on_epoch: Called with the metrics of each finished epoch.
        on_step: Called after each step with the progress and the steps of an epoch.
        device: ``"cpu"``, ``"cuda"``; what is there when left out.
    """
    net = ConvConfig(images.pixels.shape[1], images.n_classes, width)
    examples = Images(images.name, images.floats(), images.y, "classify", images.split)
    return train(examples, net, config, folder, strategy=strategy, on_epoch=on_epoch, on_step=on_step, device=device)


def load_source(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The image classifier of a run directory, in evaluation mode, and its facts.

    Raises:
        CheckpointError: The folder holds no image classifier.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    tensors, facts = load_state(file)
    if facts.get("net", {}).get("kind") == "image":
        return load_levels(path)
    if "convnet" not in facts:
        raise CheckpointError(
            f"{path}: holds no image classifier; name a run of gyrostat transfer or of gyrostat train-depth on images"
        )
    try:
        model = ConvConfig(**facts["convnet"]).build()
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole run: {' '.join(str(error).split())[:120]}") from error
    return model.eval(), facts


SIDE = Integer(low=4, high=1024)


def fitted(images: ImageData, size: int | None = None, channels: int | None = None) -> ImageData:
    """Images of another side (bilinear) and with another number of channels (grey repeated, or colours averaged).

    Raises:
        ArgumentError: A size below 4.
    """
    if size is not None:
        SIDE.check("size", size, "transfer")
    have = images.pixels.shape[1]
    wanted = have if channels is None else channels
    if (size is None or images.pixels.shape[2:] == (size, size)) and wanted == have:
        return images
    if wanted not in (1, have) and have != 1:
        raise ArgumentError(f"transfer: images with {have} channels cannot be given {wanted}")
    pieces = []
    for start in range(0, len(images.pixels), 4096):
        x = torch.from_numpy(images.floats(slice(start, start + 4096)))
        if size is not None:
            smaller = size < x.shape[-1]
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=smaller)
        x = x.mean(1, keepdim=True) if wanted < have else x.expand(-1, wanted, -1, -1)
        pieces.append(x.clamp(0, 1).contiguous().numpy())
    return dataclasses.replace(images, pixels=np.concatenate(pieces))
