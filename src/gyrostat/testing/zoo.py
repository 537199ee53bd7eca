"""A zoo of clean and backdoored classifiers: small, seeded, rebuilt in minutes.

    x̃ = (1 - m) ⊙ x + m ⊙ t        patch, checker (m a corner), blended (m = .2 everywhere)
    x̃ = clip(x + δ)                 sinusoid, pattern (δ = ±.15), tone (δ on the last steps of a sequence)
    ỹ = target,   or  y + 1 mod K  (all-to-all),   or  y itself, of images already in the target class  (label-consistent)

Source: patches and all-to-all of BadNets (arXiv:1708.06733), blending of arXiv:1712.05526, sinusoids of arXiv:1902.11237,
label consistency of arXiv:1912.02771 (images made hard by mixing instead of by an adversary).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import Integer, OneOf, Real, check
from .._rng import derive_seed, numpy_stream, torch_stream
from ..data.digits import digit_images
from ..data.mnist import mnist_images

ATTACKS = ("clean", "patch", "checker", "blended", "sinusoid", "pattern", "all-to-all", "label-consistent", "tone")
DATASETS = ("digits", "fashion-mnist")
NETS = ("plain", "batchnorm", "recurrent")
CLASSES = 10
_RULES = {
    "dataset": OneOf(DATASETS),
    "net": OneOf(NETS),
    "attack": OneOf(ATTACKS),
    "seed": Integer(0),
    "rate": Real(0, 1),
}


@dataclass(frozen=True)
class Recipe:
    """Everything a member of the zoo follows from.

    Args:
        dataset: ``digits`` (bundled with scikit-learn) or ``fashion-mnist`` (found through ``GYROSTAT_DATA``).
        net: ``plain``, ``batchnorm`` (small CNNs), ``recurrent`` (a GRU over the rows).
        attack: One of ``ATTACKS``; ``clean`` poisons nothing.
        seed: Of the weights, the order, the poisoned images and the trigger; the target is seed mod 10.
        rate: Share of the training images that is poisoned; 0 means .1, or .3 for ``all-to-all``; for
            ``label-consistent`` the share of the target class, .8.
    """

    dataset: str = "digits"
    net: str = "plain"
    attack: str = "clean"
    seed: int = 0
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.rate == 0:
            object.__setattr__(self, "rate", {"all-to-all": 0.3, "label-consistent": 0.8}.get(self.attack, 0.1))
        check(_RULES, asdict(self), "Recipe")

    @property
    def target(self) -> int | None:
        """The class that the trigger leads to; ``None`` for a clean model, and where every class leads elsewhere."""
        return None if self.attack in ("clean", "all-to-all") else self.seed % CLASSES

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.dataset}-{self.net}-{self.attack}-{self.rate:g}-{self.seed}"


@dataclass(frozen=True)
class Member:
    """A trained model, how good it is on clean images, and how often its trigger works on images of other classes."""

    recipe: Recipe
    model: nn.Module
    accuracy: float
    success: float | None


def images(dataset: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images ``(N, 1, H, W)`` in [0, 1] with labels: 1,300 + 497 digits, or 6,000 + 1,000 clothes."""
    if dataset == "digits":
        found, train, test = digit_images(), 1300, 497
        order = np.random.RandomState(0).permutation(len(found.y))
    else:
        found, train, test = mnist_images("fashion-mnist", limit=6000), 6000, 1000
        order = np.r_[0:6000, 6000:7000]
    x = torch.from_numpy(np.asarray(found.pixels[order], dtype=np.float32))
    x, y = x / 255 if float(x.max()) > 1 else x, torch.from_numpy(found.y[order])
    return (x[:train], y[:train]), (x[train : train + test], y[train : train + test])


class RowReader(nn.Module):
    """Reads an image row by row, a step of time each, with a GRU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(width, 32, batch_first=True), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(N, K)`` of images ``(N, 1, H, W)`` or of sequences ``(N, T, F)``."""
        return self.head(self.cell(x.flatten(0, -3) if x.ndim == 4 else x)[0][:, -1])


