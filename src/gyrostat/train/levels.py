"""Training that grows in depth: theta <- refine(theta), N <- 2 N, a new optimiser, at the start of listed epochs.

The learning rate follows one schedule over the whole run; moments are discarded at every change of level, as in the
published runs. Images and tagged sentences, in the loop that trains everything; every level is kept in a file that loads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import Boolean, Integer, Real, check
from .._errors import ArgumentError, CheckpointError, DataError
from .._rng import torch_stream
from ..data.catalogue import open_data, open_images, parse_options, sources
from ..data.images import ImageData
from ..data.sequences import SequenceData, content_hash
from ..data.tags import TaggedData, ud_english_ewt
from ..depth.change import blocks, match_checkpoint, project, refine
from ..depth.convnet import ContinuousNet
from ..depth.optim import refine_optimizer
from ..depth.transformer import ContinuousTagger
from ..numerics.basis import Basis
from ..numerics.families import parse_basis
from ..perturb.strategy import Strategy
from .config import TrainConfig
from .loop import Run, train
from .state import load_state

DepthData = ImageData | SequenceData | TaggedData

_RULES = {"refine_noise": Real(low=0), "carry_optimizer": Boolean()}


@dataclass(frozen=True)
class NetConfig:
    """Which network: everything needed to build it again, as plain values."""

    kind: str
    outputs: int
    inputs: int
    basis: str = "piecewise_constant:1"
    solver: str = "rk4"
    n_steps: int | None = None
    scale: float = 1.0
    channels: int = 16
    segments: int = 3
    variant: str = "v2"
    skip_init: bool = False
    embed_dim: int = 64
    num_heads: int = 1
    dropout: float = 0.0
    max_length: int = 512

    def __post_init__(self) -> None:
        check({"dropout": Real(low=0, high=1, closed="left")}, vars(self), "train")

    @classmethod
    def for_data(cls, data: DepthData, **settings: Any) -> NetConfig:
        """The network that reads and answers what a data set holds.

        Args:
            data: Images, images as sequences of rows, or tagged sentences.
            **settings: Further fields.
        """
        if isinstance(data, TaggedData):
            return cls("tags", len(data.tags), len(data.words), max_length=data.x.shape[1], **settings)
        colours = data.pixels.shape[1] if isinstance(data, ImageData) else 1
        return cls("image", len(data.classes), colours, **settings)

    @property
    def label(self) -> str:
        """The kind of network."""
        return f"{self.kind} network of continuous depth"

    def facts(self) -> dict[str, Any]:
        """What a run directory records of it."""
        return {"net": asdict(self)}

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        shared: dict[str, Any] = {
            "basis": parse_basis(self.basis), "solver": self.solver, "n_steps": self.n_steps, "scale": self.scale,
        }  # fmt: skip
        if self.kind == "image":
            return ContinuousNet(
                self.inputs, self.outputs, channels=self.channels, segments=self.segments, variant=self.variant,
                skip_init=self.skip_init, **shared,
            )  # fmt: skip
        return ContinuousTagger(
            self.inputs, self.outputs, embed_dim=self.embed_dim, num_heads=self.num_heads, dropout=self.dropout,
            max_length=self.max_length, **shared,
        )  # fmt: skip


@dataclass(frozen=True)
class Levels:
    """When the network changes: epochs are counted from 1; a change comes before the first batch of its epoch.

    Attributes:
        config: The training that the levels belong to.
        refine_at: Epochs at whose start the basis is refined and the steps are doubled.
        project_at: Epochs at whose start the basis and the steps are halved.
        refine_noise: Relative noise on the weights at a refinement.
        carry_optimizer: Keep the optimiser's moments at a change.
    """

    config: TrainConfig
    refine_at: tuple[int, ...] = ()
    project_at: tuple[int, ...] = ()
    refine_noise: float = 0.0
    carry_optimizer: bool = False

    def __post_init__(self) -> None:
        check(_RULES, vars(self), "train")
        for name in ("refine_at", "project_at"):
            for epoch in getattr(self, name):
                Integer(low=1).check(name, epoch, "train")
        late = [epoch for epoch in (*self.refine_at, *self.project_at) if epoch > self.config.epochs]
        if late:
            raise ArgumentError(
                f"train: the level is to change in epoch {max(late)}, but the run has {self.config.epochs}; "
                "drop it from refine_at or project_at, or raise epochs"
            )
        twice = set(self.refine_at) & set(self.project_at)
        if twice:
            raise ArgumentError(f"train: epoch {min(twice)} is in refine_at and in project_at; take one of the two")

    def plan(self, basis: str) -> list[Basis]:
        """The basis of every level that a run passes through, the first one included.

        Args:
            basis: The basis at the start, as one word.

        Raises:
            ArgumentError: A level that cannot be halved.
        """
        found = [parse_basis(basis)]
        for epoch in sorted({*self.refine_at, *self.project_at}):
            last = found[-1]
            found.append(last.refine()[0] if epoch in self.refine_at else halved(last, epoch))
        return found

    def facts(self) -> dict[str, Any]:
        """What a run directory records of it."""
        return {
            "refine_at": list(self.refine_at), "project_at": list(self.project_at),
            "refine_noise": self.refine_noise, "carry_optimizer": self.carry_optimizer,
        }  # fmt: skip

    def fitted(self, model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """The network at the level of a checkpoint."""
        return match_checkpoint(model, weights)

    def at(self, model: nn.Module, epoch: int) -> nn.Module:
        """The network as an epoch, counted from 0, wants it: refined, projected to half of its basis, or as it is."""
        if epoch + 1 in self.refine_at:
            generator = torch_stream(self.config.seed, "refine", epoch)
            return refine(model, noise=self.refine_noise, generator=generator)
        if epoch + 1 not in self.project_at:
            return model
        halves = {name: halved(block.basis, epoch + 1) for name, block in blocks(model).items()}
        steps = {name: max(block.n_steps // 2, 1) for name, block in blocks(model).items()}
        model = project(model, halves)
        for name, block in blocks(model).items():
            block.set_solver(n_steps=steps[name])
        return model

    def optimizer(self, old: Any, model: nn.Module, changed: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the changed network."""
        if self.carry_optimizer:
            return refine_optimizer(getattr(old, "optimizer", old), model, changed, carry=True)
        return self.config.make_optimizer(changed)

    def file(self, model: nn.Module, epoch: int) -> str:
        """Where the level that ends before an epoch, counted from 0, is kept."""
        number = sum(at <= epoch for at in (*self.refine_at, *self.project_at)) + 1
        return f"level-{number}-k{size_of(model)}.safetensors"


