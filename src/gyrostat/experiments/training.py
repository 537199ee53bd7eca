"""Recipes that train recurrent models: settings as data, merged for a scale, one run for each variant and seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .arms import Settings, Variants, once
from .recipe import Reference


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


def work(job: TrainingJob) -> dict[str, Any]:
    """Train and measure once, or read what is finished; runs in a process of its own."""
    from ..data.catalogue import open_data
    from ..train.config import TrainConfig
    from ..train.loop import load_model, train
    from ..train.model import ModelConfig

    def measured(folder: Path) -> dict[str, Any]:
        data = open_data(job.data)
        if not (folder / "result.json").is_file():
            net = ModelConfig.for_data(job.model, data, options=job.options, hidden_size=job.hidden_size)
            train(data, net, TrainConfig(**job.train), folder)
        model, _ = load_model(folder)
        result = json.loads((folder / "result.json").read_text())
        return {name: measure(name, model, data, result) for name in job.quantities}

    return once(job, measured)


@dataclass(frozen=True)
class Training(Variants):
    """A recipe of trainings: ``data`` is what ``open_data`` takes, ``quantities`` are names of :func:`measure`.

    Attributes:
        hidden_size: Units.
    """

    hidden_size: int = field(kw_only=True)

    work = staticmethod(work)

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
