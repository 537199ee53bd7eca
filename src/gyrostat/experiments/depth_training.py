"""Recipes that train networks of continuous depth and change them afterwards: settings as data, one run for each variant.

Source: the settings of arXiv:2008.02389 and arXiv:2106.10820, in the recipes that use this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .arms import Settings, Variants, once
from .recipe import Reference


@dataclass(frozen=True)
class Arm:
    """One variant: a network with as many units as the scale says from the start, or grown to them.

    Attributes:
        label: What the report calls it.
        net: Settings of :class:`gyrostat.train.levels.NetConfig`; ``scale`` may be ``"units"``.
        grow_at: Epochs of the paper's setting at which one unit becomes two, and so on; empty starts at full depth.
        train: Settings of the training that only this variant has.
        references: The numbers its quantities stand beside.
    """

    label: str
    net: Settings
    grow_at: tuple[int, ...] = ()
    train: Settings = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """What a scale changes of the paper's setting; ``takes`` is its time on one core."""

    takes: str
    data: str | None = None
    units: int | None = None
    epochs: int | None = None
    net: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    seeds: int = 1


@dataclass(frozen=True)
class DepthJob:
    """One run."""

    label: str
    data: str
    net: dict[str, Any]
    train: dict[str, Any]
    refine_at: tuple[int, ...]
    quantities: tuple[str, ...]
    folder: str


def work(job: DepthJob) -> dict[str, Any]:
    """Train and measure once, or read what is finished; runs in a process of its own."""
    from ..train.config import TrainConfig
    from ..train.levels import Levels, NetConfig, load_levels, open_depth_data, train_levels

    def measured(folder: Path) -> dict[str, Any]:
        data = open_depth_data(job.data)
        if not (folder / "result.json").is_file():
            net = NetConfig.for_data(data, **job.net)
            train_levels(data, net, Levels(TrainConfig(**job.train), job.refine_at), folder, source=job.data)
        model, _ = load_levels(folder)
        return {name: measure(name, model, data) for name in job.quantities}

    return once(job, measured)


@dataclass(frozen=True)
class DepthTraining(Variants):
    """A recipe of networks of continuous depth: ``data`` is what :func:`gyrostat.train.levels.open_depth_data` takes.

    ``train`` has ``epochs`` and ``decay_at``; ``quantities`` are ``parameters``, ``test accuracy``, and after changes without
    retraining ``test accuracy, K / 2``, ``test accuracy, N / 2``, ``test accuracy, K / 2 and N / 2``, ``test accuracy, N x 2``.

    Attributes:
        units: Units of each block at the end, a power of two.
    """

    units: int = field(kw_only=True)

    work = staticmethod(work)

    def differences(self, scale: str) -> list[str]:
        """The settings that a scale changes."""
        change = self.scales[scale]
        found = []
        for what, theirs, ours in (
            ("data", self.data, change.data), ("units in each block", self.units, change.units),
            ("epochs, schedules in proportion", self.train["epochs"], change.epochs),
        ):  # fmt: skip
            if ours not in (None, theirs):
                found.append(f"{what}: {ours} instead of {theirs}")
        for settings, changed in ((self.arms[0].net, change.net), (self.train, change.train)):
            found += [f"{k} {v} instead of {settings.get(k, 'unset')}" for k, v in changed.items()]
        return found

    def check(self, scale: str) -> None:
        """Open the data where they come from files.

        Raises:
            DataError: A file is missing or damaged.
        """
        from ..train.levels import open_depth_data

        open_depth_data(self.scales[scale].data or self.data)

    def jobs(self, scale: str, folder: Path) -> list[DepthJob]:
        """One run for each variant and seed."""
        change = self.scales[scale]
        units, full = change.units or self.units, self.train["epochs"]
        epochs = change.epochs or full

        def moved(epoch: int) -> int:
            return max(2, round(epoch * epochs / full))

        found = []
        for number, arm in enumerate(self.arms):
            train = {**self.train, **arm.train, **change.train, "epochs": epochs}
            if "decay_at" not in change.train:
                train["decay_at"] = tuple(moved(at) for at in train.get("decay_at", ()))
            grow_at: list[int] = []
            for at in arm.grow_at[: units.bit_length() - 1]:
                # short runs: every level keeps an epoch of its own
                grow_at.append(max(moved(at), grow_at[-1] + 1 if grow_at else 2))
            net = {**arm.net, **change.net, "basis": f"piecewise_constant:{1 if arm.grow_at else units}"}
            net["scale"] = float(units) if net.get("scale") == "units" else net.get("scale", 1.0)
            for seed in range(change.seeds):
                where = str(folder / "runs" / f"{number}-seed{seed}")
                label, settings = f"{arm.label}, seed {seed}", {**train, "seed": seed}
                found.append(
                    DepthJob(label, change.data or self.data, net, settings, tuple(grow_at), self.quantities, where)
                )
        return found


def measure(name: str, model: Any, data: Any) -> float:
    """One quantity of a trained network, which stays as it is.

    Args:
        name: One of the quantities of :class:`DepthTraining`.
        model: The trained network.
        data: What it was trained on.
    """
    import copy

    from ..data.batches import Batches
    from ..depth.change import blocks, project
    from ..train.levels import as_examples
    from ..train.task import Task

    if name == "parameters":
        return float(sum(p.numel() for p in model.parameters()))
    changed = copy.deepcopy(model)
    if "K / 2" in name:
        halves = {n: b.basis.resized(max(b.basis.K // 2, 1)) for n, b in blocks(model).items()}
        changed = project(changed, halves)
    for block in blocks(changed).values():
        steps = block.n_steps
        block.set_solver(n_steps=max(steps // 2, 1) if "N / 2" in name else 2 * steps if "N x 2" in name else steps)
    examples = as_examples(data)
    return Task(examples.task).evaluate(changed, Batches(examples, "test", 256).epoch())["score"]
