r"""Is a model as sure as it is right? Expected calibration error and the reliability diagram behind it.

    ECE = Σ_b (n_b / n) |acc_b − conf_b|,      b: equal bins of the largest probability, [lo, hi)

Source: Guo et al., arXiv:1706.04599; 20 bins as in Noisy Feature Mixup, arXiv:2110.02180.
Differs from the released code: a confidence of exactly 1 belongs to the last bin; there it belonged to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer
from .._errors import ArgumentError, ArgumentTypeError, NonFiniteError
from .._results import Result


@dataclass(frozen=True)
class Calibration(Result):
    """Confidence against accuracy, bin by bin.

    Attributes:
        ece: Expected calibration error.
        overconfidence: Mean confidence minus accuracy: negative for an under-confident model.
        edges: Of the bins, one more than there are bins.
        confidence: Mean confidence of each bin, 0 for an empty one.
        accuracy: Accuracy of each bin, likewise.
        counts: Samples in each bin.
    """

    ece: float
    overconfidence: float
    edges: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """The reliability diagram: accuracy of each bin that has samples, against the diagonal."""
        from ..report.figures import new_figure

        ax = new_figure(width=3.6, height=3.4)[1][0] if ax is None else ax
        ax.plot([0, 1], [0, 1], color="#888", linewidth=1, zorder=1)
        width = self.edges[1] - self.edges[0]
        shown = [(lo, a) for lo, a, n in zip(self.edges, self.accuracy, self.counts) if n]
        ax.bar([lo for lo, _ in shown], [a for _, a in shown], width, align="edge", **{"alpha": 0.8, **style})
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=f"ECE {self.ece:.3f}")
        return ax


def calibration(probabilities: Tensor, y: Tensor, *, bins: int = 20) -> Calibration:
    """Expected calibration error of a classifier's probabilities.

    Args:
        probabilities: ``(B, K)``, rows that sum to 1: ``logits.softmax(-1)``.
        y: Labels ``(B,)``.
        bins: Equal bins of the confidence.

    Raises:
        ArgumentError: Rows that are no probabilities (logits, say), labels that do not fit, no samples.

    Source: arXiv:1706.04599.

    Example:
        >>> import torch
        >>> found = calibration(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> round(found.ece, 3), found.counts[15]
        (0.25, 2)
    """
    where = "calibration"
    Integer(low=1).check("bins", bins, where)
    if not isinstance(probabilities, Tensor) or probabilities.ndim != 2 or not probabilities.is_floating_point():
        raise ArgumentTypeError(f"{where}: probabilities must be a floating tensor (B, K)")
    if not isinstance(y, Tensor) or y.shape != probabilities.shape[:1] or len(y) == 0:
        raise ArgumentError(
            f"{where}: y must be one label per row of probabilities, {len(probabilities)}, at least one"
        )
    p = probabilities.detach().to(torch.float64)
    if not bool(torch.isfinite(p).all()):
        raise NonFiniteError(f"{where}: probabilities have NaN or Inf")
    # rows in half precision sum to 1 within a percent
    if float(p.min()) < 0 or float((p.sum(1) - 1).abs().max()) > 0.02:
        raise ArgumentError(f"{where}: probabilities must have rows that sum to 1; pass logits.softmax(-1)")
    top, guess = p.max(1)
    right = (guess == y.to(guess.device)).to(torch.float64)
    index = (top * bins).floor().long().clamp_max(bins - 1)

    def per_bin(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64, device=p.device).index_add_(0, index, values)

    counts = per_bin(torch.ones_like(top))
    mean_conf, mean_acc = (per_bin(v) / counts.clamp_min(1) for v in (top, right))
    return Calibration(
        ece=float((counts / len(y) * (mean_acc - mean_conf).abs()).sum()),
        overconfidence=float(top.mean() - right.mean()),
        edges=tuple(i / bins for i in range(bins + 1)),
        confidence=tuple(mean_conf.tolist()),
        accuracy=tuple(mean_acc.tolist()),
        counts=tuple(int(n) for n in counts),
    )
