r"""Adversarial training: every batch is replaced by its attacked version.

    min_θ (1/n) Σ_i max_{‖δ_i‖ ≤ ε} ℓ(θ, x_i + δ_i, y_i)

The attack looks in evaluation mode (best iterate, no random start), then one ordinary training step is taken on what it
found; ``clean_weight`` w trains on w ℓ(x) + (1 − w) ℓ(x + δ).

Source: the source models of Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869; Madry et al.,
arXiv:1706.06083.
Differs from the released code: the clean term and inputs without bounds (sequences) are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError
from ..analysis.hessian import as_batches
from ..perturb.attack import NORMS, Bounds, check_logits, evaluation_mode, pgd
from ..perturb.strategy import Batch, Task, unwrapped
from ..perturb.warning import warn_probabilities

_RULES = {
    "norm": OneOf(NORMS),
    "eps": Real(low=0, high=float("inf"), closed="left"),
    "steps": Integer(low=1),
    "step_size": Real(low=0, closed="neither", optional=True),
    "random_start": Boolean(),
    "clean_weight": Real(low=0, high=1),
    "low": Real(optional=True),
    "high": Real(optional=True),
}


class _Batch(NamedTuple):
    x: Tensor
    y: Tensor
    lengths: Tensor | None


@dataclass(frozen=True)
class AdversarialTraining:
    """Strategy of the training loop: attack each batch, then train on it.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        eps: Radius of the ball; 0 trains on clean inputs.
        steps: Attack steps.
        step_size: 2.5 eps / steps when left out.
        random_start: Start the attack from a random point.
        clean_weight: Share of the loss that stays with the clean batch.
        low: Least valid input, e.g. 0 for images; no bounds when left out, together with ``high``.
        high: Greatest valid input.

    Raises:
        ArgumentError: A value outside its rule, or only one of the bounds.

    Source:
        arXiv:2007.05869.

    Example:
        >>> strategy = AdversarialTraining.parse("l2:0.5:3")
        >>> strategy.norm, strategy.eps, strategy.steps
        ('l2', 0.5, 3)
    """

    name: ClassVar[str] = "adversarial"

    norm: str = "l2"
    eps: float = 0.5
    steps: int = 3
    step_size: float | None = None
    random_start: bool = False
    clean_weight: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check(_RULES, vars(self), "adversarial")
        if (self.low is None) != (self.high is None):
            raise ArgumentError("adversarial: give low and high together, or neither")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ArgumentError(f"adversarial: low must be less than high, got {self.low:g} and {self.high:g}")

    @classmethod
    def parse(cls, text: str, bounds: Bounds = None) -> AdversarialTraining:
        """A strategy from ``norm:eps`` or ``norm:eps:steps``, such as ``l2:0.5:3``.

        Raises:
            ArgumentError: The text is not of that form.
        """
        words = text.split(":")
        try:
            if not 2 <= len(words) <= 3:
                raise ValueError
            eps, steps = float(words[1]), int(words[2]) if len(words) == 3 else 3
        except ValueError:
            raise ArgumentError(
                f"adversarial: must be norm:eps:steps such as l2:0.5:3 or linf:0.03:7, got {text!r}"
            ) from None
        low, high = bounds if bounds is not None else (None, None)
        return cls(norm=words[0], eps=eps, steps=steps, low=low, high=high)

    @property
    def bounds(self) -> Bounds:
        """The range of valid inputs."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def attack(self, model: nn.Module, batch: Batch, task: Task, *, generator: torch.Generator | None = None) -> Tensor:
        """The attacked inputs of a batch; the model's gradients and modes stay as they were."""
        core = unwrapped(model)
        x = batch.x
        if not x.is_floating_point():
            raise ArgumentTypeError(f"adversarial: inputs must be floating numbers to be perturbed, got {x.dtype}")
        checked = task.name != "classify"

        def losses(output: Any, y: Tensor) -> Tensor:
            nonlocal checked
            if not checked:
                check_logits(output, y, "adversarial", "")
                warn_probabilities(output, "adversarial")
                checked = True
            return task.losses(output, y, batch.lengths)

        with evaluation_mode(core):
            return pgd(
                lambda at: task.output(core, at, batch.lengths), x, batch.y, norm=self.norm, eps=self.eps,
                steps=self.steps, step_size=self.step_size, random_start=self.random_start, bounds=self.bounds,
                loss=losses, generator=generator,
            )  # fmt: skip

    def measure(self, model: nn.Module, batches: Iterable[Batch], task: Task, limit: int = 512) -> dict[str, Any]:
        """Score under the same ball with 20 steps, on up to about ``limit`` test samples: the robust accuracy, or error.

        Returns:
            ``robust_score``, ``robust_attack`` in words and ``robust_samples``.
        """
        device = next(model.parameters()).device
        stronger = replace(self, steps=max(20, self.steps), step_size=None, random_start=False)
        total, held, count = 0.0, 0, 0
        for batch in batches:
            if count >= limit:
                break
            x, y = batch.x.to(device), batch.y.to(device)
            here = _Batch(x, y, None if batch.lengths is None else batch.lengths.to(device))
            found = stronger.attack(model, here, task)
            with evaluation_mode(model), torch.no_grad():
                output = task.output(model, found, here.lengths)
                total += float(task.losses(output, y, here.lengths).sum())
                if task.name == "classify":
                    # an attack raises the loss, which need not change the label of a sample that was wrong before
                    clean = task.output(model, x, here.lengths)
                    held += int(((output.argmax(-1) == y) & (clean.argmax(-1) == y)).sum())
            count += len(y)
        score = held / count if task.name == "classify" else (total / count) ** 0.5
        words = f"{self.norm} {self.eps:g}, {stronger.steps} steps, {count} samples"
        return {"robust_score": score, "robust_attack": words, "robust_samples": count}

    def __call__(self, model: nn.Module, batch: Batch, task: Task, *, generator: torch.Generator) -> Tensor:
        """The loss of the attacked batch."""
        attacked = self.attack(model, batch, task, generator=generator)
        loss = task.loss(task.output(model, attacked, batch.lengths), batch.y, batch.lengths)
        if self.clean_weight:
            clean = task.loss(task.output(model, batch.x, batch.lengths), batch.y, batch.lengths)
            loss = self.clean_weight * clean + (1 - self.clean_weight) * loss
        return loss


