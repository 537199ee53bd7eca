"""The training loop, top to bottom; every random number of a run depends on its seed, its epoch and its step alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._errors import ArgumentError, CheckpointError, NonFiniteError
from .._rng import derive_seed, torch_stream
from ..data.batches import Batches, Examples
from ..perturb.strategy import Measuring, Plain, Strategy, describe
from .config import TrainConfig
from .devices import open_accelerator, own_random_stream
from .model import ModelConfig, SequenceModel
from .state import Progress, RunFolder, load_state, prefixed, restore_optimizer, save_state
from .task import Task, move


class Net(Protocol):
    """What is trained: settings from which the network is built."""

    @property
    def label(self) -> str: ...  # noqa: D102
    def build(self) -> nn.Module: ...  # noqa: D102
    def facts(self) -> dict[str, Any]: ...  # noqa: D102


class Growth(Protocol):
    """Networks that change between epochs, counted from 0; the same object is returned where nothing changes."""

    def fitted(self, model: nn.Module, weights: dict[str, Tensor]) -> nn.Module: ...  # noqa: D102
    def at(self, model: nn.Module, epoch: int) -> nn.Module: ...  # noqa: D102
    def optimizer(self, old: Any, model: nn.Module, changed: nn.Module) -> torch.optim.Optimizer: ...  # noqa: D102
    def facts(self) -> dict[str, Any]: ...  # noqa: D102
    def file(self, model: nn.Module, epoch: int) -> str: ...  # noqa: D102


@dataclass
class Run:
    """A finished run: the model with the weights that were kept, in evaluation mode, and what was measured."""

    model: nn.Module
    result: dict[str, Any]


def train(
    data: Examples,
    net: Net,
    config: TrainConfig,
    folder: Path,
    *,
    strategy: Strategy | None = None,
    growth: Growth | None = None,
    about: dict[str, Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[Progress, int], None] | None = None,
    record: Callable[[Any], dict[str, Any]] | None = None,
    device: str | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train one model, or go on where an interrupted run of the same settings stopped.

    Args:
        data: Sequences, images or tagged sentences.
        net: What to train, such as :class:`gyrostat.train.model.ModelConfig`.
        config: How.
        folder: Run directory: ``config.json``, ``metrics.jsonl``, ``state.safetensors``, ``model.safetensors``,
            ``result.json``.
        strategy: How a batch becomes a loss, :class:`gyrostat.perturb.strategy.Plain` when left out; recorded with the
            run, and a run with another one is not continued.
        growth: Changes of the network between epochs, such as :class:`gyrostat.train.levels.Levels`.
        about: Further facts that belong to the run.
        on_epoch: Called with the metrics of each finished epoch.
        on_step: Called after each step with the progress and the steps of an epoch.
        record: Called with the model after each epoch; what it returns is kept with the metrics.
        device: ``"cpu"``, ``"cuda"``, ...; by default what accelerate finds.
        tensorboard: Also write the metrics for TensorBoard.

    Raises:
        CheckpointError: ``folder`` holds a run of other settings or data.
        NonFiniteError: The loss became NaN or Inf; the message says in which step.
    """
    accelerator = open_accelerator(device, config.mixed_precision)
    rank, world = accelerator.process_index, accelerator.num_processes
    strategy, task = strategy or Plain(), Task(data.task)
    facts = {
        **net.facts(),
        "train": config.to_dict(),
        "data": data.name,
        "data_hash": data.content_hash,
        "strategy": describe(strategy),
        **({} if growth is None else {"growth": growth.facts()}),
        **({} if world == 1 else {"processes": world}),
        **(about or {}),
    }
    training = Batches(data, "train", config.batch_size, seed=config.seed, shuffle=True, share=(rank, world))
    validation, test = Batches(data, "valid", 256), Batches(data, "test", 256)
    n_steps = -(-len(training) // config.accumulate)
    if n_steps == 0:
        raise ArgumentError(f"train: batch_size must leave each of the {world} processes a batch; take a smaller one")
    folder.mkdir(parents=True, exist_ok=True)
    files, progress = RunFolder(folder, facts), Progress()

    with own_random_stream(accelerator.device):
        torch.manual_seed(derive_seed(config.seed, "init", net.label))
        model = net.build()
        best: dict[str, Tensor] = {}
        saved = files.load()
        if saved is None:
            optimizer = config.make_optimizer(model)
        else:
            try:
                tensors, values = saved
                weights = prefixed(tensors, "model.")
                model = model if growth is None else growth.fitted(model, weights)
                model.load_state_dict(weights)
                optimizer = config.make_optimizer(model)
                optimizer.load_state_dict(restore_optimizer(tensors, values["optimizer"]))
                best, progress = prefixed(tensors, "best."), Progress(**values["progress"])
                if values.get("scaler") and accelerator.scaler is not None:
                    accelerator.scaler.load_state_dict(values["scaler"])
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise CheckpointError("state.safetensors: damaged checkpoint; delete it to start anew") from error
        plain = model
        model, optimizer = accelerator.prepare(model, optimizer)
        board = None
        if accelerator.is_main_process:
            files.write("config.json", facts)
            if tensorboard:
                from .tensorboard import TensorBoard

                board = TensorBoard(folder)
                board.write([*progress.trace, *progress.history])

        def save() -> None:
            if accelerator.is_main_process:
                scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
                groups = {"model": plain.state_dict(), "best": best}
                files.save(groups, optimizer.state_dict(), progress, scaler=scaler)

        last_saved = time.monotonic()
        while progress.epoch < config.epochs:
            epoch, started, recorded = progress.epoch, time.monotonic(), len(progress.trace)
            changed = plain if growth is None or progress.step else growth.at(plain, epoch)
            if growth is not None and changed is not plain:
                if accelerator.is_main_process:
                    save_state(folder / growth.file(plain, epoch), plain.state_dict(), facts)
                optimizer = growth.optimizer(optimizer, plain, changed)
                plain = changed
                model, optimizer = accelerator.prepare(changed, optimizer)
            config.set_lr(optimizer, epoch)
            model.train()
            for group in training.groups(epoch, config.accumulate, start=progress.step):
                torch.manual_seed(derive_seed(config.seed, "step", epoch, progress.step, rank))
                count, total = sum(len(batch.x) for batch in group), torch.zeros((), device=accelerator.device)
                for part, batch in enumerate(group):
                    last = part == len(group) - 1
                    generator = torch_stream(
                        config.seed, "strategy", epoch, progress.step, part, rank, device=accelerator.device
                    )
                    with contextlib.nullcontext() if last else accelerator.no_sync(model):
                        with accelerator.autocast():
                            loss = strategy(model, move(batch, accelerator.device), task, generator=generator)
                        loss = loss * (len(batch.x) / count)
                        accelerator.backward(loss)
                    total += loss.detach()
                if not torch.isfinite(total):
                    raise NonFiniteError(
                        f"{net.label}: the loss is {float(total)} in epoch {epoch + 1}, step {progress.step + 1}; "
                        "lower the learning rate or dt, or clip gradients"
                    )
                if config.clip is not None:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                optimizer.zero_grad()
                mean: Any = accelerator.reduce(total, "mean") if world > 1 else total
                step_loss = float(mean)
                progress.step += 1
                progress.steps += 1
                progress.loss_sum += step_loss
                progress.recent_sum += step_loss
                if config.log_every and progress.steps % config.log_every == 0:
                    recent = progress.recent_sum / config.log_every
                    progress.trace.append({"step": progress.steps, "train_loss": recent})
                    progress.recent_sum = 0.0
                if on_step:
                    on_step(progress, n_steps)
                if config.max_steps is not None and progress.steps >= config.max_steps:
                    break
                if time.monotonic() - last_saved > config.checkpoint_seconds:
                    save()
                    last_saved = time.monotonic()
            measured = task.evaluate(plain, validation.epoch())
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "train_loss": progress.loss_sum / max(1, progress.step),
                "valid_loss": measured["loss"],
                "valid_score": measured["score"],
                **(record(plain) if record else {}),
            }
            progress.history.append(row)
            goodness = measured["score"] if task.labels else -measured["score"]
            if progress.best is None or goodness > progress.best:
                progress.best, progress.best_epoch = goodness, epoch
                best = {k: v.clone() for k, v in plain.state_dict().items()} if config.keep == "best" else {}
            progress.seconds += time.monotonic() - started
            stale = config.patience is not None and epoch - progress.best_epoch >= config.patience
            spent = config.max_steps is not None and progress.steps >= config.max_steps
            progress.epoch = config.epochs if stale or spent else epoch + 1
            progress.step, progress.loss_sum = 0, 0.0
            save()
            last_saved = time.monotonic()
            if board:
                board.write([*progress.trace[recorded:], row])
            if on_epoch:
                on_epoch(row)
    if board:
        board.close()
    if best:
        plain.load_state_dict(best)
    tested = task.evaluate(plain, test.epoch())
    own = strategy.measure(plain, test.epoch(), task) if isinstance(strategy, Measuring) else {}
    result = {
        **facts,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "epochs_run": len(progress.history),
        "steps": progress.steps,
        "best_epoch": progress.best_epoch + 1,
        "test_loss": tested["loss"],
        "test_score": tested["score"],
        **own,
        "seconds": progress.seconds,
        "seconds_per_epoch": progress.seconds / max(1, len(progress.history)),
        "history": progress.history,
    }
    if accelerator.is_main_process:
        told = {name: getattr(data, name, ()) for name in ("classes", "center", "scale")}
        save_state(folder / "model.safetensors", plain.state_dict(), {**facts, **told})
        files.write("result.json", result)
    return Run(plain.eval(), result)


def load_model(path: Path) -> tuple[SequenceModel, dict[str, Any]]:
    """The trained model of a run directory, or of its ``model.safetensors``."""
    tensors, facts = load_state(path / "model.safetensors" if path.is_dir() else path)
    try:
        model = ModelConfig(**facts["model"]).build()
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the model of a run: {' '.join(str(error).split())[:120]}") from error
    return model.eval(), facts