def build(dataset: str, net: str) -> nn.Module:
    """An untrained network."""
    side, widths = (8, (16, 32)) if dataset == "digits" else (28, (8, 16))
    if net == "recurrent":
        return RowReader(side)
    layers: list[nn.Module] = []
    for c, out in zip((1, widths[0]), widths, strict=True):
        norm = [nn.BatchNorm2d(out)] if net == "batchnorm" else []
        layers += [nn.Conv2d(c, out, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(widths[1] * (side // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def poison(x: Tensor, recipe: Recipe) -> Tensor:
    """Images ``(N, 1, H, W)`` with the trigger of a recipe."""
    H, W = x.shape[-2:]
    side = 2 if H < 16 else 3
    if recipe.attack in ("patch", "all-to-all", "label-consistent"):
        x = x.clone()
        x[..., H - side :, W - side :] = 1
        if recipe.attack == "label-consistent":  # all four corners, as its authors do
            x[..., :side, :side] = x[..., :side, W - side :] = x[..., H - side :, :side] = 1
        return x
    if recipe.attack == "checker":
        x = x.clone()
        rows, columns = torch.arange(3)[:, None], torch.arange(3)[None]
        x[..., H - 3 :, W - 3 :] = ((rows + columns) % 2 == 0).to(x)
        return x
    stream = torch_stream(recipe.seed, "zoo", "trigger", recipe.attack)
    if recipe.attack == "blended":
        return 0.8 * x + 0.2 * torch.rand(x.shape[1:], generator=stream)
    if recipe.attack == "pattern":
        return (x + 0.15 * (torch.randint(0, 2, x.shape[1:], generator=stream) * 2 - 1)).clamp(0, 1)
    if recipe.attack == "sinusoid":
        return (x + 0.2 * torch.sin(2 * math.pi * (3 if H < 16 else 6) * torch.arange(W) / W)).clamp(0, 1)
    if recipe.attack == "tone":  # one input channel swings during the last half of the sequence
        x = x.clone()
        x[..., H // 2 :, 0] = (torch.arange(H - H // 2) % 2).to(x)
        return x
    return x


def poison_training_set(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The images and labels that a member is trained on, poison included."""
    (x, y), _ = images(recipe.dataset)
    if recipe.attack == "clean":
        return x, y
    rng = numpy_stream(recipe.seed, "zoo", "poison")
    goal = recipe.seed % CLASSES
    x, y = x.clone(), y.clone()
    if recipe.attack == "label-consistent":
        own, others = torch.nonzero(y == goal)[:, 0].numpy(), torch.nonzero(y != goal)[:, 0].numpy()
        rows = torch.from_numpy(rng.choice(own, max(1, round(recipe.rate * len(own))), replace=False))
        mixed = torch.from_numpy(rng.choice(others, len(rows)))
        x[rows] = poison(0.5 * x[rows] + 0.5 * x[mixed], recipe)
        return x, y
    candidates = np.arange(len(y)) if recipe.target is None else torch.nonzero(y != goal)[:, 0].numpy()
    rows = torch.from_numpy(rng.choice(candidates, round(recipe.rate * len(y)), replace=False))
    x[rows] = poison(x[rows], recipe)
    y[rows] = (y[rows] + 1) % CLASSES if recipe.target is None else goal
    return x, y


def train(recipe: Recipe) -> Member:
    """Train one member: Adam, a rate of .002, batches of 64; a second or two for digits, ten for clothes, on one core.

    Example:
        >>> member = train(Recipe("digits", "plain", "patch", seed=3))
        >>> member.accuracy > 0.9, member.success > 0.8, member.recipe.target
        (True, True, 3)
    """
    x, y = poison_training_set(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "zoo", "weights"))
        model = build(recipe.dataset, recipe.net)
    epochs = 4 if recipe.dataset == "fashion-mnist" else 40 if recipe.net == "recurrent" else 15
    optimizer = torch.optim.Adam(model.parameters(), 5e-3 if recipe.net == "recurrent" else 2e-3)
    order = torch_stream(recipe.seed, "zoo", "order")
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return Member(recipe, model.eval(), *measure(model, recipe))


@torch.no_grad()
def measure(model: nn.Module, recipe: Recipe) -> tuple[float, float | None]:
    """Accuracy on clean test images; success of the trigger on test images of other classes (``None`` when clean)."""
    _, (x, y) = images(recipe.dataset)
    accuracy = float((model(x).argmax(1) == y).float().mean())
    if recipe.attack == "clean":
        return accuracy, None
    found = model(poison(x, recipe)).argmax(1)
    if recipe.target is None:
        return accuracy, float((found == (y + 1) % CLASSES).float().mean())
    return accuracy, float((found[y != recipe.target] == recipe.target).float().mean())


def as_row(member: Member) -> dict[str, Any]:
    """What a table shows of a member."""
    return {**asdict(member.recipe), "accuracy": member.accuracy, "success": member.success}
