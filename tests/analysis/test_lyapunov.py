"""Jacobians and exponents: golden files, linear cells, determinants, LEM's and the vector field's guarantees."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.analysis.bounds import gain_bounds, lem_bounds
from gyrostat.analysis.lyapunov import input_jacobian, lyapunov_exponents, state_jacobians
from gyrostat.analysis.margin import margin_lower_bound
from gyrostat.analysis.stability import stability_certificate
from gyrostat.numerics.operators import flow
from gyrostat.recurrent.lem import LEM
from gyrostat.recurrent.lipschitz import LipschitzRNN
from tests.conftest import load_golden

F64 = torch.float64


class GoldenModel(torch.nn.Module):
    """The released cell's equation on golden weights, readout of the last state."""

    batch_first = True

    def __init__(self, data):
        super().__init__()
        order = json.loads(str(data["meta"]))["order_of_theta"]
        order = order if isinstance(order[0], str) else [name for name, *_ in order]
        for name in order:
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.tensor(data[f"param/{name}"])))
        self.eps, self.beta, self.gamma = (float(data[k]) for k in ("eps", "beta", "gamma"))
        self.alpha = float(data["alpha"]) if "alpha" in data else 1.0

    def split(self, M):
        eye = torch.eye(len(M), dtype=M.dtype)
        return self.beta * (M - M.T) + (1 - self.beta) * (M + M.T) - self.gamma * eye

    def step(self, x_t, state):
        h = x_t.new_zeros(1, len(x_t), len(self.B)) if state is None else state
        u = x_t @ self.E_weight.T + self.E_bias
        h = h + self.eps * self.alpha * h @ self.split(self.B) + self.eps * torch.tanh(h @ self.split(self.C) + u)
        return h[0], h

    def forward(self, x):
        h = None
        for t in range(x.shape[1]):
            _, h = self.step(x[:, t], h)
        return h[0] @ self.D_weight.T + self.D_bias


@pytest.fixture(params=["stable", "unstable"])
def golden(request):
    data = load_golden(f"lipschitz_analysis_{request.param}")
    return data, GoldenModel(data)


def test_golden_jacobians_and_exponents(golden):
    data, model = golden
    x = torch.tensor(data["x"])
    J = state_jacobians(model, x[0])
    np.testing.assert_allclose(J, data["state_jac"], rtol=1e-10, atol=1e-12)
    exact = lyapunov_exponents(model, x[0], dt=model.eps, method="svd")
    np.testing.assert_allclose(exact.exponents, data["ftle"], rtol=1e-10, atol=1e-10)
    jacobian = input_jacobian(model, x[0])
    np.testing.assert_allclose(jacobian.matrix, data["input_jac"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jacobian.singular_values, data["input_jac_sv"], rtol=1e-10)
    assert float(jacobian.condition) == pytest.approx(float(data["input_jac_cond"]), rel=1e-10)
    # a batch gives the same as its members
    np.testing.assert_allclose(input_jacobian(model, x).matrix[0], jacobian.matrix, rtol=1e-12, atol=1e-14)


def test_golden_certificate_numbers(golden):
    data, _ = golden
    c = stability_certificate(data["A_math"], data["W_math"])
    for key, value in {
        "sigma_max_W": c.sigma_max_W,
        "ell": c.ell,
        "mu_small_gain": c.mu_small_gain,
        "mu_slope": c.mu_slope,
        "lam_max": c.lam_max_A_sym,
    }.items():
        expected = data["lam_sym_A"][-1] if key == "lam_max" else data[key]
        assert value == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


def test_the_sum_of_the_exponents_is_the_mean_log_determinant(golden):
    data, model = golden
    J = state_jacobians(model, torch.tensor(data["x"][0]))
    found = lyapunov_exponents(J, dt=model.eps)
    expected = float(torch.linalg.slogdet(J).logabsdet.sum()) / found.time
    assert float(found.exponents.sum()) == pytest.approx(expected, rel=1e-10)
    c = stability_certificate(data["A_math"], data["W_math"])
    bound = math.log(c.contraction_factor(model.eps)) / model.eps
    assert float(lyapunov_exponents(J, dt=model.eps, method="svd").exponents[0]) <= bound + 1e-10


def test_a_linear_cell_has_the_exponents_of_its_eigenvalues():
    layer = LipschitzRNN(2, 4, dt=0.1, dtype=F64, beta_a=0.5, gamma_a=0.3)
    with torch.no_grad():
        layer.m_a_l0.copy_(torch.diag(torch.tensor([0.5, 0.1, -0.7, -2.0], dtype=F64)))
        layer.m_a_l0[0, 1] = 0.4  # not normal: the exponents are still those of the eigenvalues, up to 1/T
        layer.m_w_l0.zero_()
        layer.cells[0].gamma_w = 0.0
    x = torch.randn(400, 2, dtype=F64)
    found = lyapunov_exponents(layer, x)
    expected = [math.log(1 + 0.1 * (v - 0.3)) / 0.1 for v in (0.5, 0.1, -0.7, -2.0)]
    np.testing.assert_allclose(found.exponents, expected, atol=0.05)
    assert found.time == pytest.approx(40.0)
    assert len(lyapunov_exponents(layer, x, 2).exponents) == 2


def test_a_skew_linear_part_with_the_cn_step_has_exponents_zero():
    layer = LipschitzRNN(2, 5, dt=0.1, dtype=F64, beta_a=1.0, gamma_a=0.0, solver="cn", init_std=5.0)
    with torch.no_grad():
        layer.m_w_l0.zero_()
        layer.cells[0].gamma_w = 0.0
    found = lyapunov_exponents(layer, torch.randn(30, 3, 2, dtype=F64))
    assert found.per_sequence.shape == (3, 5)
    np.testing.assert_allclose(found.exponents, 0, atol=1e-12)


def lem_case(seed, H, dt, scale):
    g = torch.Generator().manual_seed(seed)
    layer = LEM(2, H, dt=dt, dtype=F64)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g, dtype=F64))
    return layer, torch.randn(12, 2, generator=g, dtype=F64), lem_bounds(layer.weight_hh_l0, layer.weight_zy_l0, dt)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), H=st.integers(1, 6), dt=st.floats(0.01, 1.0), scale=st.floats(0.01, 2.0))
