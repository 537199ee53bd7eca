"""The state of a run on disk: one safetensors file with JSON in its header, written whole or not at all, never a pickle.

It holds everything an exact resume needs: weights, optimiser, position and history. Random streams need no keeping: what a
step draws depends on the seed, the epoch and the step alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save as save_tensors
from torch import Tensor

from .._errors import CheckpointError
from ..report.page import write_atomically

FORMAT = "gyrostat-state-1"
_MAX_HEADER = 20_000_000


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts as one file."""
    clean = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomically(
        path, save_tensors(clean, metadata={"format": FORMAT, "facts": json.dumps(facts, allow_nan=False)})
    )


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and facts back.

    Raises:
        CheckpointError: The file is missing, damaged, or not one of ours.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path.name}: damaged checkpoint ({' '.join(str(error).split())[:120]}); delete it"
        ) from error
    if header.get("format") != FORMAT or len(header.get("facts", "")) > _MAX_HEADER:
        raise CheckpointError(f"{path.name}: not a checkpoint of gyrostat")
    try:
        facts = json.loads(header["facts"])
    except (json.JSONDecodeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: damaged checkpoint (its facts are not JSON); delete it") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path.name}: damaged checkpoint (its facts are not an object); delete it")
    return tensors, facts


def flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state dict into tensors and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, entries in state["state"].items():
        plain["state"][str(index)] = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                plain["state"][str(index)][key] = value
    return tensors, plain


def restore_optimizer(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten_optimizer`."""
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in plain["state"].items()}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    groups = [{**g, "betas": tuple(g["betas"])} if "betas" in g else g for g in plain["param_groups"]]
    return {"state": state, "param_groups": groups}


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, without it."""
    return dict(_strip(tensors, prefix))


def _strip(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


@dataclass
class Progress:
    """How far a run is: finished epochs, steps of the current one, and what was measured."""

    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    recent_sum: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, and the settings they belong to.

    Attributes:
        folder: ``config.json``, ``metrics.jsonl``, ``state.safetensors``, ``model.safetensors``, ``result.json``.
        facts: What makes two runs the same, and ``source``, where the data were found.
    """

    folder: Path
    facts: dict[str, Any]

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and values of the last checkpoint, ``None`` where there is none.

        Raises:
            CheckpointError: It is damaged, or of other settings or data.
        """
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return None
        tensors, saved = load_state(path)
        # the hash says which data they are; their path may be typed in another way
        theirs, ours = ({**(f or {}), "source": ""} for f in (saved.get("facts"), json.loads(json.dumps(self.facts))))
        if theirs != ours:
            raise CheckpointError(
                f"{self.folder}: holds a run of other settings or data{_difference(theirs, ours)}; "
                "choose another folder, or --force"
            )
        return tensors, saved

    def save(
        self, groups: dict[str, dict[str, Tensor]], optimizer: dict[str, Any], progress: Progress, **more: Any
    ) -> None:
        """Write a checkpoint and the metrics so far."""
        moments, plain = flatten_optimizer(optimizer)
        tensors = {f"{prefix}.{k}": v for prefix, group in groups.items() for k, v in group.items()}
        saved = {"facts": self.facts, "optimizer": plain, "progress": asdict(progress), **more}
        save_state(self.folder / "state.safetensors", {**tensors, **moments}, saved)
        rows = [*progress.trace, *progress.history]
        write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, name: str, value: dict[str, Any]) -> None:
        """One JSON file of the run."""
        write_atomically(self.folder / name, json.dumps(value, indent=1).encode())


def _difference(theirs: Any, ours: Any, path: str = "") -> str:
    """The first setting in which two runs differ, as `` (lr: 0.1 there, 0.2 here)``."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(k for k in ours if k not in theirs)]:
            found = _difference(theirs.get(key), ours.get(key), key)
            if found:
                return found
        return ""
    ours = list(ours) if isinstance(ours, tuple) else ours
    return "" if theirs == ours or not path else f" ({path}: {theirs} there, {ours} here)"
