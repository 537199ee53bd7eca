"""Accumulation, mixed precision, schedules and TensorBoard: each does what it says, and each is resumed exactly."""

import math

import pytest
import torch

from gyrostat._errors import ArgumentError
from gyrostat.data.catalogue import open_data
from gyrostat.train import state
from gyrostat.train.config import TrainConfig
from gyrostat.train.loop import train
from gyrostat.train.model import ModelConfig
from gyrostat.train.state import load_state


class Stop(Exception):
    pass


def run(folder, model="noisy", **changes):
    data = open_data("adding:length=12,n=200")
    tensorboard = changes.pop("tensorboard", False)
    config = TrainConfig(**{"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0.0, **changes})
    built = ModelConfig.for_data(model, data, hidden_size=6)
    return train(data, built, config, folder, device="cpu", tensorboard=tensorboard)


def weights(folder):
    return load_state(folder / "model.safetensors")[0]


WAYS = {
    "accumulate": {"accumulate": 3, "batch_size": 8},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16", "model": "lem"},
    "clip": {"clip": 0.1},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "decay_at": (2,)},
    "rmsprop": {"optimizer": "rmsprop", "model": "orthogonal", "operator_lr": 0.1, "decay_after": 0},
    "trace": {"log_every": 4, "keep": "last"},
}


@pytest.mark.parametrize("way", WAYS)
def test_resume_is_exact_whatever_the_settings(way, tmp_path, monkeypatch):
    run(tmp_path / "whole", **WAYS[way])
    original, count = state.save_state, 0

    def counted(*arguments):
        nonlocal count
        original(*arguments)
        count += 1
        if count in (3, 6):
            raise Stop

    monkeypatch.setattr(state, "save_state", counted)
    for _ in range(2):
        with pytest.raises(Stop):
            run(tmp_path / "cut", **WAYS[way])
    monkeypatch.undo()
    run(tmp_path / "cut", **WAYS[way])
    theirs = weights(tmp_path / "whole")
    assert all(torch.equal(v, theirs[k]) for k, v in weights(tmp_path / "cut").items())
    assert (tmp_path / "cut" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_accumulated_gradients_are_those_of_the_larger_batch(tmp_path):
    large = run(tmp_path / "large", "lem", batch_size=16, clip=None, optimizer="sgd").result
    small = run(tmp_path / "small", "lem", batch_size=4, accumulate=4, clip=None, optimizer="sgd").result
    assert large["steps"] == small["steps"]
    for a, b in zip(weights(tmp_path / "large").values(), weights(tmp_path / "small").values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # single precision, sums in another order


def test_bf16_computes_in_bf16_and_still_learns(tmp_path):
    exact, rounded = run(tmp_path / "exact", "lem"), run(tmp_path / "rounded", "lem", mixed_precision="bf16")
    assert all(v.dtype == torch.float32 for v in weights(tmp_path / "rounded").values())
    a, b = exact.result["history"][0]["train_loss"], rounded.result["history"][0]["train_loss"]
    assert a != b
    assert math.isclose(a, b, rel_tol=0.05)  # three significant digits, a dozen steps
    assert run(tmp_path / "again", "lem").result["test_loss"] == exact.result["test_loss"]


def test_the_published_schedules():
    lem = TrainConfig(lr=1.8e-3, epochs=120, decay_after=99)
    assert [lem.lr_at(e) for e in (0, 99)] == [1.8e-3, 1.8e-3]  # divided by ten after epoch 100, counted from 1
    assert lem.lr_at(100) == pytest.approx(1.8e-4)
    lipschitz = TrainConfig(lr=3e-3, epochs=100, decay_after=90)  # epochs 0 to 90 run at the full rate
    assert [lipschitz.lr_at(e) for e in (90, 91)] == pytest.approx([3e-3, 3e-4])
    june = TrainConfig(lr=0.1, decay=0.2, decay_at=(31, 61, 81), optimizer="sgd", momentum=0.9)
    assert [june.lr_at(e) for e in (29, 30, 60, 80)] == pytest.approx([0.1, 0.02, 0.004, 0.0008])


def test_operators_learn_at_their_own_rate():
    data = open_data("adding:length=12,n=200")
    config = TrainConfig(lr=1e-3, optimizer="rmsprop", operator_lr=0.1)
    for name in ("orthogonal", "vector_field"):
        model = ModelConfig.for_data(name, data, hidden_size=6).build()
        optimizer = config.make_optimizer(model)
        config.set_lr(optimizer, 0)
        rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        assert len(rates) == len([p for p in model.parameters() if p.requires_grad])
        slow = [n for n, p in model.named_parameters() if rates[id(p)] == pytest.approx(1e-4)]
        assert slow in (["layer.skew_l0"], ["layer.flux_l0"])


def test_wrong_settings_are_one_sentence():
    for wrong, words in (
        ({"accumulate": 0}, "accumulate"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of"),
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"momentum": 0.9}, "momentum belongs to sgd"),
        ({"decay_at": (0,)}, "decay_at"),
        ({"keep": "worst"}, "keep"),
    ):
        with pytest.raises(ArgumentError, match=words):
            TrainConfig(**wrong)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_has_one_curve_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(*arguments):
        original(*arguments)
        raise Stop

    original = state.save_state
    monkeypatch.setattr(state, "save_state", stop)
    with pytest.raises(Stop):
        run(tmp_path, epochs=3, tensorboard=True, checkpoint_seconds=1e9, log_every=5)
    monkeypatch.undo()
    result = run(tmp_path, epochs=3, tensorboard=True, log_every=5).result
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    losses = found.Scalars("epoch/train_loss")
    assert [e.step for e in losses] == [1, 2, 3]
    assert [e.value for e in losses] == pytest.approx([row["train_loss"] for row in result["history"]])
    assert [e.step for e in found.Scalars("step/train_loss")] == [5, 10, 15, 20, 25, 30]