def test_lem_keeps_its_promises(seed, H, dt, scale):
    layer, x, bounds = lem_case(seed, H, dt, scale)
    y, z = layer.forward_states(x)[:2]
    for states in (y, z):
        for n, row in enumerate(states.reshape(len(x), -1), 1):
            assert row.detach().abs().max() <= bounds.state(n) + 1e-12  # G1
    J = state_jacobians(layer, x)
    P = torch.eye(2 * H, dtype=F64)
    inf_norm = J.abs().sum(2).max(1).values
    away = (J - P).abs().sum(2).max(1).values
    assert float(inf_norm.max()) <= bounds.jacobian + 1e-12  # G2
    assert float(away.max()) <= bounds.distance_from_identity + 1e-12
    g = torch.randn(2 * H, dtype=F64)
    for n in range(1, len(x) + 1):
        P = J[len(x) - n] if n == 1 else P @ J[len(x) - n]
        ratio = ((g @ P).abs().sum() / g.abs().sum()).item()
        low, high = bounds.gradient(n)
        assert low - 1e-12 <= ratio <= high + 1e-12  # G3
    loss = layer.forward_states(x)[0].reshape(len(x), -1)[-1][0]  # ‖∂ℓ/∂X‖₁ = 1
    loss.backward()
    limit = bounds.parameter_gradient(len(x), input_bound=float(x.abs().max()))
    assert max(float(p.grad.abs().max()) for p in layer.parameters() if p.grad is not None) <= limit + 1e-12  # G4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(2, 8), method=st.sampled_from(["cayley", "taylor:1", "taylor:4"]))
def test_the_gain_of_a_vector_field_stays_between_its_bounds(seed, n, method):
    g = np.random.default_rng(seed)
    mu = g.uniform(0.5, 2, n)
    S = g.normal(size=(n, n))
    S = S - S.T
    D = 0.5 * (S - np.diag(S.sum(1))) / mu[:, None]
    bounds = gain_bounds(D, mu)
    np.testing.assert_allclose(bounds.divergence, S.sum(1) / mu, atol=1e-12)
    root = np.sqrt(mu)
    E = torch.linalg.matrix_exp(torch.tensor(root[:, None] * D / root))
    values = torch.linalg.svdvals(E)
    assert bounds.low - 1e-10 <= float(values[-1])
    assert float(values[0]) <= bounds.high + 1e-10
    assert bounds.high == pytest.approx(math.exp(-0.5 * float(bounds.divergence.min())), rel=1e-10)
    assert float(torch.linalg.slogdet(E).logabsdet) == pytest.approx(bounds.log_determinant, abs=1e-9)
    other, E = gain_bounds(D, mu, method=method), flow(torch.tensor(D), method)
    values = torch.linalg.svdvals(torch.tensor(root)[:, None] * E / torch.tensor(root))
    slack = 1e-9 * (1 + float(values[0]))
    assert other.low - slack <= float(values[-1])
    assert float(values[0]) <= other.high + slack
    assert float(torch.linalg.slogdet(E).logabsdet) == pytest.approx(other.log_determinant, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(-0.5, 3))
