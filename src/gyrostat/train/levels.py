"""Training that grows in depth: theta <- refine(theta), N <- 2 N, a new optimiser, at the start of listed epochs.

The learning rate follows one schedule over the whole run; moments are discarded at every change of level, as in the
published runs. Images and tagged sentences; every level is kept in a file that loads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, CheckpointError, DataError, NonFiniteError
from .._rng import derive_seed, torch_stream
from ..data.batches import Batch
from ..data.sequences import SequenceData
from ..data.tags import TaggedData
from ..depth.change import blocks, match_checkpoint, project, refine
from ..depth.convnet import ContinuousNet
from ..depth.optim import refine_optimizer
from ..depth.transformer import ContinuousTagger
from ..numerics.families import parse_basis
from ..perturb.strategy import Plain, Strategy, describe
from ..report.page import write_atomically
from .state import flatten_optimizer, load_state, prefixed, restore_optimizer, save_state
from .task import Task

OPTIMIZERS = ("sgd", "adamw")
_RULES = {
    "epochs": Integer(low=1),
    "batch_size": Integer(low=1),
    "lr": Real(low=0, closed="neither"),
    "decay": Real(low=0, high=1, closed="right"),
    "momentum": Real(low=0, high=1, closed="left"),
    "weight_decay": Real(low=0),
    "optimizer": OneOf(OPTIMIZERS),
    "refine_noise": Real(low=0),
    "carry_optimizer": Boolean(),
}


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
class LevelConfig:
    """How to train: epochs are counted from 1; a change of level comes before the first batch of its epoch."""

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.05
    decay_at: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    refine_at: tuple[int, ...] = ()
    project_at: tuple[int, ...] = ()
    refine_noise: float = 0.0
    carry_optimizer: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check(_RULES, asdict(self), "train")
        for name in ("decay_at", "refine_at", "project_at"):
            for epoch in getattr(self, name):
                Integer(low=1).check(name, epoch, "train")
        twice = set(self.refine_at) & set(self.project_at)
        if twice:
            raise ArgumentError(f"train: epoch {min(twice)} is in refine_at and in project_at; take one of the two")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        return self.lr * self.decay ** sum(epoch >= at for at in self.decay_at)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimiser."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return torch.optim.AdamW(model.parameters(), self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay)


def as_tensors(data: SequenceData | TaggedData) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W)`` from sequences of rows, or tokens ``(N, L)``; and the targets."""
    if isinstance(data, TaggedData):
        return torch.from_numpy(data.x), torch.from_numpy(data.y)
    if data.task != "classify" or data.lengths is not None or data.x.shape[2] < 4:
        raise DataError(
            f"{data.name}: not images with classes; open an image set row by row, such as digits:layout=8x8 or "
            "fashion-mnist:layout=rows"
        )
    return torch.from_numpy(data.x[:, None]), torch.from_numpy(data.y)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 256) -> dict[str, float]:
    """Mean loss and accuracy over all labels that count, in evaluation mode."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    loss, right, count = 0.0, 0, 0
    for part, target in zip(x.split(batch_size), y.split(batch_size)):
        flat = target.to(device).flatten()
        logits = model(part.to(device)).reshape(len(flat), -1)
        loss += float(F.cross_entropy(logits, flat, reduction="sum", ignore_index=-100))
        right += int((logits.argmax(1) == flat).sum())
        count += int((flat != -100).sum())
    model.train(training)
    return {"loss": loss / count, "accuracy": right / count}


def change_level(model: nn.Module, config: LevelConfig, epoch: int) -> nn.Module:
    """The model as the epoch wants it: refined, projected to half of its basis, or as it is."""
    if epoch in config.refine_at:
        generator = torch_stream(config.seed, "refine", epoch)
        return refine(model, noise=config.refine_noise, generator=generator)
    if epoch in config.project_at:
        halves = {}
        for name, block in blocks(model).items():
            half = block.basis.K // 2
            if not block.basis.fits(half):
                raise ArgumentError(f"train: project_at={epoch}: {block.basis!r} cannot be halved to K = {half}")
            halves[name] = block.basis.resized(half)
        steps = {name: max(block.n_steps // 2, 1) for name, block in blocks(model).items()}
        model = project(model, halves)
        for name, block in blocks(model).items():
            block.set_solver(n_steps=steps[name])
    return model


def train_levels(
    data: SequenceData | TaggedData,
    net: NetConfig,
    config: LevelConfig,
    folder: Path,
    *,
    strategy: Strategy | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    device: str | None = None,
    source: str = "",
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network of continuous depth, or go on where an interrupted run of the same settings stopped.

    Args:
        data: Images row by row, or tagged sentences.
        net: What to train.
        config: How.
        folder: Run directory: ``config.json``, ``metrics.jsonl``, ``state.safetensors``, ``level-K.safetensors`` for
            each finished level, ``model.safetensors``, ``result.json``.
        strategy: How a batch becomes a loss, as in :func:`gyrostat.train.loop.train`.
        on_epoch: Called with the metrics of each finished epoch.
        device: ``"cpu"``, ``"cuda"``; the CPU when left out.
        source: How the data was named on the command line, for verbs that open it again.

    Returns:
        The model and its result as plain values.

    Raises:
        CheckpointError: ``folder`` holds a run of other settings.
        NonFiniteError: The loss became NaN or Inf.
    """
    x, y = as_tensors(data)
    facts = {"net": asdict(net), "levels": json.loads(json.dumps(asdict(config))), "data": data.name}
    facts["source"] = source
    strategy = strategy or Plain()
    facts["strategy"] = describe(strategy)
    task = Task("tag" if isinstance(data, TaggedData) else "classify")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "init"))
        model = net.build().to(device or "cpu")
    optimizer = config.make_optimizer(model)
    history: list[dict[str, Any]] = []
    path = folder / "state.safetensors"
    if path.is_file():
        tensors, saved = load_state(path)
        if saved.get("facts") != facts:
            raise CheckpointError(f"{folder}: holds a run of other settings or data; choose another folder, or --force")
        weights = prefixed(tensors, "model.")
        match_checkpoint(model, weights).load_state_dict(weights)
        optimizer = config.make_optimizer(model)
        optimizer.load_state_dict(restore_optimizer(tensors, saved["optimizer"]))
        history = saved["history"]
    write_atomically(folder / "config.json", json.dumps(facts, indent=1).encode())
    rows = {name: torch.from_numpy(np.asarray(r)) for name, r in data.split.items()}
    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.monotonic()
        changed = change_level(model, config, epoch)
        if changed is not model:
            save_state(folder / f"level-{_size(model)}.safetensors", model.state_dict(), facts)
            if config.carry_optimizer:
                optimizer = refine_optimizer(optimizer, model, changed, carry=True)
            else:
                optimizer = config.make_optimizer(changed)
            model = changed
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(epoch)
        loss = _one_epoch(model, optimizer, x, y, rows["train"], config, epoch, task, strategy)
        measured = evaluate(model, x[rows["valid"]], y[rows["valid"]])
        seconds = time.monotonic() - started
        row = {
            "epoch": epoch, "train_loss": loss, "valid_loss": measured["loss"], "valid_accuracy": measured["accuracy"],
            "K": _size(model), "seconds": seconds,
        }  # fmt: skip
        history.append(row)
        flat, values = flatten_optimizer(optimizer.state_dict())
        own = {f"model.{k}": v for k, v in model.state_dict().items()}
        save_state(path, {**own, **flat}, {"facts": facts, "optimizer": values, "history": history})
        write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in history).encode())
        if on_epoch:
            on_epoch(row)
    tested = evaluate(model, x[rows["test"]], y[rows["test"]])
    result = {
        **facts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_loss": tested["loss"],
        "test_accuracy": tested["accuracy"],
        "seconds": sum(r["seconds"] for r in history),
        "history": history,
    }
    save_state(folder / "model.safetensors", model.state_dict(), facts)
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
    return model.eval(), result


