"""PGD beyond its golden points: training with it, restarts, one radius per sample, an independent peer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gyrostat.perturb.attack import fgsm, pgd
from tests.conftest import load_golden

F64 = torch.float64


def test_golden_adversarial_training():
    d = {k: torch.tensor(v) for k, v in load_golden("pgd_adv_training_steps").items() if v.dtype.kind in "fi"}
    part = nn.ModuleDict({"l1": nn.Linear(75, 16), "l2": nn.Linear(16, 5), "bn": nn.BatchNorm1d(16)}).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.l2, self.bn = part["l1"], part["l2"], part["bn"]

        def forward(self, x):
            return self.l2(torch.tanh(self.bn(self.l1(x.flatten(1)))))

    model = Net()
    model.load_state_dict({k[5:]: v for k, v in d.items() if k.startswith("init/")})
    settings = {k: float(d[k]) for k in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    model.train()
    for t in range(len(d["X"])):
        x, y = d["X"][t], d["Y"][t]
        x_adv = pgd(
            model, x, y, norm="l2", eps=float(d["eps"]), steps=int(d["iterations"]), step_size=float(d["step_size"])
        )
        torch.testing.assert_close(x_adv, d["x_adv"][t], rtol=0, atol=1e-6)
        loss = F.cross_entropy(model(x_adv), y)
        assert loss.item() == pytest.approx(float(d["losses"][t]), abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, d[f"final/{key}"], rtol=0, atol=1e-6)


class Smooth(nn.Module):
    def __init__(self, dtype=F64):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.a, self.b = (torch.randn(*s, generator=g, dtype=dtype) for s in ((12, 16), (16, 4)))

    def forward(self, x):
        return torch.tanh((x - 0.5).flatten(1) @ self.a) @ self.b


def images(n=32, dtype=F64):
    x = torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    x[0], x[1] = 0.0, 1.0
    return x, torch.arange(n) % 4


def each_loss(model, x, y):
    return F.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_loss_grows_with_steps_and_restarts(norm):
    model, (x, y) = Smooth(), images()
    clean = each_loss(model, x, y)
    means = []
    for steps in (1, 2, 4, 8, 16, 32):
        found = each_loss(model, pgd(model, x, y, norm=norm, eps=0.2, steps=steps, step_size=0.02), y)
        assert bool((found >= clean).all())
        means.append(found.mean().item())
    assert means == sorted(means)
    assert (found > clean).double().mean() >= 0.99
    one = pgd(model, x, y, norm=norm, eps=0.2, steps=5)
    many = pgd(model, x, y, norm=norm, eps=0.2, steps=5, restarts=4, generator=torch.Generator().manual_seed(0))
    assert bool((each_loss(model, many, y) >= each_loss(model, one, y)).all())
    assert not torch.equal(one, many)
    last = pgd(model, x, y, norm=norm, eps=0.2, steps=5, restarts=3, best=False)
    assert bool(
        (
            each_loss(model, last, y) >= each_loss(model, pgd(model, x, y, norm=norm, eps=0.2, steps=5, best=False), y)
        ).all()
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_radius_per_sample(norm, dtype):
    model, (x, y) = Smooth(dtype), images(dtype=dtype)
    eps = torch.linspace(0, 0.6, len(x))
    for start in (False, True, "ball"):
        found = pgd(model, x, y, norm=norm, eps=eps, steps=4, random_start=start, restarts=2)
        delta = (found - x).flatten(1)
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        # rounding of x + delta near 1, beside the promised relative 1e-6
        assert bool((size <= eps.to(dtype) * (1 + 1e-6) + 4 * torch.finfo(dtype).eps).all())
        assert torch.equal(found[0], x[0])
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert bool((each_loss(model, found, y) >= each_loss(model, x, y)).all())
    whole = pgd(model, x[-1:], y[-1:], norm=norm, eps=0.6, steps=4)
    torch.testing.assert_close(pgd(model, x, y, norm=norm, eps=eps, steps=4)[-1:], whole)


def test_random_starts_have_their_laws():
    x = torch.zeros(4000, 2, dtype=F64)
    y = torch.zeros(4000, dtype=torch.long)
    flat = lambda x: torch.cat([x, -x], 1) * 0  # noqa: E731  no gradient: the start is returned
    arguments = {"bounds": None, "eps": 2.0, "steps": 1, "best": False, "generator": torch.Generator().manual_seed(0)}
    sphere = pgd(flat, x, y, norm="l2", random_start=True, **arguments).norm(dim=1)
    torch.testing.assert_close(sphere, torch.full_like(sphere, 2.0))
    ball = pgd(flat, x, y, norm="l2", random_start="ball", **arguments).norm(dim=1)
    # uniform in a disc: P(r < R/2) = 1/4, within five standard errors
    assert abs((ball < 1).double().mean().item() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    box = pgd(flat, x, y, random_start=True, **arguments)
    assert abs(box.mean().item()) < 5 * 2 / 3**0.5 / 8000**0.5


def test_eps_of_zero_a_zero_gradient_and_one_sample():
    model, (x, y) = Smooth(), images()
    for norm in ("linf", "l2"):
        assert torch.equal(pgd(model, x, y, norm=norm, eps=0.0, random_start=True), x)
        assert torch.equal(fgsm(model, x, y, norm=norm, eps=0), x)
        assert torch.isfinite(pgd(lambda x: 0 * x.flatten(1), x, y, norm=norm, eps=0.1)).all()
        assert pgd(model, x[:1], y[:1], norm=norm, eps=0.1).shape == x[:1].shape
    step = fgsm(model, x, y, norm="l2", eps=0.05, bounds=None) - x
    torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((32,), 0.05, dtype=F64))


def test_targets_are_reached_and_modes_survive_a_failing_model():
    model, (x, y) = Smooth(), images()
    goal = (y + 1) % 4
    found = pgd(model, x, y, norm="l2", eps=1.0, steps=20, targeted=goal)
    assert bool((each_loss(model, found, goal) <= each_loss(model, x, goal)).all())

    class Fails(nn.Module):
        def forward(self, x):
            raise KeyError("stop")

    broken = nn.Sequential(nn.Dropout(), Fails()).train()
    broken[0].eval()
    with pytest.raises(KeyError):
        pgd(broken, x, y, eps=0.1)
    assert broken.training
    assert not broken[0].training


def test_recurrent_models_in_training_mode():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 5, batch_first=True, dropout=0.0), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    model = Reader()
    x = torch.randn(3, 6, 4)
    found = pgd(model, x, torch.tensor([0, 1, 2]), eps=0.1, bounds=None)
    assert (found - x).abs().max().item() == pytest.approx(0.1, rel=1e-4)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"model": lambda x: x.flatten(1).sum(1)}, "logits", RuntimeError),
        ({"model": lambda x: (x, x)}, "got tuple", RuntimeError),
        ({"model": lambda x: x.flatten(1) * torch.nan}, "NaN", ValueError),
        ({"y": torch.full((32,), 12)}, "0 to 3", ValueError),
        ({"y": torch.full((32,), 0.5)}, "integers", ValueError),
        ({"eps": torch.ones(3)}, "one per sample", ValueError),
        ({"eps": torch.full((32,), -1.0)}, "one per sample", ValueError),
        ({"eps": "1"}, "eps", TypeError),
        ({"eps": float("inf")}, "eps", ValueError),
        ({"restarts": 0}, "restarts", ValueError),
        ({"random_start": "shpere"}, "did you mean 'sphere'", ValueError),
        ({"random_start": "sphere"}, "is for l2", ValueError),
        ({"y": torch.full((32,), 12), "random_start": True}, "0 to 3", ValueError),
        ({"y": torch.full((32,), -1), "restarts": 2}, "0 to 3", ValueError),
        ({"targeted": torch.full((32,), 4)}, "0 to 3", ValueError),
        ({"x": torch.ones(32, 3, dtype=torch.uint8)}, "floating", TypeError),
        ({"eps": -0.1}, "eps must be a number >= 0", ValueError),
        ({"bounds": (1.0, 0.0)}, "bounds", ValueError),
        ({"bounds": 1.0}, "bounds must be", ValueError),
        ({"bounds": ("a", "b")}, "bounds must be", ValueError),
        ({"bounds": (0.9, 1.0)}, "x leaves bounds", ValueError),
        ({"start": torch.zeros(1, 2)}, "shape of x", ValueError),
    ],
)
def test_bad_input(change, word, error):
    x, y = images()
    with pytest.raises(error, match=word):
        pgd(**({"model": Smooth(), "x": x, "y": y, "eps": 0.1} | change))


def trained_digits():
    """A small CNN that knows the digits, inputs in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(found.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(6):
        for rows in torch.randperm(1500, generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    assert (model(x[1500:]).argmax(1) == y[1500:]).double().mean() > 0.9
    return model, x[1500:1700], y[1500:1700]


@pytest.fixture(scope="module")
def digits_model():
    return trained_digits()


@pytest.mark.parametrize(("norm", "eps", "name"), [("linf", 0.1, "LinfPGD"), ("l2", 0.6, "L2PGD")])
def test_never_weaker_than_foolbox(digits_model, norm, eps, name):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits_model
    attack = getattr(foolbox.attacks, name)(abs_stepsize=2.5 * eps / 20, steps=20, random_start=False)
    theirs = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)[0]
    for best in (False, True):
        ours = pgd(model, x, y, norm=norm, eps=eps, steps=20, best=best)
        with torch.no_grad():
            outputs = [model(p) for p in (ours, theirs)]
        success = [(o.argmax(1) != y).double().mean().item() for o in outputs]
        losses = [F.cross_entropy(o, y).item() for o in outputs]
        # the points are the same but for rounding, which may turn a sign of a vanishing gradient
        assert success[0] >= success[1] - 0.005
        assert losses[0] >= losses[1] * (1 - 1e-3)
        assert success[0] > 0.2
        if not best:
            assert (ours - theirs).abs().flatten(1).amax(1).median().item() < 1e-5