def test_no_attack_inside_the_margin_bound_changes_the_class(seed, shift):
    g = np.random.default_rng(seed)
    N, p, K, M, dt = 5, 3, 4, 8, 0.1
    A, W = g.normal(size=(N, N)) - shift * np.eye(N), g.normal(size=(N, N))
    U, b, V, x = g.normal(size=(N, p)), g.normal(size=N), g.normal(size=(K, N)), g.normal(size=(M, p))

    def run(x):
        h = np.zeros(N)
        for u in x:
            h = h + dt * (A @ h + np.tanh(W @ h + U @ u + b))
        return V @ h

    logits = run(x)
    c = int(logits.argmax())
    At, Wt, Ut, bt = (torch.tensor(M) for M in (A, W, U, b))

    def layer_like(x_t, h):
        return h + dt * (h @ At.T + torch.tanh(h @ Wt.T + x_t @ Ut.T + bt))

    J = state_jacobians(layer_like, torch.tensor(x), torch.zeros(N, dtype=F64))
    result = margin_lower_bound(A, W, U, V, logits, c, dt=dt, n_steps=M, jacobians=J)
    r = float(result.bound[0])
    assert 0 < r <= float(result.estimate[0]) * (1 + 1e-9)
    for _ in range(20):
        eta = g.normal(size=(M, p))
        eta *= r / np.linalg.norm(eta, axis=1, keepdims=True)
        assert run(x + eta).argmax() == c
    assert float(margin_lower_bound(A, W, U, V, logits, (c + 1) % K, dt=dt, n_steps=M).bound[0]) == 0


LAYER = LipschitzRNN(2, 3)
X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("call", "word", "error"),
    [
        (lambda: state_jacobians(torch.nn.Linear(2, 2), X), "no recurrence", TypeError),
        (lambda: state_jacobians(3, X), "model", TypeError),
        (lambda: state_jacobians(LAYER, torch.zeros(4, 5)), "x does not fit", ValueError),
        (lambda: state_jacobians(LAYER, torch.zeros(4)), "x must", ValueError),
        (lambda: state_jacobians(LipschitzRNN(2, 3, bidirectional=True), X), "bidirectional", ValueError),
        (lambda: state_jacobians(torch.nn.ModuleList([LAYER, LEM(2, 3)]), X), "2 recurrent", ValueError),
        (lambda: state_jacobians(lambda x, h: h, X), "state must", ValueError),
        (lambda: lyapunov_exponents(LAYER, X, 4), "k must", ValueError),
        (lambda: lyapunov_exponents(LAYER, X, dt=0), "dt", ValueError),
        (lambda: lyapunov_exponents(LAYER, X, dt=[0.1, 0.1]), "dt", ValueError),
        (lambda: lyapunov_exponents(LAYER), "x must", ValueError),
        (lambda: lyapunov_exponents(LAYER, X, method="lu"), "method", ValueError),
        (lambda: input_jacobian(torch.nn.Linear(3, 2), X), "x of shape", ValueError),
        (lambda: lem_bounds(torch.zeros(6, 2), torch.zeros(2, 2), dt=1.5), "dt", ValueError),
        (lambda: lem_bounds(torch.zeros(5, 2), torch.zeros(2, 2)), "weight_hh", ValueError),
        (lambda: gain_bounds(torch.zeros(2, 3)), "D must", ValueError),
        (lambda: gain_bounds(torch.zeros(2, 2), [1.0, 0.0]), "mass", ValueError),
    ],
)
def test_bad_input_names_the_argument(call, word, error):
    with pytest.raises(error, match=word):
        call()


def test_the_model_gets_its_mode_and_backend_back():
    layer = LEM(2, 3).train()
    before = layer.backend
    state_jacobians(layer, X)
    assert layer.training
    assert layer.backend == before
