"""A strategy decides what a batch costs; it is recorded, its draws depend on position alone, and another one is refused."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from gyrostat._errors import ArgumentError, ArgumentTypeError, CheckpointError
from gyrostat.cli.app import run
from gyrostat.data.catalogue import open_data
from gyrostat.perturb.strategy import Plain, describe
from gyrostat.train.config import TrainConfig
from gyrostat.train.levels import Levels, NetConfig, train_levels
from gyrostat.train.loop import train
from gyrostat.train.model import ModelConfig
from gyrostat.train.state import load_state
from gyrostat.train.strategy import make_strategy
from gyrostat.train.task import Task


@dataclass(frozen=True)
class Jitter:
    """Gaussian noise on the inputs."""

    size: float = 0.3
    name: ClassVar[str] = "jitter"

    def __call__(self, model, batch, task, *, generator):
        noise = torch.randn(batch.x.shape, generator=generator)
        x = batch.x + self.size * noise
        return task.loss(task.output(model, x, batch.lengths), batch.y, batch.lengths)


class Stop(Exception):
    pass


def recurrent(folder, strategy, **changes):
    data = open_data("adding:length=12,n=200")
    config = TrainConfig(epochs=2, batch_size=16, checkpoint_seconds=0.0)
    model = ModelConfig.for_data("noisy", data, hidden_size=6)
    return train(data, model, config, folder, strategy=strategy, device="cpu", **changes)


def images(folder, strategy, **changes):
    data = open_data("digits:layout=8x8")
    net = NetConfig("image", outputs=10, inputs=1, channels=2, segments=1, solver="euler")
    return train_levels(data, net, Levels(TrainConfig(epochs=2, batch_size=256)), folder, strategy=strategy, **changes)


def weights(folder):
    return load_state(folder / "model.safetensors")[0]


def same(a, b):
    theirs = weights(b)
    return all(torch.equal(v, theirs[k]) for k, v in weights(a).items())


@pytest.mark.parametrize("run_training", [recurrent, images])
def test_a_strategy_is_recorded_resumed_exactly_and_not_exchanged(tmp_path, run_training):
    run_training(tmp_path / "plain", None)
    run_training(tmp_path / "whole", Jitter())
    assert not same(tmp_path / "plain", tmp_path / "whole")

    def stop(row):
        if row["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        run_training(tmp_path / "cut", Jitter(), on_epoch=stop)
    recorded = json.loads((tmp_path / "cut" / "config.json").read_text())["strategy"]
    assert recorded == {"name": "jitter", "size": 0.3}
    for other in (None, Jitter(0.2)):
        with pytest.raises(CheckpointError, match="other settings"):
            run_training(tmp_path / "cut", other)
    run_training(tmp_path / "cut", Jitter())
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_strategy_is_resumed_exactly_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    recurrent(tmp_path / "whole", Jitter())
    import gyrostat.train.state as loop

    original, count = loop.save_state, 0

    def counted(*arguments):
        nonlocal count
        original(*arguments)
        count += 1
        if count == 5:
            raise Stop

    monkeypatch.setattr(loop, "save_state", counted)
    with pytest.raises(Stop):
        recurrent(tmp_path / "cut", Jitter())
    monkeypatch.undo()
    recurrent(tmp_path / "cut", Jitter())
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_what_is_no_strategy_is_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="dataclass"):
        recurrent(tmp_path, lambda model, batch, task, generator: 0)
    assert describe(Plain()) == {"name": "plain"}
    assert make_strategy("plain") == Plain()
    with pytest.raises(ArgumentError, match="did you mean 'plain'"):
        make_strategy("plan")
    with pytest.raises(ArgumentError, match="no setting 'eps'"):
        make_strategy("plain:eps=1")


def test_the_command_line_refuses_an_unknown_strategy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "digits", "--strategy", "nothing"]) == 2
    assert run(["train-depth", "digits:layout=8x8", "--strategy", "nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["classify", "tag", "regress", "predict"])
def test_losses_of_examples_average_to_the_loss(name):
    g = torch.Generator().manual_seed(0)
    steps = (4, 5) if name in ("tag", "predict") else (4,)
    output = torch.randn(*steps, 3, generator=g, dtype=torch.float64)
    labels = name in ("classify", "tag")
    y = (
        torch.randint(0, 3, steps, generator=g)
        if labels
        else torch.randn(output.shape, generator=g, dtype=torch.float64)
    )
    task = Task(name)
    torch.testing.assert_close(task.losses(output, y).mean(), task.loss(output, y))
    if name == "predict":
        lengths = torch.tensor([5, 1, 3, 2])
        expected = torch.cat([((output - y)[i, :n] ** 2).flatten() for i, n in enumerate(lengths)]).mean()
        torch.testing.assert_close(task.loss(output, y, lengths), expected)
        torch.testing.assert_close(task.losses(output, y, lengths)[1], ((output - y)[1, 0] ** 2).mean())
    if name == "tag":
        y[0, 1:] = y[2] = -100
        torch.testing.assert_close(task.losses(output, y)[0], task.losses(output[:1, :1], y[:1, :1])[0])
        assert task.losses(output, y)[2] == 0
