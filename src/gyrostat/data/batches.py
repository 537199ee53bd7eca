"""Batches whose order depends on the seed and the epoch alone, so that a run can go on in the middle of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .._rng import numpy_stream
from .rows import Rows

if TYPE_CHECKING:
    from torch import Tensor


class Examples(Protocol):
    """What can be trained on: arrays ``x`` and ``y`` of equal length, a task and a split into row numbers."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> np.ndarray | Rows: ...  # noqa: D102
    @property
    def y(self) -> np.ndarray: ...  # noqa: D102
    @property
    def lengths(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def split(self) -> dict[str, np.ndarray]: ...  # noqa: D102
    @property
    def content_hash(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Batch:
    """One batch: ``x (B, T, F)``, ``y`` and ``lengths (B,)`` or ``None``, as CPU tensors."""

    x: Tensor
    y: Tensor
    lengths: Tensor | None


class Batches:
    """All rows of one part of a data set, in batches.

    Args:
        data: The examples.
        part: ``"train"``, ``"valid"`` or ``"test"``.
        batch_size: Rows per batch; the last one may be smaller.
        seed: Seed of the order.
        shuffle: Draw a new order for each epoch.
        share: ``(rank, world)``: this process takes every world-th batch.
    """

    def __init__(
        self,
        data: Examples,
        part: str,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.data, self.part, self.batch_size, self.seed, self.shuffle = data, part, batch_size, seed, shuffle
        self.share = share
        self.rows = data.split[part]

    def __len__(self) -> int:
        batches = -(-len(self.rows) // self.batch_size)
        world = self.share[1]
        return batches // world if world > 1 else batches

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order of one epoch."""
        return numpy_stream(self.seed, "order", epoch).permutation(self.rows) if self.shuffle else self.rows

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with number ``start``."""
        order = self.order(epoch)
        rank, world = self.share
        for k in range(start, len(self)):
            first = (k * world + rank) * self.batch_size
            yield self.take(order[first : first + self.batch_size])

    def groups(self, epoch: int, size: int, start: int = 0) -> Iterator[list[Batch]]:
        """The batches of an epoch ``size`` at a time, beginning with group number ``start``; the last may have fewer."""
        batches = self.epoch(epoch, start * size)
        while group := list(itertools.islice(batches, size)):
            yield group

    def take(self, rows: np.ndarray) -> Batch:
        """The given rows as one batch, cut to the longest of them."""
        import torch

        x, y, lengths = self.data.x[rows], self.data.y[rows], None
        if self.data.lengths is not None:
            own = self.data.lengths[rows]
            longest = int(own.max())
            x = x[:, :longest]
            y = y[:, :longest] if self.data.task in ("predict", "tag") else y
            lengths = torch.from_numpy(own)
        return Batch(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y)), lengths)
