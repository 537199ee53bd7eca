"""``gyrostat train``: train one model on one data set, resumable at any moment."""

from __future__ import annotations

from pathlib import Path


def train(
    data: str,
    /,
    *,
    model: str = "lem",
    out: Path = Path("run"),
    epochs: int = 40,
    max_steps: int | None = None,
    batch_size: int = 64,
    lr: float = 5e-3,
    clip: float | None = 1.0,
    decay_after: int | None = None,
    patience: int | None = None,
    hidden_size: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    set: list[str] | None = None,
    strategy: str = "plain",
    seed: int = 0,
    device: str | None = None,
    checkpoint_seconds: float = 30.0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Train one model; type the same line again to go on after an interruption.

    Example: gyrostat train digits --model lipschitz --hidden-size 128 --set dt=0.1 --out run
    Takes seconds to hours; progress is shown, metrics go to OUT/metrics.jsonl.

    Args:
        data: A .npz, .csv or .ts file, or a built-in set such as digits:layout=16x4.
        model: A name that gyrostat cells lists, or lstm, gru, rnn.
        out: Run directory.
        epochs: Passes over the training part.
        max_steps: Stop after so many optimiser steps.
        batch_size: Sequences per step.
        lr: Learning rate of Adam.
        clip: Largest norm of the gradient.
        decay_after: Divide the learning rate by ten once this epoch (counted from 0) is finished.
        patience: Stop when the validation score has not improved for so many epochs.
        hidden_size: Units of each layer.
        num_layers: Stacked layers.
        bidirectional: Run a second direction.
        dropout: Dropout between layers.
        set: Options of the cell, key=value; may be repeated.
        strategy: How a batch becomes a loss: plain, or another name with its settings, name:key=value,key=value.
        seed: Seed of everything that is drawn.
        device: cpu, cuda, ...; by default what is there.
        checkpoint_seconds: Longest time between two checkpoints.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished run.
    """
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from .._checks import Integer, check
    from .._errors import ArgumentError
    from ..data.catalogue import open_data, parse_options
    from ..train.compare import spectra
    from ..train.loop import TrainConfig
    from ..train.loop import train as run_training
    from ..train.model import ModelConfig, parameter_count
    from ..train.strategy import make_strategy
    from ._shared import out_folder, print_json, stderr

    check({"hidden_size": Integer(1), "num_layers": Integer(1)}, locals(), "train")
    config = TrainConfig(
        epochs=epochs, batch_size=batch_size, lr=lr, clip=clip, decay_after=decay_after, patience=patience,
        max_steps=max_steps, seed=seed,
        checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    if device not in (None, "cpu"):
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ArgumentError(f"--device {device}: is not available here; leave it out or use cpu") from error
    opened = open_data(data, seed=seed)
    model_config = ModelConfig.for_data(
        model, opened, options=parse_options(set or [], "--set"), hidden_size=hidden_size, num_layers=num_layers,
        bidirectional=bidirectional, dropout=dropout,
    )  # fmt: skip
    count = parameter_count(model_config)
    how = make_strategy(strategy)
    folder = out_folder(out, force, "result.json")
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=quiet) as progress:
        task = progress.add_task(f"{model} on {opened.name}, {count} parameters", total=None)

        def show(row: dict) -> None:
            words = f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}  validation {row['valid_score']:.4f}"
            progress.update(task, description=words)

        run = run_training(
            opened, model_config, config, folder, strategy=how, on_epoch=show, record=spectra, device=device
        )
    if json:
        print_json({k: v for k, v in run.result.items() if k != "history"})
    else:
        name = "accuracy" if opened.task == "classify" else "RMSE"
        print(
            f"{model}: test {name} {run.result['test_score']:.4f}, {run.result['parameters']} parameters, run in {folder}"
        )
    return 0
