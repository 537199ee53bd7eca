"""How surely a class wins where noise favours it most: the upper tail of its margin.

    m[i, c] = ℓ_c(x̂_i) - max_{k ≠ c} ℓ_k(x̂_i),        s = standard deviation of ℓ_c - mean_k ℓ_k over all inputs and classes
    peak[c] = .99-quantile over i of m[i, c] / s        (noisy inputs only; ℓ are scores before softmax)

A share counts every input alike; a small trigger is hit by a few of them only, and those show here.

Source: ours; arXiv:2008.00123 counts shares.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TAIL = 0.01


class Peaks:
    """Keeps the largest hundredth of the margins of every class, batch by batch; the batches do not matter.

    Args:
        noisy: Number of noisy inputs that will come.

    Example:
        >>> peaks = Peaks(200)
        >>> peaks.add(torch.arange(400.0).reshape(200, 2) % 7, noisy=True)
        >>> peaks.values().shape
        (2,)
    """

    def __init__(self, noisy: int) -> None:
        self.position = (noisy - 1) * (1 - TAIL)  # of the quantile among the sorted, as numpy counts
        self.kept = noisy - math.floor(self.position)
        self.top: Tensor | None = None  # (K, kept), largest first
        self.square, self.count = 0.0, 0

    def add(self, scores: Tensor, noisy: bool) -> None:
        """Scores ``(B, K)`` of one batch."""
        centred = scores - scores.mean(1, keepdim=True)
        self.square += float(centred.square().sum())
        self.count += centred.numel()
        if not noisy:
            return
        two = centred.topk(2, 1)
        rival = two.values[:, :1].repeat(1, centred.shape[1])  # (B, K)
        rival.scatter_(1, two.indices[:, :1], two.values[:, 1:])
        margins = (centred - rival).T  # (K, B)
        merged = margins if self.top is None else torch.cat([self.top, margins], 1)
        self.top = merged.topk(min(self.kept, merged.shape[1]), 1).values

    def values(self) -> np.ndarray | None:
        """The peaks ``(K,)``; ``None`` where no scores came."""
        if self.top is None or self.top.shape[1] < self.kept:
            return None
        scale = math.sqrt(self.square / self.count) or 1.0
        part = self.position - math.floor(self.position)
        low = self.top[:, self.kept - 1]
        high = self.top[:, max(0, self.kept - 2)]
        return ((low + part * (high - low)) / scale).numpy()