def _size(model: nn.Module) -> int:
    return max(block.basis.K for block in blocks(model).values())


def _one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    config: LevelConfig,
    epoch: int,
    task: Task,
    strategy: Strategy,
) -> float:
    model.train()
    device = next(model.parameters()).device
    order = rows[torch.randperm(len(rows), generator=torch_stream(config.seed, "order", epoch))]
    total = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "dropout", epoch))
        for number, chosen in enumerate(order.split(config.batch_size), 1):
            generator = torch_stream(config.seed, "strategy", epoch, number, device=device)
            batch = Batch(x[chosen].to(device), y[chosen].to(device), None)
            loss = strategy(model, batch, task, generator=generator)
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"train: the loss is {float(loss)} in epoch {epoch}, batch {number}; lower lr or scale, or skip_init"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
    return total / len(rows)


def load_levels(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run directory, or of one of its files, whatever its level.

    Args:
        path: Run directory, or a ``model.safetensors`` or ``level-K.safetensors`` in one.

    Raises:
        CheckpointError: Not a network of continuous depth.
    """
    tensors, facts = load_state(path / "model.safetensors" if path.is_dir() else path)
    try:
        model = NetConfig(**facts["net"]).build()
        match_checkpoint(model, tensors).load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a network of continuous depth: {' '.join(str(error).split())[:120]}"
        ) from error
    return model.eval(), facts