def halved(basis: Basis, epoch: int) -> Basis:
    """The same family with half of the functions, for the start of an epoch counted from 1."""
    if not basis.fits(basis.K // 2):
        raise ArgumentError(
            f"train: project_at={epoch}: {basis!r} cannot be halved to K = {basis.K // 2}; start from a larger basis, or "
            "refine before"
        )
    return basis.resized(basis.K // 2)


@dataclass(frozen=True)
class Images:
    """Images ``(N, C, H, W)`` or tagged sentences ``(N, L)`` as a network of continuous depth takes them."""

    name: str
    x: np.ndarray
    y: np.ndarray
    task: str
    split: dict[str, np.ndarray]
    lengths: None = None

    @property
    def content_hash(self) -> str:
        """A digest of all numbers and the split."""
        return content_hash(self.x, self.y, None, self.split)


def open_depth_data(spec: str, seed: int = 0) -> DepthData:
    """Images, sequences that are images row by row, or tagged sentences for ``ud-english-ewt``."""
    name, _, tail = spec.partition(":")
    if name == "ud-english-ewt":
        return ud_english_ewt(**parse_options(tail.split(","), spec))
    source = sources().get(name)
    if source is not None and source.images is not None and "layout=" not in tail:
        return open_images(spec, seed=seed)
    return open_data(spec, seed=seed)


def as_examples(data: DepthData) -> Images:
    """Images, images from sequences of rows, or tokens.

    Raises:
        DataError: The sequences are not rows of images with classes.
    """
    if isinstance(data, TaggedData):
        return Images(data.name, data.x, data.y, "tag", data.split)
    if isinstance(data, ImageData):
        return Images(data.name, data.floats(), data.y, "classify", data.split)
    if data.task != "classify" or data.lengths is not None or data.x.shape[2] < 4:
        raise DataError(
            f"{data.name}: not images with classes; name an image set such as digits, fashion-mnist or cifar10, or "
            "bring images as sequences of rows"
        )
    return Images(data.name, data.x[:, None], data.y, "classify", data.split)


def train_levels(
    data: DepthData,
    net: NetConfig,
    levels: Levels,
    folder: Path,
    *,
    strategy: Strategy | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[..., None] | None = None,
    device: str | None = None,
    tensorboard: bool = False,
    source: str = "",
) -> Run:
    """Train a network of continuous depth, or go on where an interrupted run of the same settings stopped.

    Args:
        data: Images, sequences that are images row by row, or tagged sentences.
        net: What to train.
        levels: How, and when it grows.
        folder: Run directory, as of :func:`gyrostat.train.loop.train`, and ``level-1-k1.safetensors`` (number and K)
            for each finished level.
        strategy: How a batch becomes a loss.
        on_epoch: Called with the metrics of each finished epoch.
        on_step: Called after each step with the progress and the steps of an epoch.
        device: ``"cpu"``, ``"cuda"``; what is there when left out.
        tensorboard: Also write the metrics for TensorBoard.
        source: How the data was named on the command line, for verbs that open it again.

    Raises:
        CheckpointError: ``folder`` holds a run of other settings.
        NonFiniteError: The loss became NaN or Inf.
    """
    examples = as_examples(data)
    levels.plan(net.basis)
    about = {"source": source, "shape": list(examples.x.shape[1:])}
    return train(
        examples, net, levels.config, folder, strategy=strategy, growth=levels, about=about,
        on_epoch=on_epoch, on_step=on_step, record=lambda model: {"K": size_of(model)}, device=device,
        tensorboard=tensorboard,
    )  # fmt: skip


def size_of(model: nn.Module) -> int:
    """The largest basis of a network."""
    return max(block.basis.K for block in blocks(model).values())


def load_levels(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run directory, or of one of its files, whatever its level.

    Args:
        path: Run directory, or a ``model.safetensors`` or ``level-...safetensors`` in one.

    Raises:
        CheckpointError: Not a network of continuous depth.
    """
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: name a run directory, or a .safetensors file in one")
    tensors, facts = load_state(path / "model.safetensors" if path.is_dir() else path)
    try:
        model = NetConfig(**facts["net"]).build()
        match_checkpoint(model, tensors).load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a network of continuous depth: {' '.join(str(error).split())[:120]}"
        ) from error
    return model.eval(), facts
