r"""The target of a mixed batch, and losses and accuracies against it.

    loss = λ ℓ(f, y_a) + (1 − λ) ℓ(f, y_b)
    soft = λ onehot(y_a) + (1 − λ) onehot(y_b)

Source: mixup, arXiv:1710.09412; Noisy Feature Mixup, arXiv:2110.02180.
The two labels and λ are the primary form: class weights, ``ignore_index`` and losses that are not affine in the target
(squared error, focal) are right with it, while the soft target is right for plain cross-entropy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Real
from .._errors import ArgumentError, ArgumentTypeError, ShapeError
from .warning import warn_probabilities


@dataclass(frozen=True)
class MixedTarget:
    """Labels or targets of both parts of a mixed batch.

    Attributes:
        y_a: Targets of the samples themselves, ``(B, ...)``: classes, several labels, numbers, a class per position.
        y_b: Targets of their partners.
        lam: λ, a number, or ``(B,)`` for one per sample.

    Example:
        >>> import torch
        >>> target = MixedTarget(torch.tensor([0, 1]), torch.tensor([1, 1]), 0.75)
        >>> target.soft(2)
        tensor([[0.7500, 0.2500],
                [0.0000, 1.0000]])
        >>> round(float(target.loss(torch.zeros(2, 2))), 4)
        0.6931
    """

    y_a: Tensor
    y_b: Tensor
    lam: float | Tensor = 1.0

    def loss(self, output: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """The mean of λ ℓ(output, y_a) + (1 − λ) ℓ(output, y_b).

        Args:
            output: What the model returned for the mixed batch.
            criterion: ℓ. Left out: cross-entropy of logits ``(B, K)`` or ``(B, K, ...)`` with integer classes. One that
                reduces over the batch is enough for a single λ; one λ per sample needs ``reduction="none"``.

        Raises:
            ArgumentTypeError: Targets that are not classes, and no criterion.
            ArgumentError: A class outside the logits; a reduced loss with one λ per sample.
            ShapeError: An output that is not logits for these targets.
        """
        if criterion is None:
            self._check_logits(output)
            warn_probabilities(output, "MixedTarget")
            criterion = _cross_entropy
        a = criterion(output, self.y_a)
        if not isinstance(self.lam, Tensor):
            # one term where the other has no weight: exactly the plain loss
            return (a if self.lam == 1.0 else self.lam * a + (1 - self.lam) * criterion(output, self.y_b)).mean()
        if a.ndim == 0 or len(a) != len(self.lam):
            raise ArgumentError("MixedTarget: one lambda per sample needs a criterion with reduction='none'")
        lam = _spread(self.lam, a)
        return (lam * a + (1 - lam) * criterion(output, self.y_b)).mean()

    def soft(self, num_classes: int | None = None, smoothing: float = 0.0) -> Tensor:
        """λ y_a + (1 − λ) y_b as one target; classes become ``(B, ..., num_classes)``.

        Args:
            num_classes: K, for integer classes.
            smoothing: Share of the weight spread evenly over the classes.
        """
        Real(0, 1).check("smoothing", smoothing, "MixedTarget.soft")
        a, b = self.y_a, self.y_b
        if not a.is_floating_point():
            if num_classes is None:
                raise ArgumentError("MixedTarget.soft: num_classes must be given for integer classes")
            _check_classes(a, num_classes)
            a, b = (F.one_hot(y, num_classes).to(torch.get_default_dtype()) for y in (a, b))
        elif num_classes is not None and a.ndim > 1 and a.shape[-1] != num_classes:
            raise ArgumentError(
                f"MixedTarget.soft: the targets have {a.shape[-1]} columns, num_classes is {num_classes}"
            )
        lam = _spread(self.lam, a)
        mixed = lam * a + (1 - lam) * b
        return mixed if smoothing == 0 else mixed * (1 - smoothing) + smoothing / mixed.shape[-1]

    def accuracy(self, output: Tensor) -> float:
        """λ acc(y_a) + (1 − λ) acc(y_b): lower than the accuracy on clean data, by construction."""
        guess = output.argmax(1)
        a, b = (guess == self.y_a).double(), (guess == self.y_b).double()
        lam = _spread(self.lam, a)
        return float((lam * a + (1 - lam) * b).mean())

    def _check_logits(self, output: Tensor) -> None:
        if self.y_a.is_floating_point():
            raise ArgumentTypeError(
                "MixedTarget: targets that are not classes need a criterion: loss(output, F.mse_loss) for numbers, "
                "loss(output, F.binary_cross_entropy_with_logits) for several labels"
            )
        y = self.y_a
        fits = isinstance(output, Tensor) and output.is_floating_point() and output.ndim == y.ndim + 1
        if not fits or output.shape[:1] + output.shape[2:] != y.shape:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ShapeError(
                f"MixedTarget: labels {tuple(y.shape)} need floating logits (B, K, ...) with the classes in dimension 1, "
                f"got {shape}; permute the output, or pass a criterion"
            )
        _check_classes(y, output.shape[1])


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def _check_classes(y: Tensor, K: int) -> None:
    # looked at on the CPU alone: elsewhere the look would stop the stream, and the device itself refuses
    if y.device.type == "cpu" and y.numel() and (int(y.max()) >= K or int(y.min()) < 0):
        raise ArgumentError(f"MixedTarget: labels must be 0 to {K - 1}, got {int(y.min())} to {int(y.max())}")


def _spread(lam: float | Tensor, like: Tensor) -> float | Tensor:
    if not isinstance(lam, Tensor):
        return lam
    return lam.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 1))
