"""The implicit regulariser and the label identity against golden values, quadrature and limits."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gyrostat.perturb.theory import label_identity, mixing_moments, mixup_regularizer
from tests.conftest import load_golden

F64 = torch.float64
TERMS = ("R1", "R2", "R3", "R2a", "R3a", "R2m", "R3m")


def golden():
    d = load_golden("nfm_theory")
    t = {k: torch.tensor(v) for k, v in d.items()}
    top = lambda z: torch.tanh(z @ t["W1"].T + t["b1"]) @ t["W2"].T + t["b2"]  # noqa: E731
    first = lambda x: torch.tanh(x @ t["W0"].T + t["b0"])  # noqa: E731
    return d, {"L0": (lambda x: top(first(x)), t["X"]), "L1": (top, first(t["X"]))}, t["y"]


@pytest.mark.parametrize("layer", ["L0", "L1"])
def test_golden_terms_predictions_and_identity(layer):
    d, layers, y = golden()
    f, z = layers[layer]
    terms = mixup_regularizer(f, z, y)
    assert terms.loss.item() == pytest.approx(float(d[f"{layer}_loss_std"]), abs=1e-12)
    for name in TERMS:
        assert getattr(terms, name).item() == pytest.approx(float(d[f"{layer}_{name}"]), abs=1e-9)
    alpha, add, mult = (float(d[k]) for k in ("alpha", "sigma_add", "sigma_mult"))
    settings = {"add_only": (0.0, add, 0.0), "mult_only": (0.0, 0.0, mult), "mix_only": (alpha, 0.0, 0.0),
                "full": (alpha, add, mult)}  # fmt: skip
    for kind, setting in settings.items():
        found = [terms.predict(*setting, scale=float(e)).item() for e in d[f"{layer}_scales"]]
        np.testing.assert_allclose(found, d[f"{layer}_pred_{kind}"], rtol=1e-9, err_msg=kind)
    lhs, rhs = label_identity(f, z, y, alpha=alpha)
    assert lhs.item() == pytest.approx(float(d[f"{layer}_mix_lhs"]), abs=1e-10)
    assert abs(lhs.item() - rhs.item()) < 1e-10


def test_residuals_have_the_order_of_the_expansion():
    d, layers, y = golden()
    terms = mixup_regularizer(*layers["L1"], y)
    scales = d["L1_scales"].tolist()
    alpha, add, mult = (float(d[k]) for k in ("alpha", "sigma_add", "sigma_mult"))
    i, j = scales.index(0.25), scales.index(0.125)
    for kind, setting, low, high in (
        ("add_only", (0.0, add, 0.0), 12, 18), ("mult_only", (0.0, 0.0, mult), 12, 18),
        ("full", (alpha, add, mult), 7, 11),
    ):  # fmt: skip
        left = [abs(terms.predict(*setting, scale=scales[k]).item() - d[f"L1_exact_{kind}"][k]) for k in (i, j)]
        assert low < left[0] / left[1] < high, kind


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0, (0.5, 2.0)])
@pytest.mark.parametrize("K", [1, 3])
def test_the_label_identity_is_exact_with_noise_too(alpha, K):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 2, generator=g, dtype=F64)
    y = torch.tensor([0, 1, 0, 1])
    W, V = (torch.randn(*s, generator=g, dtype=F64) for s in ((2, 5), (5, K)))
    noise = (1 + 0.3 * torch.randn(2, generator=g, dtype=F64), 0.2 * torch.randn(2, generator=g, dtype=F64))
    lhs, rhs = label_identity(lambda z: torch.tanh(z @ W) @ V, z, y, alpha=alpha, noise=noise)
    assert abs(lhs.item() - rhs.item()) < 1e-10
    plain, _ = label_identity(lambda z: torch.tanh(z @ W) @ V, z, y, alpha=alpha)
    assert abs(plain.item() - lhs.item()) > 1e-6


def test_the_moments_of_the_label_law():
    for alpha in (0.2, 1.0, 3.0):
        assert mixing_moments(alpha) == pytest.approx((alpha / (2 * alpha + 1), alpha / (2 * (2 * alpha + 1))))
    assert mixing_moments(1.0) == pytest.approx((1 / 3, 1 / 6))
    # by quadrature of the identity: with one logit linear in z the loss is affine enough to read E[1 - lambda] off
    g = np.random.default_rng(0)
    a, b = 0.7, 1.9
    first = g.beta(a + 1, b, 400_000)
    second = g.beta(b + 1, a, 400_000)
    rest = 1 - np.where(g.random(400_000) < a / (a + b), first, second)
    # 400,000 draws: three decimals
    assert mixing_moments((a, b)) == pytest.approx((rest.mean(), (rest**2).mean()), abs=2e-3)


def test_terms_are_the_derivatives_of_the_loss_they_stand_for():
    g = torch.Generator().manual_seed(3)
    z, y = torch.randn(4, 2, 2, generator=g, dtype=F64), torch.tensor([0, 2, 1, 0])
    W, V = (torch.randn(*s, generator=g, dtype=F64) for s in ((4, 5), (5, 3)))
    f = lambda z: torch.tanh(z.flatten(1) @ W) @ V  # noqa: E731
    terms = mixup_regularizer(f, z, y)
    d, n = 4, 4
    loss = lambda z, y: F.cross_entropy(f(z), y)  # noqa: E731
    h = 1e-4
    # additive noise: half the trace of the Hessian of each sample's loss, by second differences
    trace = 0.0
    for k in range(d):
        step = torch.zeros(d, dtype=F64)
        step[k] = h
        shift = step.view(2, 2)
        trace += (loss(z + shift, y) - 2 * loss(z, y) + loss(z - shift, y)) / h**2
    assert (terms.R2a + terms.R3a).item() == pytest.approx(trace.item() / 2, rel=1e-5)
    # mixing: first and second derivative in 1 - lambda, averaged over all pairs
    pairs = list(itertools.product(range(n), range(n)))
    mean = lambda e: sum(loss(z[i : i + 1] + e * (z[j] - z[i]), y[i : i + 1]) for i, j in pairs) / n**2  # noqa: E731
    assert terms.R1.item() == pytest.approx(((mean(h) - mean(-h)) / (2 * h)).item(), abs=1e-6)
    second = (mean(h) - 2 * mean(0.0) + mean(-h)) / h**2
    assert (terms.R2 + terms.R3).item() == pytest.approx(second.item() / 2, rel=1e-5)
    assert min(terms.R2.item(), terms.R2a.item(), terms.R2m.item()) >= 0


def test_terms_can_be_trained_on_and_one_logit_is_two():
    g = torch.Generator().manual_seed(3)
    z, y = torch.randn(4, 2, generator=g, dtype=F64), torch.tensor([0, 1, 1, 0])
    w = torch.randn(2, 1, generator=g, dtype=F64, requires_grad=True)
    one = mixup_regularizer(lambda z: torch.tanh(z @ w)[:, 0], z, y)
    two = mixup_regularizer(lambda z: F.pad(torch.tanh(z @ w), (1, 0)), z, y)
    for name in ("loss", *TERMS):
        torch.testing.assert_close(getattr(one, name), getattr(two, name))
    assert torch.autograd.gradcheck(
        lambda w: mixup_regularizer(lambda z: torch.tanh(z @ w), z, y).predict(1.0, 0.4, 0.2), (w,)
    )
    assert set(one.to_dict()) == {"loss", *TERMS}


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"z": torch.zeros(2, 3).long()}, "z must", TypeError),
        ({"y": torch.zeros(3).long()}, "y must", ValueError),
        ({"y": torch.tensor([0, 7])}, "labels must be 0 to 2", ValueError),
        ({"f": lambda z: z[:, :, None]}, "logits", RuntimeError),
    ],
)
def test_bad_input(change, word, error):
    arguments = {"f": lambda z: z, "z": torch.zeros(2, 3), "y": torch.tensor([0, 1])} | change
    for function in (mixup_regularizer, label_identity):
        with pytest.raises(error, match=word):
            function(**arguments)
    with pytest.raises(RuntimeError, match="shape of one sample"):
        label_identity(lambda z: z, torch.zeros(2, 3), torch.tensor([0, 1]), noise=(torch.zeros(2, 3), torch.zeros(3)))
    with pytest.raises(ValueError, match="alpha"):
        label_identity(lambda z: z, torch.zeros(2, 3), torch.tensor([0, 1]), alpha=0.0)
