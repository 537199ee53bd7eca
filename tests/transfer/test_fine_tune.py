"""Fine-tuning: which parts move, batch normalisation, heads; nested subsets; learning curves."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gyrostat._errors import ArgumentError
from gyrostat.transfer.curve import learning_curve, stratified_subsets
from gyrostat.transfer.fine_tune import fine_tune, prepare
from gyrostat.transfer.network import ConvNet
from gyrostat.transfer.parts import blocks
from tests.conftest import load_golden


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if shortcut:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        before = 64
        for i, depth in enumerate((3, 4, 6, 3)):
            width = 64 * 2**i
            units = [Bottleneck(before if j == 0 else 4 * width, width, 1, j == 0) for j in range(depth)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*units))
            before = 4 * width
        self.fc = nn.Linear(2048, 1000)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = ResNet50()


@pytest.mark.parametrize("unfrozen", [0, 1, 3, 9])
def test_the_released_freezing_of_resnet50(unfrozen):
    d = load_golden("transfer_freeze_resnet50")
    with torch.device("meta"):
        net = Wrapped()
    found = prepare(net, 10, last_blocks=unfrozen)
    strip = lambda names: sorted(str(n).removeprefix("model.") for n in names)  # noqa: E731
    assert strip(found.trainable) == strip(d[f"trainable_{unfrozen}"])
    assert found.n_trainable == int(d[f"count_{unfrozen}"])
    assert found.n_parameters == int(d["total"])
    assert [b[0] for b in blocks(net)[:4]] == ["model.layer4.2", "model.layer4.1", "model.layer4.0", "model.layer3.5"]


def test_heads_start_as_asked():
    d = load_golden("transfer_freeze_resnet50")
    net = nn.Sequential(nn.Linear(2, 2048), nn.Linear(2048, 10))
    normal = prepare(net, 10, head_init="normal").model[1]
    assert float(normal.weight.detach().std()) == pytest.approx(float(d["fc_weight_std"]), rel=0.02)
    assert not normal.bias.any()
    assert not prepare(net, 4, head_init="zero").model[1].weight.any()
    default = prepare(net, 10).model[1]
    assert float(default.weight.detach().abs().max()) <= 2048**-0.5
    state = torch.get_rng_state()
    assert torch.equal(prepare(net, 10).model[1].weight, default.weight)
    assert not torch.equal(prepare(net, 10, seed=1).model[1].weight, default.weight)
    assert torch.equal(torch.get_rng_state(), state)


def images(n=40, classes=3):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    x = torch.rand(n, 1, 8, 8, generator=g) * 0.3
    x[torch.arange(n), 0, y] += 0.6  # the bright row is the class
    return x, y


@pytest.mark.parametrize("batch_norm", ["freeze", "adapt"])
@pytest.mark.parametrize("last_blocks", [0, 1])
def test_only_the_asked_parts_move(batch_norm, last_blocks):
    source = ConvNet(1, 5, width=4).train()
    before = copy.deepcopy(source.state_dict())
    tuned = fine_tune(source, images(), last_blocks=last_blocks, batch_norm=batch_norm, epochs=2, batch_size=13)
    assert source.training
    assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    moved = {k for k, v in tuned.model.state_dict().items() if k.startswith("blocks") and not torch.equal(v, before[k])}
    last = {k for k in before if k.startswith("blocks.2.")} if last_blocks else set()
    statistics = {k for k in before if "running" in k or "tracked" in k}
    assert moved == last | (statistics if batch_norm == "adapt" else set())
    assert tuned.n_trainable == sum(p.numel() for p in tuned.model.parameters() if p.requires_grad)
    assert not tuned.model.training
    # the statistics of frozen layers hold in anybody's training loop
    tuned.model.train()(images()[0])
    held = torch.equal(tuned.model.state_dict()["blocks.0.1.running_mean"], before["blocks.0.1.running_mean"])
    assert held == (batch_norm == "freeze")
    # and fine-tuning the result once more starts from a clean slate
    again = prepare(tuned.model, 3, trainable="all", batch_norm="freeze").model.train()
    again(images()[0])
    assert not torch.equal(again.blocks[0][1].running_mean, tuned.model.blocks[0][1].running_mean)


def test_cached_features_change_nothing():
    source = ConvNet(1, 5, width=4)
    fast = fine_tune(source, images(), epochs=3, batch_size=16)
    slow = fine_tune(source, images(), trainable=["head"], epochs=3, batch_size=16, batch_norm="adapt")
    held = prepare(source, 3)
    net, optimizer = held.model, torch.optim.SGD(held.model.head.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    from gyrostat._rng import torch_stream

    x, y = images()
    for epoch in range(3):
        net.train()
        for rows in torch.randperm(len(y), generator=torch_stream(0, "order", epoch)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    torch.testing.assert_close(fast.model.head.weight, net.head.weight, rtol=1e-4, atol=1e-6)
    assert not torch.equal(slow.model.head.weight, fast.model.head.weight)


def test_it_learns_and_repeats():
    source = ConvNet(1, 5, width=4)
    seen = []
    tuned = fine_tune(source, images(), trainable="all", epochs=15, on_epoch=lambda e, loss: seen.append(e))
    assert seen == list(range(1, 16))
    assert tuned.history[-1] < 0.5 * tuned.history[0]
    again = fine_tune(source, images(), trainable="all", epochs=15)
    assert again.history == tuned.history
    thirds = fine_tune(source, images(), trainable="all", epochs=15, schedule="thirds")
    assert thirds.history[:5] == tuned.history[:5]
    assert thirds.history[-1] != tuned.history[-1]


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=5), seed=st.integers(0, 99), part=st.floats(0, 1),
)  # fmt: skip
def test_subsets_are_nested_and_in_proportion(counts, seed, part):
    y = torch.cat([torch.full((c,), k) for k, c in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    N, C = len(y), len(counts)
    sizes = sorted({1, C, max(1, round(part * N)), N})
    found = stratified_subsets(y, sizes, seed=seed)
    for a, b in itertools.pairwise(found):
        assert set(a.tolist()) <= set(b.tolist())
    for n, rows in zip(sizes, found):
        assert len(set(rows.tolist())) == n
        if n >= C:
            assert len(torch.unique(y[rows])) == C
            share = torch.bincount(y[rows], minlength=C) / n - torch.tensor(counts) / N
            assert float(share.abs().max()) <= (C + 1) / n
    assert all(torch.equal(a, b) for a, b in zip(found, stratified_subsets(y, sizes, seed=seed)))


def test_curves_go_on_where_they_stopped():
    x, y = images(60)
    sources = {"a": ConvNet(1, 5, width=2), "b": ConvNet(1, 5, width=3)}
    done = {}
    whole = learning_curve(sources, (x, y), (x, y), labels=[6, 3], subsets=2, epochs=2, on_point=done.__setitem__)
    assert whole.labels == (3, 6)
    assert len(done) == 8
    kept = dict(list(done.items())[:5])
    fresh = {}
    again = learning_curve(
        sources, (x, y), (x, y), labels=[3, 6], subsets=2, epochs=2, done=kept, on_point=fresh.__setitem__
    )
    assert again == whole
    assert len(fresh) == 3
    gain, error = whole.gain("a", "b")[0]
    assert gain == pytest.approx(whole.mean("a")[0] - whole.mean("b")[0], abs=1e-6)
    assert error >= 0
    whole.plot()
    assert whole.to_dict()["labels"] == [3, 6]


BAD = [
    ({"trainable": ["blocks.7"]}, "no part 'blocks.7'"),
    ({"trainable": ["block.2"]}, "did you mean 'blocks.2'"),
    ({"last_blocks": 9}, "at most 3"),
    ({"last_blocks": 1, "trainable": ["blocks.0"]}, "not both"),
    ({"data": (torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, -1]))}, "label -1"),
    ({"data": (torch.zeros(3, 2, 8, 8), torch.tensor([0, 1, 1]))}, "does not fit"),
    ({"data": (torch.full((2, 1, 8, 8), np.nan), torch.tensor([0, 1]))}, "NaN"),
    ({"num_classes": 2}, "num_classes is 2"),
    ({"head_init": "xavier"}, "head_init"),
    ({"batch_norm": "froze"}, "did you mean 'freeze'"),
    ({"head": "pool"}, "not a torch.nn.Linear"),
    ({"lr": 1e30, "trainable": "all", "epochs": 9}, "lower lr"),
]


@pytest.mark.parametrize(("change", "word"), BAD)
def test_bad_input_is_one_sentence(change, word):
    arguments = {"model": ConvNet(1, 5, width=2), "data": images(9)} | change
    with pytest.raises(ValueError, match=word):
        fine_tune(**arguments)
    with pytest.raises(ArgumentError, match="labels"):
        stratified_subsets(torch.tensor([0, 1]), [3])
