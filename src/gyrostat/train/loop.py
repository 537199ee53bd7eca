"""The training loop, top to bottom; every random number of a run depends on its seed, its epoch and its position alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .._checks import Integer, Real, check
from .._errors import CheckpointError, NonFiniteError
from .._rng import derive_seed, torch_stream
from ..data.batches import Batches
from ..data.sequences import SequenceData
from ..perturb.strategy import Plain, Strategy, describe
from ..report.page import write_atomically
from .model import ModelConfig, SequenceModel
from .state import flatten_optimizer, load_state, prefixed, random_state, restore_optimizer, save_state
from .task import Task, move

RULES = {
    "epochs": Integer(1),
    "batch_size": Integer(1),
    "lr": Real(0, closed="neither"),
    "clip": Real(0, closed="neither", optional=True),
    "decay_after": Integer(0, optional=True),
    "decay": Real(0, 1, closed="right"),
    "patience": Integer(1, optional=True),
    "max_steps": Integer(1, optional=True),
    "checkpoint_seconds": Real(0),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train: Adam, ``lr`` times ``decay`` once epoch ``decay_after`` is finished, clipping, early stopping."""

    epochs: int = 40
    batch_size: int = 64
    lr: float = 5e-3
    clip: float | None = 1.0
    decay_after: int | None = None
    decay: float = 0.1
    patience: int | None = None
    max_steps: int | None = None
    seed: int = 0
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        check(RULES, asdict(self), "train")


@dataclass
class Run:
    """A finished run: the model with its best validation weights, and what was measured."""

    model: SequenceModel
    result: dict[str, Any]


