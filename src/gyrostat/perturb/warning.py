"""The warning about outputs that look like probabilities where cross-entropy takes logits."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class ProbabilityWarning(UserWarning):
    """Every row of a model's output is a distribution, and cross-entropy takes softmax of it once more."""


def warn_probabilities(output: Tensor, where: str) -> None:
    """Warn where the classes, dimension 1, are nonnegative and sum to one within 1e-4 for every sample.

    Args:
        output: ``(B, K, ...)``, about to meet cross-entropy.
        where: The caller, as the start of the sentence.
    """
    # looked at on the CPU alone: elsewhere the look would stop the stream
    if output.device.type != "cpu" or torch.compiler.is_compiling() or output.shape[1] < 2 or not output.numel():
        return
    found = output.detach()
    if float(found.min()) >= 0 and float((found.sum(1) - 1).abs().max()) < 1e-4:
        warnings.warn(
            f"{where}: the model's outputs are nonnegative and sum to one, as probabilities do; cross-entropy takes "
            "logits: leave out the model's last softmax, or pass a loss of your own",
            ProbabilityWarning,
            stacklevel=3,
        )
