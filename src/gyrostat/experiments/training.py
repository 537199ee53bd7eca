"""Recipes that train recurrent models: settings as data, merged for a scale, one run for each variant and seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .recipe import Finding, Recipe, Reference, Say

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One variant: which model, its options, and the numbers its quantities stand beside."""

    label: str
    model: str
    options: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """What a scale changes of the paper's setting; ``takes`` is its time on one core."""

    takes: str
    data: str | None = None
    hidden_size: int | None = None
    options: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    seeds: int = 1


@dataclass(frozen=True)
class TrainingJob:
    """One run."""

    label: str
    data: str
    model: str
    hidden_size: int
    options: dict[str, Any]
    train: dict[str, Any]
    quantities: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class Training(Recipe):
    """A recipe of trainings.

    Attributes:
        data: What ``open_data`` takes.
        hidden_size: Units.
        train: Settings of :class:`gyrostat.train.config.TrainConfig` that all variants share.
        arms: The variants.
        quantities: What is measured of each, names of :func:`measure`.
        scales: The scales; an empty change is the paper's own setting.
    """

    data: str = field(kw_only=True)
    hidden_size: int = field(kw_only=True)
    train: Settings = field(kw_only=True)
    arms: tuple[Arm, ...] = field(kw_only=True)
    quantities: tuple[str, ...] = field(kw_only=True)
    scales: Mapping[str, Scale] = field(kw_only=True)

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

    def differences(self, scale: str) -> list[str]:
        """The settings that a scale changes."""
        change = self.scales[scale]
        found = []
        if change.data not in (None, self.data):
            found.append(f"data {change.data} instead of {self.data}")
        if change.hidden_size not in (None, self.hidden_size):
            found.append(f"{change.hidden_size} units instead of {self.hidden_size}")
        for theirs, ours in ((self.train, change.train), (self.arms[0].options, change.options)):
            found += [f"{k} {v} instead of {theirs.get(k, 'unset')}" for k, v in ours.items() if theirs.get(k) != v]
        return found

    def check(self, scale: str) -> None:
        """Open the data where they come from files.

        Raises:
            DataError: A file is missing or damaged.
        """
        from ..data.catalogue import open_data, sources

        spec = self.scales[scale].data or self.data
        source = sources().get(spec.partition(":")[0])
        if source is None or source.files:
            open_data(spec)

    def jobs(self, scale: str, folder: Path) -> list[TrainingJob]:
        """One run for each variant and seed."""
        change = self.scales[scale]
        return [
            TrainingJob(
                f"{arm.label}, seed {seed}",
                change.data or self.data,
                arm.model,
                change.hidden_size or self.hidden_size,
                {**arm.options, **change.options},
                {**self.train, **arm.train, **change.train, "seed": seed},
                self.quantities,
                str(folder / "runs" / f"{number}-{arm.model}-seed{seed}"),
            )
            for number, arm in enumerate(self.arms)
            for seed in range(change.seeds)
        ]

    def run(self, scale: str, folder: Path, *, workers: int = 1, say: Say = lambda _: None) -> list[Finding]:
        """Train every variant with every seed and measure it."""
        from ..train.compare import run_jobs

        jobs = self.jobs(scale, folder)
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


def work(job: TrainingJob) -> dict[str, Any]:
    """Train and measure once, or read what is finished; runs in a process of its own."""
    from ..data.catalogue import open_data
    from ..report.page import write_atomically
    from ..train.compare import one_thread
    from ..train.config import TrainConfig
    from ..train.loop import load_model, train
    from ..train.model import ModelConfig

    folder = Path(job.folder)
    summary = folder / "summary.json"
    if summary.is_file():
        return json.loads(summary.read_text())
    one_thread()
    data = open_data(job.data)
    if not (folder / "result.json").is_file():
        net = ModelConfig.for_data(job.model, data, options=job.options, hidden_size=job.hidden_size)
        train(data, net, TrainConfig(**job.train), folder)
    model, _ = load_model(folder)
    result = json.loads((folder / "result.json").read_text())
    found = {name: measure(name, model, data, result) for name in job.quantities}
    write_atomically(summary, json.dumps(found, indent=1).encode())
    return found


def measure(name: str, model: Any, data: Any, result: dict[str, Any]) -> float | None:
    """One quantity of a trained model, ``None`` where the model has no such thing.

    Args:
        name: ``test accuracy``, ``test RMSE``, ``test MSE``, ``test cross-entropy``,
            ``bits per character``, ``best validation RMSE``, ``steps``,
            ``parameters``, ``accuracy, white noise LEVEL``, ``max Re λ(A)``, ``λmax(A sym)``, ``σmax(W)``.
        model: The trained model.
        data: What it was trained on.
        result: The result of its run.
    """
    from ..train.compare import matrices_of, noisy_score

    plain: dict[str, Callable[[], float]] = {
        "test accuracy": lambda: result["test_score"],
        "test RMSE": lambda: result["test_score"],
        "test MSE": lambda: result["test_loss"],
        "test cross-entropy": lambda: result["test_loss"],
        "best validation RMSE": lambda: min(row["valid_score"] for row in result["history"]),
        "bits per character": lambda: result["test_loss"] / math.log(2),
        "parameters": lambda: result["parameters"],
        "steps": lambda: result["steps"],
    }
    if name in plain:
        return float(plain[name]())
    if name.startswith("accuracy, white noise "):
        return noisy_score(model, data, "white", float(name.rpartition(" ")[2]), result["train"]["seed"])[0]
    import torch

    matrices = matrices_of(model)
    A, W = matrices.get("A"), matrices.get("W")
    if name == "max Re λ(A)":
        return None if A is None else float(torch.linalg.eigvals(A).real.max())
    if name == "λmax(A sym)":
        return None if A is None else float(torch.linalg.eigvalsh((A + A.T) / 2).max())
    if name == "σmax(W)":
        return None if W is None else float(torch.linalg.matrix_norm(W, 2))
    raise KeyError(name)
