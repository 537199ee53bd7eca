"""How one batch becomes the loss of one step: the hook through which training meets noise and adversaries.

    loss = strategy(model, batch, task, generator=generator)

A strategy is a frozen dataclass: its ``name`` and its fields are recorded with the run, and a run with another strategy is
not continued. What it draws, it draws from ``generator``, which depends on the seed, the epoch and the batch alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .._errors import ArgumentTypeError
from .._results import to_plain


class Batch(Protocol):
    """One batch as training hands it over: ``x (B, ...)``, ``y (B, ...)``, ``lengths (B,)`` or ``None``."""

    @property
    def x(self) -> Tensor: ...  # noqa: D102
    @property
    def y(self) -> Tensor: ...  # noqa: D102
    @property
    def lengths(self) -> Tensor | None: ...  # noqa: D102


class Task(Protocol):
    """What the model is asked: how it reads a batch, and what a wrong answer costs."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def output(self, model: nn.Module, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The model's output for a batch."""
        ...

    def loss(self, output: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean loss, a scalar."""
        ...

    def losses(self, output: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean loss of each example ``(B,)``."""
        ...


class Strategy(Protocol):
    """A frozen dataclass with a ``name`` that turns a batch into a loss.

    ``model`` may be wrapped for several processes: what is back-propagated goes through it as it is, what only looks for a
    perturbation goes through :func:`unwrapped`.
    """

    name: ClassVar[str]

    def __call__(self, model: nn.Module, batch: Batch, task: Task, *, generator: torch.Generator) -> Tensor:
        """The loss of one step."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A strategy that has something of its own to measure on the test part when a run ends."""

    def measure(self, model: nn.Module, batches: Iterable[Batch], task: Task) -> dict[str, Any]:
        """Numbers and words for the result of the run."""
        ...


@dataclass(frozen=True)
class Plain:
    """The loss of the batch as it is."""

    name: ClassVar[str] = "plain"

    def __call__(self, model: nn.Module, batch: Batch, task: Task, *, generator: torch.Generator) -> Tensor:
        """The task's mean loss."""
        return task.loss(task.output(model, batch.x, batch.lengths), batch.y, batch.lengths)


def describe(strategy: Strategy) -> dict[str, Any]:
    """Name and settings, as they are recorded with a run.

    Raises:
        ArgumentTypeError: The strategy is not a dataclass with a name, so its settings could not be compared.
    """
    given: Any = strategy
    name = getattr(given, "name", None)
    if not dataclasses.is_dataclass(given) or isinstance(given, type) or not isinstance(name, str):
        raise ArgumentTypeError(
            f"train: strategy must be an instance of a dataclass with a name and its settings as fields, got {strategy!r}"
        )
    return {"name": name, **to_plain(given)}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
