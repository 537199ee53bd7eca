"""Batches whose order depends on the seed and the epoch alone, so that a run can go on in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._rng import numpy_stream
from .sequences import SequenceData

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch: ``x (B, T, F)``, ``y`` and ``lengths (B,)`` or ``None``, as CPU tensors."""

    x: Tensor
    y: Tensor
    lengths: Tensor | None


class Batches:
    """All rows of one part of a data set, in batches.

    Args:
        data: The sequences.
        part: ``"train"``, ``"valid"`` or ``"test"``.
        batch_size: Rows per batch; the last one may be smaller.
        seed: Seed of the order.
        shuffle: Draw a new order for each epoch.
        share: ``(rank, world)``: this process takes every world-th batch.
    """

    def __init__(
        self,
        data: SequenceData,
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

    def take(self, rows: np.ndarray) -> Batch:
        """The given rows as one batch, cut to the longest of them."""
        import torch

        x, y, lengths = self.data.x[rows], self.data.y[rows], None
        if self.data.lengths is not None:
            own = self.data.lengths[rows]
            longest = int(own.max())
            x = x[:, :longest]
            y = y[:, :longest] if self.data.task == "predict" else y
            lengths = torch.from_numpy(own)
        return Batch(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y)), lengths)