def robust_accuracy(
    model: nn.Module,
    data: Any,
    *,
    norm: str = "l2",
    eps: float,
    steps: int = 20,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    step_size: float | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> float:
    """Share of samples that are classified rightly and stay so under PGD; an upper bound of the true robust accuracy.

    Args:
        model: From inputs to logits ``(B, C)``.
        data: ``(x, y)`` tensors, or an iterable of such batches.
        norm: ``"l2"`` or ``"linf"``.
        eps: Radius of the ball; 0 gives the clean accuracy.
        steps: Attack steps.
        bounds: Range of valid inputs, or None.
        batch_size: Splits ``(x, y)``.
        step_size: 2.5 eps / steps when left out.
        restarts: Attack runs of which the worst counts; those after the first start at random.
        generator: For random starts; torch's own stream when left out.

    Raises:
        ArgumentError: Inputs outside the bounds, data that do not fit the model.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> model = torch.nn.Identity()
        >>> x, y = torch.tensor([[0.9, 0.2], [0.45, 0.5]]), torch.tensor([0, 1])
        >>> robust_accuracy(model, (x, y), norm="linf", eps=0.1)
        0.5
    """
    right, count = 0, 0
    for x, y in as_batches(data, batch_size, "robust_accuracy"):
        found = pgd(
            model, x, y, norm=norm, eps=eps, steps=steps, step_size=step_size, restarts=restarts, bounds=bounds,
            generator=generator,
        )  # fmt: skip
        with evaluation_mode(model), torch.no_grad():
            # a sample that was wrong before may be right after: the attack raised its loss in another class
            clean = model(x)
            check_logits(clean, y, "robust_accuracy")
            held = (clean.argmax(-1) == y) & (model(found).argmax(-1) == y)
        right, count = right + int(held.sum()), count + len(y)
    return right / count
