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
    accumulate: int = 1,
    lr: float = 5e-3,
    optimizer: str = "adam",
    operator_lr: float = 0.1,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip: float = 1.0,
    decay_after: int | None = None,
    decay: float = 0.1,
    patience: int | None = None,
    keep: str = "best",
    hidden_size: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    set: list[str] | None = None,
    strategy: str = "plain",
    adversarial: str | None = None,
    seed: int = 0,
    device: str | None = None,
    mixed_precision: str = "no",
    tensorboard: bool = False,
    log_every: int | None = None,
    checkpoint_seconds: float = 30.0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Train one model; type the same line again to go on after an interruption.

    Example: gyrostat train digits --model lipschitz --hidden-size 128 --set dt=0.1 --out run
    Takes seconds to hours; progress is shown, metrics go to OUT/metrics.jsonl. On several GPUs or machines:
    accelerate launch -m gyrostat.cli.app train ...

    Args:
        data: A .npz, .csv or .ts file, or a built-in set such as digits:layout=16x4.
        model: A name that gyrostat cells lists, or lstm, gru, rnn.
        out: Run directory.
        epochs: Passes over the training part.
        max_steps: Stop after so many optimiser steps.
        batch_size: Sequences of one backward pass, for each process.
        accumulate: Backward passes whose gradients make one step.
        lr: Learning rate.
        optimizer: adam, adamw, rmsprop or sgd.
        operator_lr: Factor of the learning rate for the operators of orthogonal and vector_field.
        weight_decay: Weight decay.
        momentum: Momentum of sgd.
        clip: Largest norm of the gradient; 0 leaves it as it is.
        decay_after: Lower the learning rate once this epoch (counted from 0) is finished.
        decay: To this fraction.
        patience: Stop when the validation score has not improved for so many epochs.
        keep: Which weights are the result: those of the best validation epoch, or the last.
        hidden_size: Units of each layer.
        num_layers: Stacked layers.
        bidirectional: Run a second direction.
        dropout: Dropout between layers.
        set: Options of the cell, key=value; may be repeated.
        strategy: How a batch becomes a loss: plain, or another name with its settings, name:key=value,key=value.
        adversarial: Train on attacked batches, norm:eps:steps such as l2:0.5:3; inputs in [0, 1] stay there.
        seed: Seed of everything that is drawn.
        device: cpu, cuda or mps; by default what is there.
        mixed_precision: no, bf16 or fp16.
        tensorboard: Also write the metrics for TensorBoard, under OUT/tensorboard.
        log_every: Also record the mean loss of every so many steps.
        checkpoint_seconds: Longest time between two checkpoints.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished run.
    """
    from .._checks import Integer, check
    from ..data.catalogue import open_data, parse_options
    from ..train.compare import spectra
    from ..train.config import TrainConfig
    from ..train.loop import train as run_training
    from ..train.model import ModelConfig, parameter_count
    from ._shared import print_json
    from ._training import leave, open_run, rehearse, robust_words, strategy_of, watch

    check({"hidden_size": Integer(1), "num_layers": Integer(1)}, locals(), "train")
    config = TrainConfig(
        epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay,
        operator_lr=operator_lr, clip=clip or None, decay_after=decay_after, decay=decay,
        accumulate=accumulate, mixed_precision=mixed_precision, patience=patience, max_steps=max_steps, keep=keep,
        log_every=log_every, seed=seed, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    opened = open_data(data, seed=seed)
    model_config = ModelConfig.for_data(
        model, opened, options=parse_options(set or [], "--set"), hidden_size=hidden_size, num_layers=num_layers,
        bidirectional=bidirectional, dropout=dropout,
    )  # fmt: skip
    count = parameter_count(model_config)
    how = strategy_of(strategy, adversarial, opened)
    rehearse(opened, model_config, how, seed)
    folder, first = open_run(out, force, device, mixed_precision, tensorboard, data)
    with watch(f"{model} on {opened.name}, {count} parameters", epochs, quiet or not first) as seen:
        run = run_training(
            opened, model_config, config, folder, strategy=how, on_epoch=seen.epoch, on_step=seen.step, record=spectra,
            device=device, tensorboard=tensorboard, about={"source": data},
        )  # fmt: skip
    leave()
    if not first:
        return 0
    if json:
        print_json({k: v for k, v in run.result.items() if k != "history"})
    else:
        name = "accuracy" if opened.labels else "RMSE"
        print(
            f"{model}: test {name} {run.result['test_score']:.4f}{robust_words(run.result)}, "
            f"{run.result['parameters']} parameters, run in {folder}"
        )
    return 0
