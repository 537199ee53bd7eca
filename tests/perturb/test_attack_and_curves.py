"""PGD against golden points; robustness curves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.perturb.attack import fgsm, pgd
from gyrostat.perturb.curves import PERTURBATIONS, robustness_curve
from tests.conftest import golden_names, load_golden

F64 = torch.float64


def golden_model(d):
    W1, b1, W2, b2 = (torch.tensor(d[k]) for k in ("W1", "b1", "W2", "b2"))
    mean, std = torch.tensor(d["mean"]), torch.tensor(d["std"])
    if mean.ndim == 1:
        mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
    return lambda x: torch.tanh((((x.clamp(0, 1) - mean) / std).flatten(1)) @ W1.T + b1) @ W2.T + b2


@pytest.mark.parametrize("name", golden_names("pgd_l*"))
def test_golden_points(name):
    d = load_golden(name)
    x, y = torch.tensor(d["x"]), torch.tensor(d["y"])
    norm = {"2": "l2", "inf": "linf"}[str(d["constraint"])]
    eps, start = float(d["eps"]), None
    if int(d["random_start"]):
        noise = torch.tensor(d["start_noise"])
        if norm == "linf":
            start = x + eps * (2 * noise - 1)
        else:
            start = x + eps * noise / noise.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
    found = pgd(
        golden_model(d), x, y, norm=norm, eps=eps, steps=int(d["iterations"]), step_size=float(d["step_size"]),
        targeted=torch.tensor(d["target"]) if int(d["targeted"]) else None, best=bool(d["use_best"]), start=start,
    )  # fmt: skip
    # the original L2 projection divides by norm + 1e-7
    np.testing.assert_allclose(found, d["x_adv"], rtol=0, atol=1e-12 if norm == "linf" else 1e-6)


def linear(seed=0, F_in=6, K=3):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(K, F_in, generator=g, dtype=F64)
    return lambda x: x.flatten(1) @ W.T


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99), norm=st.sampled_from(["linf", "l2"]), eps=st.floats(0, 2), start=st.booleans(),
    best=st.booleans(), bounds=st.sampled_from([(0.0, 1.0), None]),
)  # fmt: skip
def test_points_stay_in_the_ball_and_the_box_and_best_never_helps(seed, norm, eps, start, best, bounds):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, 2, generator=g, dtype=F64)
    y = torch.arange(5) % 3
    model = linear(seed)
    found = pgd(model, x, y, norm=norm, eps=eps, steps=4, random_start=start, best=best, bounds=bounds, generator=g)
    delta = (found - x).flatten(1)
    size = delta.abs().max(1).values if norm == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= eps + 1e-12
    if bounds:
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
    if best and not start:
        loss = torch.nn.CrossEntropyLoss(reduction="none")
        assert bool((loss(model(found), y) >= loss(model(x), y) - 1e-12).all())


def test_a_linear_model_is_attacked_optimally_and_modes_are_restored():
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout(0.5)).double().train()
    model[0].eval()
    x, y = torch.rand(3, 4, dtype=F64), torch.tensor([0, 1, 0])
    out = fgsm(model, x, y, eps=0.1, bounds=None)
    w = model[0].weight.detach()
    best = x + 0.1 * torch.stack([torch.sign(w[1 - c] - w[c]) for c in y.tolist()])
    torch.testing.assert_close(out, best)
    assert model.training
    assert not model[0].training
    assert all(p.grad is None for p in model.parameters())


def data(n=40):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 2, generator=g)
    return x, linear()(x.double()).argmax(1)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_curves_start_at_the_clean_accuracy_and_fall(name):
    model = linear()
    curve = robustness_curve(
        lambda x: model(x.double()), data(), name, levels=[0.0, 0.3, 0.9], repeats=3, batch_size=16
    )
    assert curve.accuracy[0] == 1.0
    assert curve.spread[0] == 0.0
    assert curve.accuracy[2] < 1.0
    assert curve.accuracy[2] <= curve.accuracy[1] + 0.1
    assert 0 < curve.area < 1
    expected = np.trapezoid(curve.accuracy, curve.levels) / 0.9
    assert curve.area == pytest.approx(expected)
    assert curve.repeats.shape == (3, 1 if name.startswith(("pgd", "fgsm")) else 3)


def test_a_seed_means_the_same_numbers_whatever_else_is_asked():
    model = linear()
    one = robustness_curve(lambda x: model(x.double()), data(), levels=[0.0, 0.5, 1.0], seed=3)
    two = robustness_curve(lambda x: model(x.double()), data(), levels=[1.0], seed=3)
    assert one.accuracy[2] == two.accuracy[0]
    assert one.spread[2] > 0
    custom = robustness_curve(lambda x: model(x.double()), data(), lambda x, s, g: -x, levels=[1.0])
    assert custom.accuracy[0] < 0.5
    one.plot()


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"perturbation": "wite"}, "did you mean 'white'", ValueError),
        ({"levels": [-0.1]}, "levels", ValueError),
        ({"levels": []}, "levels", ValueError),
        ({"perturbation": "salt_pepper", "levels": [2.0]}, "probabilities", ValueError),
        ({"repeats": 0}, "repeats", ValueError),
        ({"data": 3}, "data", TypeError),
        ({"data": (torch.zeros(2, 6), torch.zeros(3))}, "data", ValueError),
        ({"data": (torch.zeros(0, 6), torch.zeros(0))}, "data", ValueError),
        ({"data": (torch.zeros(2, 7, dtype=F64), torch.zeros(2))}, "batch 0 does not fit", ValueError),
        (
            {"data": (torch.zeros(2, 6, dtype=torch.uint8), torch.zeros(2).long()), "levels": [0.1]},
            "floating numbers",
            TypeError,
        ),
        ({"data": (torch.zeros(2, 6, dtype=F64), torch.tensor([0, 99]))}, "labels must be integers", ValueError),
        ({"data": (torch.zeros(2, 6, dtype=F64), torch.tensor([0, -1]))}, "labels must be integers", ValueError),
        ({"model": lambda x: (x, x)}, "logits .*got tuple", RuntimeError),
        ({"model": lambda x: x.flatten()}, "must return logits", RuntimeError),
    ],
)
def test_bad_input_names_the_argument(change, word, error):
    arguments = {"model": linear(), "data": data(), "perturbation": "white"} | change
    with pytest.raises(error, match=word):
        robustness_curve(**arguments)


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"x": torch.full((2, 6), 3.0)}, "bounds", ValueError),
        ({"x": torch.full((2, 6), torch.nan)}, "NaN", ValueError),
        ({"x": torch.zeros(2, 6).long()}, "x must", TypeError),
        ({"y": torch.zeros(3).long()}, "y must", ValueError),
        ({"norm": "l1"}, "norm", ValueError),
        ({"eps": -1.0}, "eps", ValueError),
        ({"targeted": torch.zeros(1)}, "targeted", ValueError),
    ],
)
def test_pgd_names_bad_arguments(change, word, error):
    arguments = {"model": torch.nn.Linear(6, 2), "x": torch.zeros(2, 6), "y": torch.zeros(2).long(), "eps": 0.1}
    with pytest.raises(error, match=word):
        pgd(**(arguments | change))
