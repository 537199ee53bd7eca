r"""Accuracy against the size of a perturbation, at test time only, for sequences and images alike.

    white x + sZ,   multiplicative x(1 + sZ),   uniform x + sU(−1, 1),   salt_pepper: each entry with probability s
    impulse_pixels: a share s of each image's pixels;   corruptions: severity s
    fgsm, pgd_linf, pgd_l2: adversarial inputs in the ball of radius s
    area = (1 / (s_max − s_min)) ∫ accuracy ds          (trapezoid)

Source: the robustness experiments of arXiv:2006.12070 and arXiv:2102.04877; definitions are this project's.
Differs from the released code: it was never released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer, nearest
from .._errors import ArgumentError, ArgumentTypeError
from .._results import Result
from .._rng import torch_stream
from ..numerics.noise import LAWS
from .attack import Bounds, check_logits, evaluation_mode, fgsm, pgd
from .corruptions import CORRUPTIONS, corrupt

ATTACKS = ("fgsm", "pgd_linf", "pgd_l2")
PERTURBATIONS = (*LAWS, *ATTACKS)
Perturbation = str | Callable[[Tensor, float, torch.Generator], Tensor]


@dataclass(frozen=True)
class RobustnessCurve(Result):
    """Accuracy at each level of one perturbation.

    Attributes:
        perturbation: Its name.
        levels: Levels, as given.
        accuracy: Mean over the repeats, one per level.
        spread: Standard deviation over the repeats; 0 where the perturbation has no randomness.
        repeats: ``(levels, repeats)`` single accuracies.
        area: Area under the curve over its range of levels, between 0 and 1; the accuracy itself for one level.
        n_samples: Samples behind each accuracy.
    """

    perturbation: str
    levels: tuple[float, ...]
    accuracy: tuple[float, ...]
    spread: tuple[float, ...]
    repeats: Tensor = field(repr=False)
    area: float
    n_samples: int

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Accuracy against level, with a band of one standard deviation over the repeats."""
        from ..report.figures import new_figure

        ax = new_figure()[1][0] if ax is None else ax
        (line,) = ax.plot(self.levels, self.accuracy, **{"marker": "o", "label": self.perturbation, **style})
        low, high = ([a + s * d for a, d in zip(self.accuracy, self.spread)] for s in (-1, 1))
        ax.fill_between(self.levels, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.set(xlabel=f"{self.perturbation} level", ylabel="accuracy")
        return ax


def robustness_curve(
    model: Callable[[Tensor], Tensor],
    data: Any,
    perturbation: Perturbation = "white",
    levels: Sequence[float] = (0.0, 0.1, 0.2, 0.3),
    repeats: int = 5,
    *,
    batch_size: int = 256,
    bounds: Bounds = None,
    steps: int = 10,
    seed: int = 0,
) -> RobustnessCurve:
    """Accuracy of a classifier under a perturbation of growing size.

    Args:
        model: From inputs ``(B, ...)`` to logits ``(B, K)``.
        data: ``(x, y)`` tensors, or an iterable of such batches.
        perturbation: ``"white"``, ``"multiplicative"``, ``"uniform"``, ``"salt_pepper"``, ``"impulse_pixels"`` (images,
            in each one's extremes), ``"fgsm"``, ``"pgd_linf"``, ``"pgd_l2"``, a corruption of images in [0, 1]
            (:func:`gyrostat.perturb.corruptions.corrupt`; levels are severities), or a function
            ``(x, level, generator) -> x``. Noise is added to what the model receives: for inputs that are standardised
            outside the model, a level is in standardised units.
        levels: Noise levels, probabilities or radii, at least 0.
        repeats: Draws per level; attacks start from the clean input and need one.
        batch_size: Splits ``(x, y)``.
        bounds: ``(low, high)`` of valid inputs: the values of salt and pepper (0 and 1 when left out) and the box that
            attacks stay in. Noise is not clipped.
        steps: Steps of PGD.
        seed: Each level and repeat has its own stream: adding a level changes no other number.

    Raises:
        ArgumentError: An unknown perturbation (the nearest is suggested), a negative level, data that do not fit.

    Source: arXiv:2006.12070, arXiv:2102.04877.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> robustness_curve(torch.nn.Identity(), (x, torch.tensor([0, 1])), levels=[0.0, 0.1]).accuracy
        (1.0, 1.0)
    """
    where = "robustness_curve"
    for name, value in (("repeats", repeats), ("batch_size", batch_size), ("steps", steps)):
        Integer(low=1).check(name, value, where)
    label = perturbation if isinstance(perturbation, str) else getattr(perturbation, "__name__", "custom")
    names = (*PERTURBATIONS, *CORRUPTIONS)
    if isinstance(perturbation, str) and perturbation not in names:
        raise ArgumentError(
            f"{where}: perturbation must be one of {', '.join(names)}, or a function, "
            f"got {perturbation!r}{nearest(perturbation, names)}"
        )
    grid = tuple(float(v) for v in levels)
    if not grid or not all(0 <= v < float("inf") for v in grid):
        raise ArgumentError(f"{where}: levels must be finite numbers >= 0, at least one, got {tuple(levels)!r}")
    if perturbation in ("salt_pepper", "impulse_pixels") and max(grid) > 1:
        raise ArgumentError(f"{where}: levels of {perturbation} are probabilities, got {max(grid)}")
    if perturbation in CORRUPTIONS and not all(v in range(6) for v in grid):
        raise ArgumentError(f"{where}: levels of {perturbation} are severities 0 to 5, got {tuple(levels)!r}")
    batches = batches_of(data, batch_size, where)
    draws = 1 if label in ATTACKS or label in CORRUPTIONS else repeats
    table = torch.zeros(len(grid), draws, dtype=torch.float64)
    total = sum(len(y) for _, y in batches)
    with evaluation_mode(model):
        for i, level in enumerate(grid):
            for r in range(draws if level > 0 else 1):
                stream = torch_stream(seed, label, repr(level), r)
                hit = (
                    (x if level == 0 else _perturb(perturbation, model, x, y, level, stream, bounds, steps, seed), y)
                    for x, y in batches
                )
                table[i, r] = right_answers(model, hit, where) / total
            if level == 0:
                table[i] = table[i, 0]
    mean = table.mean(1)
    spread = table.std(1) if draws > 1 else torch.zeros(len(grid), dtype=torch.float64)
    order = sorted(range(len(grid)), key=grid.__getitem__)
    axis = torch.tensor([grid[i] for i in order], dtype=torch.float64)
    span = float(axis[-1] - axis[0])
    area = float(torch.trapezoid(mean[order], axis)) / span if span > 0 else float(mean[0])
    return RobustnessCurve(label, grid, tuple(mean.tolist()), tuple(spread.tolist()), table, area, total)


def right_answers(model: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], where: str) -> int:
    """How many samples the model's largest logit names rightly."""
    right = 0
    for b, (x, y) in enumerate(batches):
        with torch.no_grad():
            try:
                output = model(x)
            except (RuntimeError, ValueError) as error:
                raise ArgumentError(f"{where}: data: batch {b} does not fit the model: {error}") from error
        check_logits(output, y, where)
        right += int((output.argmax(-1) == y).sum())
    return right


