r"""Errors of a classifier under every corruption and severity, and their mean against a reference.

    E_c = mean_s error(f, c, s),      mCE = mean_c Σ_s error(f, c, s) / Σ_s error(reference, c, s)

Source: Hendrycks and Dietterich, arXiv:1903.12261; corruptions as in :mod:`gyrostat.perturb.corruptions`, so that
numbers compare models with each other, not with those of the published sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer
from .._errors import ArgumentError
from .._results import Result
from .attack import evaluation_mode
from .corruptions import SEVERITIES, choose_corruptions, corrupt
from .curves import batches_of, right_answers


@dataclass(frozen=True)
class CorruptionErrors(Result):
    """Errors, one per corruption and severity.

    Attributes:
        corruptions: Their names.
        severities: Between 1 and 5.
        errors: ``(corruptions, severities)``.
        clean_error: Without corruption.
        mean_error: Mean of ``errors``.
        n_samples: Samples behind each error.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    errors: Tensor
    clean_error: float
    mean_error: float
    n_samples: int

    def mce(self, reference: CorruptionErrors) -> float:
        """Mean corruption error relative to a reference model's: 1 for the reference itself, lower is better.

        Args:
            reference: Errors of the other model under the same corruptions and severities.

        Raises:
            ArgumentError: Other corruptions or severities, or a reference without any error in one of them.
        """
        if (self.corruptions, self.severities) != (reference.corruptions, reference.severities):
            raise ArgumentError("mce: reference must have the same corruptions and severities")
        theirs = reference.errors.sum(1)
        if not bool((theirs > 0).all()):
            raise ArgumentError("mce: reference makes no error under one of the corruptions; use more samples")
        return float((self.errors.sum(1) / theirs).mean())

    def plot(self, ax: Any = None) -> Any:
        """Errors as a table of colours."""
        from ..report.figures import new_figure

        ax = new_figure(width=5.0, height=0.28 * len(self.corruptions) + 1.2)[1][0] if ax is None else ax
        ax.imshow(self.errors.numpy(), aspect="auto", cmap="viridis", vmin=0, vmax=1)
        ax.grid(False)
        ax.set(xticks=range(len(self.severities)), xticklabels=self.severities, xlabel="severity")
        ax.set(yticks=range(len(self.corruptions)), yticklabels=[c.replace("_", " ") for c in self.corruptions])
        for i, row in enumerate(self.errors.tolist()):
            for j, value in enumerate(row):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
        ax.set_title(f"error, clean {self.clean_error:.3f}, mean {self.mean_error:.3f}")
        return ax


def corruption_errors(
    model: Callable[[Tensor], Tensor],
    data: Any,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 256,
    seed: int = 0,
) -> CorruptionErrors:
    """Errors of an image classifier under common corruptions.

    Args:
        model: From images in [0, 1] ``(B, C, H, W)`` or ``(B, H, W)`` to logits ``(B, K)``; normalisation belongs inside.
        data: ``(x, y)`` tensors, or an iterable of such batches.
        corruptions: Names as in :func:`gyrostat.perturb.corruptions.corrupt`; all 15 when left out.
        severities: Of 1 to 5.
        batch_size: Splits ``(x, y)``.
        seed: For the random ones; the same images are corrupted in the same way for every model.

    Raises:
        ArgumentError: An unknown corruption, images outside [0, 1], data that do not fit the model.

    Source: arXiv:1903.12261.

    Example:
        >>> import torch
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> found = corruption_errors(model, (x, y), corruptions=["contrast", "fog"], severities=[1, 3])
        >>> found.errors.shape
        torch.Size([2, 2])
    """
    where = "corruption_errors"
    names = choose_corruptions(corruptions, where)
    chosen = tuple(severities)
    for value in chosen:
        Integer(1, 5).check("severities", value, where)
    Integer(low=1).check("batch_size", batch_size, where)
    if not chosen:
        raise ArgumentError(f"{where}: severities must hold at least one of 1 to 5")
    batches = batches_of(data, batch_size, where)
    total = sum(len(y) for _, y in batches)
    errors = torch.zeros(len(names), len(chosen), dtype=torch.float64)
    with evaluation_mode(model):
        clean = 1 - right_answers(model, batches, where) / total
        for i, name in enumerate(names):
            for j, severity in enumerate(chosen):
                hit = [(corrupt(x, name, severity, seed=seed), y) for x, y in batches]
                errors[i, j] = 1 - right_answers(model, hit, where) / total
    return CorruptionErrors(names, chosen, errors, clean, float(errors.mean()), total)
