r"""Noisy Feature Mixup as a strategy of the training loop.

    loss = λ ℓ(f, y) + (1 − λ) ℓ(f, y[π]),      f the model's output for the mixed and perturbed batch

Source: Noisy Feature Mixup, arXiv:2110.02180; the method itself is in :mod:`gyrostat.perturb.mixup`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import Boolean, OneOf, Real, check
from .._errors import ArgumentError
from .mixup import METHODS, NoisyFeatureMixup
from .strategy import Batch, Task

_RULES = {
    "method": OneOf(tuple(METHODS)),
    "alpha": Real(low=0, optional=True),
    "additive": Real(low=0, optional=True),
    "multiplicative": Real(low=0, optional=True),
    "per_sample": Boolean(),
}


@dataclass(frozen=True)
class Mixup:
    """Strategy of the training loop: one layer of each batch is mixed and perturbed.

    Args:
        method: baseline, mixup, manifold, noisy-mixup, noise or nfm.
        layers: Names of submodules and ``input``, joined by ``+``; used by the methods that touch features.
        alpha: λ ~ Beta(α, α); the method's own when left out, as are the next two.
        additive: σ_a.
        multiplicative: σ_m.
        per_sample: One λ per sample.

    Raises:
        ArgumentError: A value outside its rule; on the first batch, a layer that the model does not have.

    Source: arXiv:2110.02180.

    Example:
        >>> Mixup(layers="input+layer1", additive=0.2).method
        'nfm'
    """

    name: ClassVar[str] = "mixup"

    method: str = "nfm"
    layers: str = "input"
    alpha: float | None = None
    additive: float | None = None
    multiplicative: float | None = None
    per_sample: bool = False
    _wrapped: list[NoisyFeatureMixup] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(_RULES, vars(self), "mixup")
        if not all(self.layers.split("+")):
            raise ArgumentError(f"mixup: layers must be names joined by +, such as input+layer1, got {self.layers!r}")

    def __call__(self, model: nn.Module, batch: Batch, task: Task, *, generator: torch.Generator) -> Tensor:
        """The loss of the mixed batch."""
        nfm = self._around(model)
        nfm.generator = generator
        if batch.lengths is not None and nfm.alpha != 0:
            raise ArgumentError("mixup: sequences of different lengths cannot be mixed; use method=noise, or pad them")
        output, target = nfm(batch.x, batch.y, *(() if batch.lengths is None else (batch.lengths,)))
        measure = task.losses if self.per_sample else task.loss
        return target.loss(output, lambda f, y: measure(f, y, batch.lengths))

    def _around(self, model: nn.Module) -> NoisyFeatureMixup:
        # Kept between batches: idle hooks cost nothing, and recomputed passes need them. A network that grows is a new one.
        if not self._wrapped or self._wrapped[0].model is not model:
            while self._wrapped:
                self._wrapped.pop().close()
            given: dict[str, Any] = {k: getattr(self, k) for k in ("alpha", "additive", "multiplicative")}
            own = {k: v for k, v in given.items() if v is not None}
            layers = self.layers.split("+")
            self._wrapped.append(
                NoisyFeatureMixup.named(self.method, model, layers, per_sample=self.per_sample, **own)
            )  # fmt: skip
        return self._wrapped[0]