def _perturb(
    perturbation: Perturbation,
    model: Any,
    x: Tensor,
    y: Tensor,
    level: float,
    generator: torch.Generator,
    bounds: Bounds,
    steps: int,
    seed: int,
) -> Tensor:
    if not isinstance(perturbation, str):
        return perturbation(x, level, generator)
    if perturbation == "fgsm":
        return fgsm(model, x, y, eps=level, bounds=bounds)
    if perturbation in ATTACKS:
        return pgd(model, x, y, norm=perturbation.removeprefix("pgd_"), eps=level, steps=steps, bounds=bounds)
    if perturbation in CORRUPTIONS:
        return corrupt(x, perturbation, int(level), seed=seed)
    if not x.is_floating_point():
        raise ArgumentTypeError(
            f"robustness_curve: data: inputs must be floating numbers to be perturbed, got {x.dtype}"
        )
    # drawn on the CPU, so that a seed means the same numbers on every device
    host = x.cpu()
    if perturbation == "salt_pepper":
        low, high = bounds if bounds is not None else (0.0, 1.0)
        return LAWS["salt_pepper"](host, level, low=low, high=high, generator=generator).to(x)
    return LAWS[perturbation](host, level, generator=generator).to(x)


def batches_of(data: Any, batch_size: int, where: str) -> list[tuple[Tensor, Tensor]]:
    """Batches of ``(x, y)``, or of an iterable that gives such batches."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        if len(x) != len(y):
            raise ArgumentError(f"{where}: data must hold as many inputs as labels, got {len(x)} and {len(y)}")
        found = list(zip(x.split(batch_size), y.split(batch_size))) if len(x) else []
    elif isinstance(data, Iterable):
        found = [(batch[0], batch[1]) for batch in data]
    else:
        raise ArgumentTypeError(f"{where}: data must be (x, y) or an iterable of batches, got {type(data).__name__}")
    if not found:
        raise ArgumentError(f"{where}: data holds no samples")
    return found
