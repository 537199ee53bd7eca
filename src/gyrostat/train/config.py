"""How to train: optimiser, learning rate against epochs, clipping, accumulation, precision, stopping."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .._checks import Integer, OneOf, Real, check
from .._errors import ArgumentError

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
PRECISIONS = ("no", "bf16", "fp16")
OPERATORS = ("skew", "flux", "pairs", "potential", "theta_mu")
_RULES = {
    "epochs": Integer(1),
    "batch_size": Integer(1),
    "lr": Real(0, closed="neither"),
    "optimizer": OneOf(OPTIMIZERS),
    "momentum": Real(0, 1, closed="left"),
    "weight_decay": Real(0),
    "operator_lr": Real(0, closed="neither"),
    "clip": Real(0, closed="neither", optional=True),
    "decay_after": Integer(0, optional=True),
    "decay": Real(0, 1, closed="right"),
    "accumulate": Integer(1),
    "mixed_precision": OneOf(PRECISIONS),
    "patience": Integer(1, optional=True),
    "max_steps": Integer(1, optional=True),
    "keep": OneOf(("best", "last")),
    "log_every": Integer(1, optional=True),
    "checkpoint_seconds": Real(0),
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training.

    Attributes:
        epochs: Passes over the training part.
        batch_size: Examples of one backward pass, for each process.
        lr: Learning rate.
        optimizer: ``"adam"``, ``"adamw"`` (betas .9, .98), ``"rmsprop"`` or ``"sgd"``.
        momentum: Of ``"sgd"``.
        weight_decay: As the optimiser means it.
        operator_lr: Factor of the learning rate for the parameters behind an orthogonal or vector-field operator; a
            tenth is the practice of the orthogonal RNN papers.
        clip: Largest norm of the gradient.
        decay_after: The learning rate falls once this epoch, counted from 0, is finished.
        decay_at: Epochs, counted from 1, at whose start it falls.
        decay: To this fraction.
        accumulate: Backward passes whose gradients make one step.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (with a scaled loss).
        patience: Stop when the validation score has not improved for so many epochs.
        max_steps: Stop after so many steps.
        keep: Which weights are the result: those of the ``"best"`` validation epoch, or the ``"last"``.
        log_every: Also record the mean loss of every so many steps.
        seed: Seed of everything that is drawn.
        checkpoint_seconds: Longest time between two checkpoints; a run goes on whatever it was before.
    """

    epochs: int = 40
    batch_size: int = 64
    lr: float = 5e-3
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    operator_lr: float = 0.1
    clip: float | None = 1.0
    decay_after: int | None = None
    decay_at: tuple[int, ...] = ()
    decay: float = 0.1
    accumulate: int = 1
    mixed_precision: str = "no"
    patience: int | None = None
    max_steps: int | None = None
    keep: str = "best"
    log_every: int | None = None
    seed: int = 0
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        check(_RULES, asdict(self), "train")
        object.__setattr__(self, "decay_at", tuple(self.decay_at))
        for epoch in self.decay_at:
            Integer(1).check("decay_at", epoch, "train")
        if self.momentum and self.optimizer != "sgd":
            raise ArgumentError(f"train: momentum belongs to sgd; {self.optimizer} has none to set")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        falls = sum(epoch >= at - 1 for at in self.decay_at)
        if self.decay_after is not None and epoch > self.decay_after:
            falls += 1
        return self.lr * self.decay**falls

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimiser for the parameters that are trained."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            slow = name.rpartition(".")[2].startswith(OPERATORS)
            if parameter.requires_grad:
                groups.setdefault(self.operator_lr if slow else 1.0, []).append(parameter)
        members = [{"params": found, "factor": factor} for factor, found in groups.items()]
        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return torch.optim.SGD(members, momentum=self.momentum, **shared)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(members, betas=(0.9, 0.98), **shared)
        return {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[self.optimizer](members, **shared)

    def set_lr(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Give every group the learning rate of an epoch, counted from 0."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr_at(epoch) * group["factor"]

    def to_dict(self) -> dict[str, Any]:
        """What makes two runs the same, as plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k != "checkpoint_seconds"}
