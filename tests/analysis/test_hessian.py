"""Hessian spectra against golden dense Hessians; the explicit regulariser against its oracle."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyrostat.analysis.hessian import hessian_spectrum
from gyrostat.analysis.regularizer import explicit_regularizer, noisy_path
from gyrostat.recurrent.lipschitz import LipschitzRNN
from tests.analysis.test_lyapunov import GoldenModel
from tests.conftest import load_golden

F64 = torch.float64


@pytest.mark.parametrize("name", ["stable", "unstable"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_golden_hessians(name, batch_size):
    data = load_golden(f"lipschitz_analysis_{name}")
    model = GoldenModel(data)
    xy = torch.tensor(data["x"]), torch.tensor(data["labels"])
    found = hessian_spectrum(model, F.cross_entropy, xy, 3, batch_size=batch_size, tol=1e-9, probes=100)
    eigenvalues = data["hess_eigs"]
    scale = abs(float(data["hess_top"]))
    assert found.converged
    np.testing.assert_allclose(found.largest, eigenvalues[::-1][:3], atol=1e-8 * scale)
    np.testing.assert_allclose(found.smallest, eigenvalues[:3], atol=1e-8 * scale)
    assert found.n_parameters == len(eigenvalues)
    assert found.loss == pytest.approx(float(data["loss"]), rel=1e-12)
    assert abs(found.trace.value - float(data["hess_trace"])) <= 4 * found.trace.standard_error
    sharper = hessian_spectrum(model, F.cross_entropy, xy, 1, "hutch++", probes=99)
    assert abs(sharper.trace.value - float(data["hess_trace"])) <= 4 * sharper.trace.standard_error + 1e-9


def small():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(6, 3))
    return model.double(), (torch.randn(12, 4, dtype=F64), torch.arange(12) % 3)


def test_two_calls_agree_and_a_generator_decides():
    model, data = small()
    one, two = (hessian_spectrum(model, F.cross_entropy, data, density=True) for _ in range(2))
    assert one.trace.value == two.trace.value
    assert torch.equal(one.density.density, two.density.density)
    other = hessian_spectrum(model, F.cross_entropy, data, generator=torch.Generator().manual_seed(5))
    assert other.trace.value != one.trace.value
    assert float(other.largest[0]) == pytest.approx(float(one.largest[0]), rel=1e-6)
    assert model.training


def test_the_largest_end_alone_costs_less_and_agrees():
    model, data = small()
    both = hessian_spectrum(model, F.cross_entropy, data, 1, None)
    alone = hessian_spectrum(model, F.cross_entropy, data, 1, None, ends="largest")
    assert float(alone.largest[0]) == pytest.approx(float(both.largest[0]), rel=1e-6)
    assert alone.products <= both.products
    assert len(alone.smallest) == 0
    assert alone.residuals.shape == (1, 1)


def test_few_vectors_give_the_same_spectrum(monkeypatch):
    import gyrostat.analysis.hessian as module

    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)).double()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g, dtype=torch.float64), torch.randint(0, 3, (40,), generator=g)
    loss = torch.nn.functional.cross_entropy
    whole = hessian_spectrum(model, loss, (x, y), 3, None, tol=1e-9)
    few = hessian_spectrum(model, loss, (x, y), 3, None, tol=1e-9, basis=15, max_steps=2000)
    assert few.converged
    torch.testing.assert_close(few.largest, whole.largest, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(few.smallest, whole.smallest, rtol=1e-8, atol=1e-9)
    # a budget of memory that holds 20 vectors does the same by itself
    monkeypatch.setattr(module, "MEMORY", 20 * 8 * whole.n_parameters)
    tight = hessian_spectrum(model, loss, (x, y), 3, None, tol=1e-9, max_steps=2000)
    torch.testing.assert_close(tight.largest, whole.largest, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="basis must be at least 14"):
        hessian_spectrum(model, loss, (x, y), 3, None, basis=10)


def test_not_converged_is_said_with_the_residual():
    model, data = small()
    found = hessian_spectrum(model, F.cross_entropy, data, 2, None, max_steps=4, tol=1e-10)
    assert not found.converged
    assert "NOT converged" in found.message
    assert float(found.residuals.max()) > 0
    assert found.trace is None


def test_parameters_that_the_loss_is_linear_in_or_ignores_are_zeros():
    model = torch.nn.Linear(2, 1, dtype=F64)
    model.unused = torch.nn.Parameter(torch.ones(3, dtype=F64))
    x = torch.randn(5, 2, dtype=F64)
    found = hessian_spectrum(model, lambda out, y: out.mean(), (x, x))
    assert float(found.largest[0]) == 0
    assert found.n_parameters == 6


def test_noise_layers_are_quiet_and_any_torch_recurrence_works():
    torch.manual_seed(0)

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.LSTM(2, 4, batch_first=True)
            self.out = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    found = hessian_spectrum(Head(), F.cross_entropy, (torch.randn(6, 5, 2), torch.arange(6) % 2), tol=1e-3)
    assert found.converged


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"k": 10_000}, "k must", ValueError),
        ({"k": 0}, "k must", ValueError),
        ({"k": 1.5}, "k must", TypeError),
        ({"trace": "exact"}, "trace", ValueError),
        ({"data": (torch.zeros(3, 4, dtype=F64), torch.zeros(2))}, "data", ValueError),
        ({"data": (torch.zeros(3, 9, dtype=F64), torch.zeros(3).long())}, "data: batch 0", ValueError),
        ({"data": 3}, "data", TypeError),
        ({"data": []}, "data", ValueError),
        ({"model": len}, "model", TypeError),
        ({"model": torch.nn.Tanh()}, "no parameters", ValueError),
        ({"loss": lambda out, y: out}, "loss", TypeError),
        ({"loss": lambda out, y: out.sum() * math.inf}, "loss is not finite", ValueError),
    ],
)
def test_bad_input_names_the_argument(change, word, error):
    model, data = small()
    arguments = {"model": model, "loss": F.cross_entropy, "data": data} | change
    with pytest.raises(error, match=word):
        hessian_spectrum(**arguments)


def golden_regularizer(name):
    d = {k: torch.as_tensor(v) for k, v in load_golden(name).items() if v.dtype.kind in "fi"}

    def f(h, x):
        return h @ d["A"].T + torch.tanh(h @ d["W"].T + x @ d["U"].T + d["b"])

    def loss(h):
        return F.cross_entropy(h @ d["V"].T + d["c"], d["label"].reshape(1).long())

    options = {"dt": d["delta"], "sigma1": float(d["sigma1"]), "sigma2": float(d["sigma2"])}
    return d, f, loss, options


@pytest.mark.parametrize("name", ["noisy_regularizer", "noisy_regularizer_additive"])
def test_golden_regularizer(name):
    d, f, loss, options = golden_regularizer(name)
    exact = explicit_regularizer(f, loss, d["x"], d["h0"], **options)
    for ours, theirs in ((exact.P, "P"), (exact.Q, "Q"), (exact.value, "trace_hess_xi"), (exact.loss, "loss0")):
        assert ours.item() == pytest.approx(float(d[theirs]), rel=1e-10, abs=1e-10)
    newton = explicit_regularizer(f, loss, d["x"], d["h0"], mode="gauss_newton", **options)
    assert newton.value.item() == pytest.approx(float(d["Q"]), rel=1e-10)
    path = noisy_path(
        f, d["x"][:, None], d["h0"][None], d["delta"], options["sigma1"], options["sigma2"],
        float(d["eps_noise"]) * d["xi"][:, None],
    )  # fmt: skip
    np.testing.assert_allclose(path[0], d["h_noisy"], rtol=1e-13, atol=1e-13)
    assert loss(path).item() == pytest.approx(float(d["loss_noisy"]), rel=1e-12)


def test_hutchinson_is_unbiased_for_the_sum():
    d, f, loss, options = golden_regularizer("noisy_regularizer")
    draws = [
        explicit_regularizer(
            f, loss, d["x"], d["h0"], mode="hutchinson", generator=torch.Generator().manual_seed(s), **options
        ).value.item()
        for s in range(200)
    ]
    error = np.std(draws) / math.sqrt(len(draws))
    assert abs(np.mean(draws) - float(d["trace_hess_xi"])) <= 4 * error


def test_a_linear_drift_has_no_P_and_a_batch_is_the_mean_of_its_members():
    A = torch.randn(3, 3, dtype=F64)
    x, h = torch.zeros(6, 4, 1, dtype=F64), torch.randn(4, 3, dtype=F64)
    result = explicit_regularizer(lambda h, x: h @ A.T, lambda h: h.pow(4).sum(1).mean(), x, h, dt=0.1, sigma2=0.7)
    assert abs(result.P.item()) < 1e-14
    alone = [
        explicit_regularizer(lambda h, x: h @ A.T, lambda h: h.pow(4).sum(), x[:, :1], row, dt=0.1, sigma2=0.7).Q.item()
        for row in h
    ]
    assert result.Q.item() == pytest.approx(np.mean(alone), rel=1e-12)


def test_without_a_drift_Q_is_the_trace_of_the_loss_times_the_time():
    x, h = torch.zeros(6, 1), torch.randn(4, dtype=F64)
    loss = lambda h: (h**4).sum()  # noqa: E731
    H = torch.autograd.functional.hessian(loss, h)
    steps = torch.rand(6, dtype=F64) + 0.1
    result = explicit_regularizer(lambda h, x: 0 * h, loss, x.double(), h, dt=steps, sigma1=0.6, sigma2=0.0)
    assert result.Q.item() == pytest.approx(0.36 * float(steps.sum()) * float(H.trace()), rel=1e-12)
    assert abs(result.P.item()) < 1e-14


def test_the_monte_carlo_excess_loss_is_predicted_and_falls_with_the_square_of_epsilon():
    d, f, loss, options = golden_regularizer("noisy_regularizer")
    predicted = explicit_regularizer(f, loss, d["x"], d["h0"], **options).value.item()
    g = torch.Generator().manual_seed(1)
    n, M = 20_000, len(d["x"])
    xi = torch.randn(M, n, len(d["h0"]), generator=g, dtype=F64)
    start, x = d["h0"].expand(n, -1), d["x"][:, None].expand(-1, n, -1)

    def losses(draws):
        h = noisy_path(f, x, start, d["delta"], options["sigma1"], options["sigma2"], draws)
        return F.cross_entropy(h @ d["V"].T + d["c"], d["label"].long().expand(n), reduction="none")

    for eps in (0.05, 0.1):
        # antithetic pairs cancel the odd orders
        excess = (losses(eps * xi) + losses(-eps * xi)) / 2 - float(d["loss0"])
        mean, error = float(excess.mean()) / eps**2, float(excess.std()) / eps**2 / math.sqrt(n)
        assert abs(mean - predicted / 2) <= 4 * error + 2 * eps**2


@pytest.mark.parametrize("mode", ["exact", "hutchinson", "gauss_newton"])
def test_the_regularizer_of_a_layer_trains_its_weights(mode):
    torch.manual_seed(0)
    layer = LipschitzRNN(2, 3, dtype=F64, init_std=2.0)
    x, y = torch.randn(4, 5, 2, dtype=F64), torch.randn(5, 3, dtype=F64)

    def value():
        return explicit_regularizer(
            layer, lambda h: ((h - y) ** 2).mean(), x, dt=0.1, sigma1=0.3, sigma2=0.2, mode=mode
        ).value

    value().backward()
    for name in ("m_a_l0", "m_w_l0", "weight_ih_l0"):
        p = getattr(layer, name)
        gradient = p.grad[0, 1].item()
        with torch.no_grad():
            p[0, 1] += 1e-5
            up = value().item()
            p[0, 1] -= 2e-5
            down = value().item()
            p[0, 1] += 1e-5
        assert gradient == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"dt": 0.0}, "dt", ValueError),
        ({"dt": [0.1, 0.1]}, "dt", ValueError),
        ({"sigma1": -1.0}, "sigma1", ValueError),
        ({"mode": "all"}, "mode", ValueError),
        ({"x": torch.zeros(3)}, "x must", ValueError),
        ({"model": torch.nn.Linear(2, 2)}, "no recurrence", TypeError),
        ({"model": 3}, "model", TypeError),
    ],
)
def test_the_regularizer_names_bad_arguments(change, word, error):
    arguments = {"model": LipschitzRNN(2, 3), "loss": torch.sum, "x": torch.zeros(4, 2), "dt": 0.1} | change
    with pytest.raises(error, match=word):
        explicit_regularizer(**arguments)
