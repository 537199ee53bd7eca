"""Noisy Feature Mixup in the training loop and on its command line."""

import json

import pytest
import torch

from gyrostat.cli.app import run
from gyrostat.data.catalogue import open_data
from gyrostat.perturb.draw import sample_draw
from gyrostat.perturb.mixing import Mixup
from gyrostat.perturb.strategy import Plain
from gyrostat.train.config import TrainConfig
from gyrostat.train.loop import train
from gyrostat.train.model import ModelConfig
from gyrostat.train.state import load_state
from gyrostat.train.strategy import make_strategy
from gyrostat.train.task import Task


def weights(folder):
    return load_state(folder / "model.safetensors")[0]


def short_run(folder, strategy, **changes):
    data = open_data("digits:layout=8x8")
    config = TrainConfig(epochs=2, batch_size=200, checkpoint_seconds=0.0)
    return train(
        data,
        ModelConfig.for_data("lipschitz", data, hidden_size=8),
        config,
        folder,
        strategy=strategy,
        device="cpu",
        **changes,
    )


class Stop(Exception):
    pass


def test_a_mixed_run_resumes_exactly(tmp_path):
    short_run(tmp_path / "plain", Plain())
    short_run(tmp_path / "whole", Mixup(layers="input+features"))

    def stop(row):
        if row["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        short_run(tmp_path / "cut", Mixup(layers="input+features"), on_epoch=stop)
    short_run(tmp_path / "cut", Mixup(layers="input+features"))
    whole, cut, plain = (weights(tmp_path / k) for k in ("whole", "cut", "plain"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert not all(torch.equal(whole[k], plain[k]) for k in whole)
    recorded = json.loads((tmp_path / "whole" / "config.json").read_text())["strategy"]
    assert recorded["name"] == "mixup"
    assert recorded["layers"] == "input+features"


class Batch:
    def __init__(self, y):
        self.x, self.y = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(0)), y
        self.lengths = None


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("task", "y"), [("classify", torch.arange(6) % 3), ("regress", torch.ones(6, 3)), ("predict", torch.ones(6, 5, 3))]
)
def test_every_task_mixes_its_own_targets(task, y, per_sample):
    config = ModelConfig("lipschitz", 2, 3, task, hidden_size=4)
    model = config.build().train()
    batch = Batch(y)
    strategy = Mixup("mixup", per_sample=per_sample)
    seen = []
    model.layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    loss = strategy(model, batch, Task(task), generator=torch.Generator().manual_seed(1))
    output = model(seen[0])
    draw = sample_draw(
        6, ["input"], additive=0, multiplicative=0, per_sample=per_sample, generator=torch.Generator().manual_seed(1)
    )
    a, b = (Task(task).losses(output, t) for t in (y, y[draw.perm]))
    torch.testing.assert_close(loss, (draw.lam * a + (1 - draw.lam) * b).mean().float())
    batch.lengths = torch.tensor([5, 4, 3, 5, 5, 5])
    with pytest.raises(ValueError, match="different lengths"):
        strategy(model, batch, Task(task), generator=torch.Generator())
    noise = Mixup("noise")
    assert torch.isfinite(noise(model, batch, Task(task), generator=torch.Generator()))


def test_the_command_line(tmp_path, capsys):
    words = ["train", "digits:layout=8x8", "--model", "lipschitz", "--hidden-size", "8", "--epochs", "1"]
    spec = "mixup:method=nfm,layers=input+features,additive=0.2"
    assert run([*words, "--strategy", spec, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for spec, word in (
        ("mixup:layers=input+feature", "did you mean 'features'"), ("mixup:methd=nfm", "did you mean 'method'"),
        ("mixup:method=nfn", "did you mean 'nfm'"), ("mixup:layers=input+", "joined by +"),
        ("mixup:alpha=-1", "alpha"), ("mixup:layers=zzz", "there are input, layer"),
    ):  # fmt: skip
        assert run([*words, "--strategy", spec, "--out", str(tmp_path / "bad")]) == 2
        # the message may be wrapped to the width of the terminal
        assert word in " ".join(capsys.readouterr().err.split())


def test_a_strategy_is_named_and_checked():
    strategy = make_strategy("mixup:method=manifold,layers=input+layer1,alpha=0.2,per_sample=true")
    assert strategy == Mixup("manifold", "input+layer1", alpha=0.2, per_sample=True)
