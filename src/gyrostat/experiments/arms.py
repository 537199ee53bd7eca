"""Recipes that compare variants: every variant is run with every seed, and each number is a mean over seeds."""

from __future__ import annotations

import json
import statistics
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from .recipe import Finding, Recipe, Reference, Say

Settings = Mapping[str, Any]


class Variant(Protocol):
    """One variant, with the published numbers its quantities stand beside."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def references(self) -> Mapping[str, Reference]: ...  # noqa: D102


class Change(Protocol):
    """What a scale changes of the paper's setting; ``takes`` is its time on one core."""

    @property
    def takes(self) -> str: ...  # noqa: D102
    @property
    def seeds(self) -> int: ...  # noqa: D102


class Job(Protocol):
    """One run, and the folder that is its own."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def folder(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Variants(Recipe):
    """A recipe of variants.

    Attributes:
        data: The data set.
        train: Settings of the training that all variants share.
        arms: The variants.
        quantities: What is measured of each.
        scales: The scales; an empty change is the paper's own setting.
        work: Does one job in a process of its own: trains, measures, and gives every quantity its value or ``None``.
    """

    data: str = field(kw_only=True)
    train: Settings = field(kw_only=True)
    arms: tuple[Any, ...] = field(kw_only=True)
    quantities: tuple[str, ...] = field(kw_only=True)
    scales: Mapping[str, Any] = field(kw_only=True)

    work: ClassVar[Callable[[Any], dict[str, Any]]]

    @abstractmethod
    def jobs(self, scale: str, folder: Path) -> list[Any]:
        """One run for each variant and seed, in that order."""

    @property
    def takes(self) -> Mapping[str, str]:
        """The scales there are."""
        return {name: scale.takes for name, scale in self.scales.items()}

    def headline(self) -> tuple[str, Reference] | None:
        """The first reference of the first variant that has one."""
        for arm in self.arms:
            for quantity, reference in arm.references.items():
                return f"{arm.label}: {quantity}", reference
        return None

    def run(self, scale: str, folder: Path, *, workers: int = 1, say: Say = lambda _: None) -> list[Finding]:
        """Run every variant with every seed and measure it."""
        from ..train.compare import run_jobs

        jobs = self.jobs(scale, folder)
        work = type(self).work
        results = run_jobs(jobs, min(workers, len(jobs)), lambda job, _: say(f"{job.label}: done"), work=work)
        findings, seeds = [], self.scales[scale].seeds
        for number, arm in enumerate(self.arms):
            mine = results[number * seeds : (number + 1) * seeds]
            for quantity in self.quantities:
                values = [r[quantity] for r in mine if r[quantity] is not None]
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else None
                    reference = arm.references.get(quantity)
                    findings.append(Finding(arm.label, quantity, statistics.mean(values), spread, reference))
        return findings


def once(job: Job, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What ``measure(folder)`` finds, or what an earlier run of the same job found."""
    from ..report.page import write_atomically
    from ..train.compare import one_thread

    folder = Path(job.folder)
    summary = folder / "summary.json"
    if summary.is_file():
        return json.loads(summary.read_text())
    with one_thread():
        found = measure(folder)
    write_atomically(summary, json.dumps(found, indent=1).encode())
    return found
