"""Adversarial training: golden steps, the loop's strategy, robust accuracy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat._errors import ArgumentError, ShapeError
from gyrostat.perturb.strategy import describe
from gyrostat.train.strategy import make_strategy
from gyrostat.train.task import Task
from gyrostat.transfer.adversarial import AdversarialTraining, robust_accuracy
from tests.conftest import load_golden

F64 = torch.float64
CLASSIFY = Task("classify")


class GoldenNet(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.l1, self.bn, self.l2 = nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.l2(torch.tanh(self.bn(self.l1(x.flatten(1)))))


def state(d, prefix):
    return {k.removeprefix(prefix): torch.tensor(v) for k, v in d.items() if k.startswith(prefix)}


def test_golden_steps():
    d = load_golden("pgd_adv_training_steps")
    start = state(d, "init/")
    model = GoldenNet(start["l1.weight"].shape[1], start["l1.weight"].shape[0], start["l2.weight"].shape[0]).double()
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(
        model.parameters(), float(d["lr"]), momentum=float(d["momentum"]), weight_decay=float(d["weight_decay"])
    )
    strategy = AdversarialTraining(
        norm={"2": "l2", "inf": "linf"}[str(d["constraint"])], eps=float(d["eps"]), steps=int(d["iterations"]),
        step_size=float(d["step_size"]), low=0.0, high=1.0,
    )  # fmt: skip
    generator = torch.Generator()
    for t in range(len(d["losses"])):
        batch = SimpleNamespace(x=torch.tensor(d["X"][t]), y=torch.tensor(d["Y"][t]), lengths=None)
        model.train()
        # the original L2 projection divides by norm + 1e-7
        np.testing.assert_allclose(strategy.attack(model, batch, CLASSIFY), d["x_adv"][t], rtol=0, atol=1e-6)
        loss = strategy(model, batch, CLASSIFY, generator=generator)
        assert model.bn.training
        assert float(loss.detach()) == pytest.approx(float(d["losses"][t]), abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in state(d, "final/").items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_it_goes_by_name_and_by_its_short_form():
    spelled = make_strategy("adversarial:norm=linf,eps=0.1,steps=2,low=0,high=1")
    assert spelled == AdversarialTraining.parse("linf:0.1:2", (0.0, 1.0))
    assert describe(spelled)["eps"] == 0.1
    for wrong in ("l2", "l2:a:3", "l3:0.5:3", "l2:-1:3", "l2:0.5:0", "l2:0.5:3:4", "l2:inf:3", "l2:nan:3"):
        with pytest.raises(ArgumentError, match="adversarial"):
            AdversarialTraining.parse(wrong)
    with pytest.raises(ArgumentError, match="together"):
        AdversarialTraining(low=0.0)
    with pytest.raises(ArgumentError, match="less than"):
        AdversarialTraining(low=1.0, high=0.0)


def test_radius_zero_is_plain_training_and_the_clean_weight_mixes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    g = torch.Generator().manual_seed(0)
    batch = SimpleNamespace(x=torch.rand(5, 3, 4, generator=g, dtype=F64), y=torch.arange(5) % 3, lengths=None)
    clean = CLASSIFY.loss(model(batch.x), batch.y)
    zero = AdversarialTraining(eps=0.0)(model, batch, CLASSIFY, generator=g)
    torch.testing.assert_close(zero, clean)
    hard = AdversarialTraining(eps=0.5)(model, batch, CLASSIFY, generator=g)
    half = AdversarialTraining(eps=0.5, clean_weight=0.5)(model, batch, CLASSIFY, generator=g)
    assert hard > clean
    torch.testing.assert_close(half, (hard + clean) / 2)
    assert all(p.grad is None for p in model.parameters())


def test_padding_of_sequences_is_left_alone():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2).double()

        def forward(self, x, lengths):
            return self.head(x[torch.arange(len(x)), lengths - 1])

    x = torch.zeros(3, 5, 2, dtype=F64)
    batch = SimpleNamespace(x=x, y=torch.tensor([0, 1, 0]), lengths=torch.tensor([5, 2, 3]))
    found = AdversarialTraining(eps=0.3).attack(Last(), batch, CLASSIFY)
    moved = found.abs().sum(2) > 0
    assert moved.nonzero().tolist() == [[0, 4], [1, 1], [2, 2]]
    with pytest.raises(TypeError, match="floating"):
        AdversarialTraining().attack(Last(), SimpleNamespace(x=x.long(), y=batch.y, lengths=None), CLASSIFY)


def test_robust_accuracy_falls_with_the_radius_and_is_exact_for_a_linear_model():
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = w
    g = torch.Generator().manual_seed(0)
    x = torch.rand(200, 2, generator=g, dtype=F64)
    y = x.argmax(1)
    margin = (x[:, 0] - x[:, 1]).abs()
    for norm, slope in (("linf", 2.0), ("l2", 2**0.5)):
        for eps in (0.0, 0.05, 0.2):
            found = robust_accuracy(model, (x, y), norm=norm, eps=eps, bounds=None, batch_size=64)
            assert found == pytest.approx(float((margin > slope * eps).double().mean()), abs=0.006)


def test_random_restarts_follow_the_generator_and_leave_the_global_stream():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.rand(40, 6, dtype=F64), torch.arange(40) % 3
    seen = []
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    state = torch.get_rng_state()

    def run(seed):
        seen.clear()
        g = torch.Generator().manual_seed(seed)
        held = robust_accuracy(model, (x, y), eps=0.1, steps=2, restarts=2, bounds=None, generator=g)
        return held, torch.stack(seen)

    (first, points), (again, same), (_, others) = run(1), run(1), run(2)
    assert first == again
    assert torch.equal(points, same)
    assert not torch.equal(points, others)
    assert torch.equal(torch.get_rng_state(), state)


PAIR, FLAT = nn.Linear(4, 3), nn.Linear(4, 3)
BAD = [
    ({"model": lambda x: (PAIR(x), x)}, "got tuple", RuntimeError),
    ({"model": lambda x: FLAT(x)[:, 0]}, "must return logits", RuntimeError),
    ({"y": torch.tensor([0, 3])}, "from 0 to 2", ValueError),
    ({"y": torch.tensor([0, -1])}, "from 0 to 2", ValueError),
    ({"x": torch.ones(2, 4, dtype=torch.uint8)}, "floating", TypeError),
    ({"x": torch.full((2, 4), 3.0)}, "leaves bounds", ValueError),
    ({"bounds": 1}, "bounds must be", ValueError),
]


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize(("change", "word", "error"), BAD)
def test_robust_accuracy_names_bad_input_at_any_radius(change, word, error, eps):
    given = {"model": nn.Linear(4, 3), "x": torch.full((2, 4), 0.5), "y": torch.tensor([0, 1]), "bounds": (0.0, 1.0)}
    given |= change
    with pytest.raises(error, match=word):
        robust_accuracy(given.pop("model"), (given.pop("x"), given.pop("y")), eps=eps, **given)


def test_the_strategy_names_bad_labels_and_outputs():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    for model, label, word in ((nn.Linear(4, 3), 3, "from 0 to 2"), (Pair(4, 3), 1, "got tuple")):
        batch = SimpleNamespace(x=torch.full((1, 4), 0.5), y=torch.tensor([label]), lengths=None)
        with pytest.raises((ArgumentError, ShapeError), match=word):
            AdversarialTraining().attack(model, batch, CLASSIFY)
        assert model.training
