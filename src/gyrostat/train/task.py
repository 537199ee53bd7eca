"""What a model is asked: how it reads a batch, what a wrong answer costs, and which score is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import OneOf
from ..data.batches import Batch

NAMES = ("classify", "regress", "predict", "tag")
LABELS = ("classify", "tag")
IGNORED = -100


@dataclass(frozen=True)
class Task:
    """One of four questions.

    ============  =====================  ==================================  =================
    name          output                 loss                                score
    ============  =====================  ==================================  =================
    ``classify``  ``(B, K)`` logits      cross-entropy                       accuracy
    ``tag``       ``(B, T, K)`` logits   cross-entropy over labelled steps   accuracy of steps
    ``regress``   ``(B, K)``             mean squared error                  its square root
    ``predict``   ``(B, T, K)``          the same over unpadded steps        its square root
    ============  =====================  ==================================  =================
    """

    name: str

    def __post_init__(self) -> None:
        OneOf(NAMES).check("task", self.name, "train")

    @property
    def labels(self) -> bool:
        """Whether the score is an accuracy, which should be high; otherwise it is an error."""
        return self.name in LABELS

    def output(self, model: nn.Module, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The model's output for a batch."""
        return model(x) if lengths is None else model(x, lengths)

    def _parts(self, output: Tensor, y: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss of every counted number, and which numbers count; both ``(B, ...)``."""
        if self.labels:
            found = F.cross_entropy(output.flatten(0, -2), y.flatten(), reduction="none", ignore_index=IGNORED)
            return found.view(y.shape), y != IGNORED
        error = (output - y) ** 2
        counted = torch.ones_like(error, dtype=torch.bool)
        if self.name == "predict" and lengths is not None:
            steps = torch.arange(error.shape[1], device=error.device)
            counted = (steps[None] < lengths[:, None])[:, :, None].expand_as(error)
        return error.masked_fill(~counted, 0.0), counted

    def loss(self, output: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over everything that counts: padded and unlabelled steps do not."""
        values, counted = self._parts(output, y, lengths)
        return values.sum() / counted.sum()

    def losses(self, output: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The same mean within each example, ``(B,)``."""
        values, counted = self._parts(output, y, lengths)
        return values.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1) if values.ndim > 1 else values

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[Batch], perturb: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """Mean loss and score in evaluation mode.

        Args:
            model: The network.
            batches: What it is tried on.
            perturb: Applied to the inputs of each batch.
        """
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        total, right, count = 0.0, 0, 0
        for batch in batches:
            batch = move(batch, device)
            output = self.output(model, batch.x if perturb is None else perturb(batch.x), batch.lengths)
            values, counted = self._parts(output, batch.y, batch.lengths)
            total += float(values.sum(dtype=torch.float64))
            count += int(counted.sum())
            if self.labels:
                right += int(((output.argmax(-1) == batch.y) & counted).sum())
        model.train(was_training)
        loss = total / count
        return {"loss": loss, "score": right / count if self.labels else loss**0.5}


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    lengths = None if batch.lengths is None else batch.lengths.to(device)
    return Batch(batch.x.to(device), batch.y.to(device), lengths)