def train(
    data: SequenceData,
    model_config: ModelConfig,
    config: TrainConfig,
    folder: Path,
    *,
    strategy: Strategy | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    record: Callable[[SequenceModel], dict[str, Any]] | None = None,
    device: str | None = None,
) -> Run:
    """Train one model, or go on where an interrupted run of the same settings stopped.

    Args:
        data: The sequences.
        model_config: What to train.
        config: How.
        folder: Run directory: ``config.json``, ``metrics.jsonl``, ``state.safetensors``, ``model.safetensors``,
            ``result.json``.
        strategy: How a batch becomes a loss, :class:`gyrostat.perturb.strategy.Plain` when left out; recorded with the
            run, and a run with another one is not continued.
        on_epoch: Called with the metrics of each finished epoch.
        record: Called with the model after each epoch; what it returns is kept with the metrics.
        device: ``"cpu"``, ``"cuda"``, ...; by default what accelerate finds.

    Raises:
        CheckpointError: ``folder`` holds a run of other settings or data.
        NonFiniteError: The loss became NaN or Inf; the message says in which step.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")
    strategy = strategy or Plain()
    task = Task(data.task)
    facts = {
        "model": model_config.to_dict(),
        "train": asdict(config),
        "data": data.name,
        "data_hash": data.content_hash,
        "strategy": describe(strategy),
    }
    folder.mkdir(parents=True, exist_ok=True)
    state_path, result_path = folder / "state.safetensors", folder / "result.json"
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "init", model_config.model))
        model = SequenceModel(model_config)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        position = {"epoch": 0, "batch": 0, "loss_sum": 0.0, "best": None, "best_epoch": -1, "seconds": 0.0, "steps": 0}
        history: list[dict[str, Any]] = []
        best = {k: v.clone() for k, v in model.state_dict().items()}
        resumed = None
        if state_path.is_file():
            tensors, saved = load_state(state_path)
            if saved.get("facts") != json.loads(json.dumps(facts)):
                raise CheckpointError(
                    f"{folder}: holds a run of other settings or data; choose another folder, or --force"
                )
            try:
                model.load_state_dict(prefixed(tensors, "model."))
                optimizer.load_state_dict(restore_optimizer(tensors, saved["optimizer"]))
                best, resumed = prefixed(tensors, "best."), tensors["rng"]
                position, history = saved["position"], saved["history"]
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise CheckpointError(f"{state_path.name}: damaged checkpoint; delete it to start anew") from error
        model, optimizer = accelerator.prepare(model, optimizer)
        plain: SequenceModel = accelerator.unwrap_model(model)
        share = (accelerator.process_index, accelerator.num_processes)
        training = Batches(data, "train", config.batch_size, seed=config.seed, shuffle=True, share=share)
        validation = Batches(data, "valid", 256)
        last_saved = time.monotonic()

        def save() -> None:
            if not accelerator.is_main_process:
                return
            flat, values = flatten_optimizer(optimizer.state_dict())
            own = {f"model.{k}": v for k, v in plain.state_dict().items()}
            kept = {f"best.{k}": v for k, v in best.items()}
            saved = {"facts": facts, "optimizer": values, "position": position, "history": history}
            save_state(state_path, {**own, **kept, **flat, "rng": random_state()}, saved)
            lines = "".join(json.dumps(row) + "\n" for row in history)
            write_atomically(folder / "metrics.jsonl", lines.encode())

        write_atomically(folder / "config.json", json.dumps(facts, indent=1).encode())
        while position["epoch"] < config.epochs:
            epoch, started = position["epoch"], time.monotonic()
            decayed = config.decay_after is not None and epoch > config.decay_after
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (config.decay if decayed else 1.0)
            torch.manual_seed(derive_seed(config.seed, "epoch", epoch))
            if resumed is not None and position["batch"] > 0:
                torch.set_rng_state(resumed)
            resumed = None
            model.train()
            for batch in training.epoch(epoch, start=position["batch"]):
                batch = move(batch, accelerator.device)
                with accelerator.accumulate(model), accelerator.autocast():
                    names = ("strategy", epoch, position["batch"], accelerator.process_index)
                    generator = torch_stream(config.seed, *names, device=accelerator.device)
                    loss = strategy(model, batch, task, generator=generator)
                    if not torch.isfinite(loss):
                        raise NonFiniteError(
                            f"{plain.config.model}: the loss is {float(loss)} in epoch {epoch + 1}, "
                            f"batch {position['batch'] + 1}; lower lr or dt, or clip gradients"
                        )
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    if config.clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip)
                    optimizer.step()
                position["batch"] += 1
                position["steps"] += 1
                position["loss_sum"] += float(loss.detach())
                if config.max_steps is not None and position["steps"] >= config.max_steps:
                    break
                if time.monotonic() - last_saved > config.checkpoint_seconds:
                    save()
                    last_saved = time.monotonic()
            measured = task.evaluate(plain, validation)
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "train_loss": position["loss_sum"] / max(1, position["batch"]),
                "valid_loss": measured["loss"],
                "valid_score": measured["score"],
                **(record(plain) if record else {}),
            }
            history.append(row)
            better = measured["score"] if task.labels else -measured["score"]
            if position["best"] is None or better > position["best"]:
                position["best"], position["best_epoch"] = better, epoch
                best = {k: v.clone() for k, v in plain.state_dict().items()}
            position["seconds"] += time.monotonic() - started
            stale = config.patience is not None and epoch - position["best_epoch"] >= config.patience
            out_of_steps = config.max_steps is not None and position["steps"] >= config.max_steps
            position.update(epoch=config.epochs if stale or out_of_steps else epoch + 1, batch=0, loss_sum=0.0)
            save()
            last_saved = time.monotonic()
            if on_epoch:
                on_epoch(row)
    plain.load_state_dict(best)
    tested = task.evaluate(plain, Batches(data, "test", 256))
    result = {
        **facts,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "epochs_run": len(history),
        "best_epoch": position["best_epoch"] + 1,
        "test_loss": tested["loss"],
        "test_score": tested["score"],
        "seconds_per_epoch": position["seconds"] / max(1, len(history)),
        "history": history,
    }
    if accelerator.is_main_process:
        about = {"model": model_config.to_dict(), "classes": data.classes, "center": data.center, "scale": data.scale}
        save_state(folder / "model.safetensors", plain.state_dict(), about)
        write_atomically(result_path, json.dumps(result, indent=1).encode())
    return Run(plain, result)


def load_model(path: Path) -> tuple[SequenceModel, dict[str, Any]]:
    """The trained model of a run directory, or of its ``model.safetensors``."""
    tensors, facts = load_state(path / "model.safetensors" if path.is_dir() else path)
    try:
        model = SequenceModel(ModelConfig(**facts["model"]))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the model of a run: {' '.join(str(error).split())[:120]}") from error
    return model.eval(), facts
