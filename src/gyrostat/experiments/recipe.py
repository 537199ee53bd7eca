"""What a recipe is: a published experiment as data, run at a scale, its numbers beside those it is compared with.

To add one, write one file in this folder with a list ``RECIPES``: a :class:`~gyrostat.experiments.training.Training` where
the experiment is a training, a :class:`Computation` around a function otherwise. The folder is listed; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._checks import nearest
from .._errors import ArgumentError
from .._results import Result

SCALES = ("smoke", "small", "paper")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Reference(Result):
    """A number to compare with, and where it stands: ``"paper"``, ``"released log"``, ``"run of the released code"``."""

    value: float
    source: str


@dataclass(frozen=True)
class Finding(Result):
    """One measured number.

    Attributes:
        what: The model or variant.
        quantity: What was measured.
        value: The mean over seeds.
        spread: Standard deviation over seeds.
        reference: The number it stands beside.
    """

    what: str
    quantity: str
    value: float
    spread: float | None = None
    reference: Reference | None = None


@dataclass(frozen=True)
class Recipe(ABC):
    """One published experiment.

    Attributes:
        name: What the command line calls it.
        title: What it shows, in a sentence without a full stop.
        source: arXiv id of the paper.
        note: What a reader must know to compare the numbers.
    """

    name: str
    title: str
    source: str
    note: str = field(default="", kw_only=True)

    @property
    @abstractmethod
    def takes(self) -> Mapping[str, str]:
        """The scales there are, and how long each takes on one core."""

    @abstractmethod
    def headline(self) -> tuple[str, Reference] | None:
        """The quantity the experiment is known for and its published number, if there is one."""

    def differences(self, scale: str) -> list[str]:
        """Where the settings of a scale leave those of the paper, in words."""
        return []

    def check(self, scale: str) -> None:  # noqa: B027  most have nothing to check
        """Raise, before anything is written, when something is missing that the scale needs."""

    @abstractmethod
    def run(self, scale: str, folder: Path, *, workers: int = 1, say: Say = lambda _: None) -> list[Finding]:
        """Measure at a scale; what is finished in ``folder`` is not done again."""


@dataclass(frozen=True)
class Computation(Recipe):
    """A recipe that is a function of the scale and a folder."""

    measure: Callable[[str, Path], Sequence[Finding]] = field(kw_only=True)
    scales: Mapping[str, str] = field(kw_only=True)
    known_for: tuple[str, Reference] | None = field(default=None, kw_only=True)
    leaves: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    @property
    def takes(self) -> Mapping[str, str]:
        """The scales there are."""
        return self.scales

    def headline(self) -> tuple[str, Reference] | None:
        """The published number."""
        return self.known_for

    def differences(self, scale: str) -> list[str]:
        """Differences from the paper."""
        return list(self.leaves.get(scale, ()))

    def run(self, scale: str, folder: Path, *, workers: int = 1, say: Say = lambda _: None) -> list[Finding]:
        """Call the function."""
        return list(self.measure(scale, folder))


def recipes() -> dict[str, Recipe]:
    """All recipes by name.

    Raises:
        ArgumentError: Two files bring a recipe of the same name.
    """
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        for recipe in getattr(importlib.import_module(f"{__package__}.{module.name}"), "RECIPES", ()):
            if recipe.name in found:
                raise ArgumentError(f"two recipes are called {recipe.name!r}")
            found[recipe.name] = recipe
    return dict(sorted(found.items()))


def get_recipe(name: str, scale: str | None = None) -> tuple[Recipe, str]:
    """The recipe ``name`` and a scale that it has: the given one, or ``"small"``, or its first.

    Raises:
        ArgumentError: There is no such recipe, or it has no such scale.
    """
    known = recipes()
    if name not in known:
        raise ArgumentError(f"no recipe is called {name!r}{nearest(name, known)}; gyrostat reproduce lists them")
    recipe = known[name]
    scale = scale or ("small" if "small" in recipe.takes else next(iter(recipe.takes)))
    if scale not in recipe.takes:
        raise ArgumentError(
            f"--scale: {name} has {', '.join(recipe.takes)}, got {scale!r}{nearest(scale, recipe.takes)}"
        )
    return recipe, scale


def report(recipe: Recipe, scale: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything about a finished recipe as plain values."""
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "source": f"arXiv:{recipe.source}",
        "scale": scale,
        "differences": recipe.differences(scale),
        "note": recipe.note,
        "findings": [f.to_dict() for f in findings],
    }
