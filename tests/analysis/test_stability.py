"""Certificates: golden cases, the properties (i)-(vii) of the spec, simulation inside the stochastic bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from gyrostat.analysis.lmi import search_lmi, verify_lmi
from gyrostat.analysis.stability import stability_certificate, stochastic_stability_certificate
from tests.conftest import load_golden

CASES = ("defaults_shared_gamma", "small_gain", "slope_only", "none", "symmetric_W", "thm1b_counterexample")
SEEDS = st.integers(0, 10_000)


def system(seed, n=4, shift=1.0, scale=1.0):
    g = np.random.default_rng(seed)
    return g.normal(size=(n, n)) - shift * np.eye(n), scale * g.normal(size=(n, n))


def certified_system(seed, n=4):
    A, W = system(seed, n)
    mu = stability_certificate(A, W).mu
    return A - (max(mu, 0) + 0.3) * np.eye(n), W


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name):
    data = {
        k.split("/")[1]: v for k, v in load_golden("lipschitz_certificate_cases").items() if k.startswith(f"{name}/")
    }
    c = stability_certificate(data["A"], data["W"])
    numbers = {
        "lam_max_Asym": c.lam_max_A_sym,
        "lam_min_Asym": c.lam_min_A_sym,
        "sigma_max_W": c.sigma_max_W,
        "ell": c.ell,
        "mu_small_gain": c.mu_small_gain,
        "mu_slope": c.mu_slope,
        "lure_rate": c.lure_symmetric_rate or 0.0,
    }
    for key, value in numbers.items():
        assert value == pytest.approx(float(data[key]), abs=1e-10, rel=1e-10), key
    assert c.paper_thm1a == bool(data["thm1a"])
    assert c.paper_thm1b_hypotheses == bool(data["thm1b_as_recalled"])
    assert (c.lure_symmetric_rate is not None) == bool(data["lure_symmetric_valid"])
    assert c.certified == bool(data["small_gain_holds"] or data["slope_holds"] or data["lure_symmetric_valid"])
    if data["eps_max"] > 0:
        assert c.dt_max == pytest.approx(float(data["eps_max"]), rel=1e-10)


def test_the_counterexample_to_the_printed_theorem_is_refused():
    data = load_golden("lipschitz_certificate_cases")
    A, W, b, h = (data[f"thm1b_counterexample/{k}"] for k in ("A", "W", "b", "h_star"))
    c = stability_certificate(A, W)
    assert c.paper_thm1b_hypotheses
    assert not c.certified
    assert not search_lmi(A, W).certified
    assert "do not suffice" in c.reason
    J = A + np.diag(1 - np.tanh(W @ h + b) ** 2) @ W
    assert np.linalg.eigvals(J).real.max() == pytest.approx(1.087, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 8), lipschitz=st.sampled_from([0.25, 1.0, 2.0]), s=st.floats(-3, 3))
def test_the_slope_bound_is_never_larger_and_both_are_invariant(seed, n, lipschitz, s):
    A, W = system(seed, n)
    c = stability_certificate(A, W, lipschitz)
    tol = 1e-12 * (1 + c.ell)  # rounding of eigenvalues
    assert c.mu_slope <= c.mu_small_gain + tol
    Q = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(n, n)))[0]
    turned = stability_certificate(Q @ A @ Q.T, Q @ W @ Q.T, lipschitz)
    shifted = stability_certificate(A - s * np.eye(n), W, lipschitz)
    for field in ("mu_small_gain", "mu_slope"):
        assert getattr(turned, field) == pytest.approx(getattr(c, field), abs=10 * tol)
        assert getattr(shifted, field) == pytest.approx(getattr(c, field) - s, abs=10 * tol)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 6))
def test_the_slope_bound_holds_at_every_vertex(seed, n):
    A, W = system(seed, n)
    c = stability_certificate(A, W)
    g = np.random.default_rng(seed)
    for _ in range(30):
        D = np.diag(g.integers(0, 2, n).astype(float))
        M = A + D @ W
        assert np.linalg.eigvalsh((M + M.T) / 2)[-1] <= c.mu_slope + 1e-10
        E = np.diag(g.uniform(-1, 1, n))
        M = A + E @ W
        assert np.linalg.eigvalsh((M + M.T) / 2)[-1] <= c.mu_small_gain + 1e-10


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_trajectories_shrink_at_least_at_the_certified_rate(seed):
    A, W = certified_system(seed)
    c = stability_certificate(A, W)
    assert c.certified
    g = np.random.default_rng(seed)
    u, h, k = g.normal(size=4), g.normal(size=4), g.normal(size=4)

    def f(t, y):
        drive = u * np.cos(t)
        return np.concatenate([A @ y[:4] + np.tanh(W @ y[:4] + drive), A @ y[4:] + np.tanh(W @ y[4:] + drive)])

    times = np.linspace(0, 2, 9)
    y = solve_ivp(f, (0, 2), np.concatenate([h, k]), rtol=1e-10, atol=1e-13, t_eval=times).y
    distance = np.linalg.norm(y[:4] - y[4:], axis=0)
    assert np.all(distance <= np.exp(-c.rate * times) * distance[0] * (1 + 1e-7))  # integration error


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_euler_just_below_the_bound_contracts_by_q_and_the_gradient_obeys(seed):
    A, W = certified_system(seed)
    c = stability_certificate(A, W)
    dt = 0.99 * c.dt_max
    q = c.contraction_factor(dt)
    assert q < 1
    assert stability_certificate(A, W, dt=dt).dt_certified
    assert not stability_certificate(A, W, dt=1.01 * c.dt_max).dt_certified
    g = np.random.default_rng(seed)
    h, k, P = g.normal(size=4), g.normal(size=4), np.eye(4)
    for step in range(1, 30):
        u = g.normal(size=4)
        before = np.linalg.norm(h - k)
        P = (np.eye(4) + dt * (A + np.diag(1 - np.tanh(W @ h + u) ** 2) @ W)) @ P
        h, k = (v + dt * (A @ v + np.tanh(W @ v + u)) for v in (h, k))
        assert np.linalg.norm(h - k) <= q * before + 1e-14
        assert np.linalg.norm(P, 2) <= c.gradient_bound(step, dt) * (1 + 1e-12)


def symmetric_case(seed, n=4):
    g = np.random.default_rng(seed)
    M = g.normal(size=(n, n))
    W = -(M @ M.T + 0.2 * np.eye(n))
    S = g.normal(size=(n, n))
    # WA + AᵀW = Q with Q = C Cᵀ + 0.1 and any skew part
    Q = S @ S.T + 0.1 * np.eye(n)
    K = g.normal(size=(n, n))
    return np.linalg.solve(W, Q / 2 + (K - K.T)), W


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_symmetric_lure_case_shrinks_in_its_norm(seed):
    A, W = symmetric_case(seed)
    c = stability_certificate(A, W)
    assert c.lure_symmetric_rate is not None
    assert c.certified
    g = np.random.default_rng(seed)
    for _ in range(40):  # d/dt eᵀPe at every sampled slope matrix
        D = np.diag(g.uniform(0, 1, 4))
        M = A + D @ W
        V = -(W @ M + M.T @ W)
        worst = np.linalg.eigvals(np.linalg.solve(-W, V)).real.max()
        assert worst <= -2 * c.lure_symmetric_rate + 1e-8
    assert stability_certificate(A, W, monotone=False).method != "lure_symmetric"


def test_a_metric_is_a_change_of_units_and_can_certify_more():
    A, W = np.array([[-1.0, 8.0], [0.0, -1.0]]), 0.05 * np.eye(2)
    assert not stability_certificate(A, W).certified
    c = stability_certificate(A, W, metric=[1.0, 1000.0])
    assert c.certified
    same = stability_certificate(A, W, metric=torch.diag(torch.tensor([1.0, 1000.0])))
    assert same.rate == c.rate


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 4), monotone=st.booleans())
def test_a_full_metric_bounds_every_vertex_in_its_norm(seed, n, monotone):
    A, W = system(seed, n)
    M = np.random.default_rng(seed + 1).normal(size=(n, n))
    P = M.T @ M + 0.1 * np.eye(n)
    c = stability_certificate(A, W, 0.8, metric=P, monotone=monotone)
    C = np.linalg.cholesky(P).T
    signs = (0.0, 0.8) if monotone else (-0.8, 0.8)
    for corner in np.array(np.meshgrid(*[signs] * n)).reshape(n, -1).T:
        J = C @ (A + corner[:, None] * W) @ np.linalg.inv(C)
        assert np.linalg.eigvalsh(J + J.T)[-1] / 2 <= c.mu + 1e-8 * (1 + c.ell)
        assert np.linalg.norm(J, 2) <= c.ell * (1 + 1e-9) + 1e-9
    # units do not matter, and a diagonal matrix is the same as its weights
    scaled = stability_certificate(A, W, 0.8, metric=7 * P)
    assert scaled.mu_slope == pytest.approx(c.mu_slope, rel=1e-6, abs=1e-8)
    weights = np.exp(np.random.default_rng(seed).normal(size=n))
    near = np.diag(weights) + (1e-13 * (1 - np.eye(n)) if n > 1 else 0)
    whole, plain = stability_certificate(A, W, metric=near), stability_certificate(A, W, metric=weights)
    assert whole.mu_slope == pytest.approx(plain.mu_slope, rel=1e-8, abs=1e-8)
    assert whole.mu_small_gain == pytest.approx(plain.mu_small_gain, rel=1e-8, abs=1e-8)


def test_the_metric_of_the_search_certifies_the_sheared_system():
    A, W = np.array([[-1.0, 8.0], [0.05, -4.0]]), 0.02 * np.ones((2, 2))
    assert not stability_certificate(A, W).certified
    found = stability_certificate(A, W, dt=1e-3, metric=search_lmi(A, W).P)
    assert found.certified
    assert found.dt_certified
    assert found.lure_symmetric_rate is None


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 10))
def test_the_search_finds_pairs_that_exist(seed, n):
    """A system built around a hidden pair (P, Λ), with a fifth of the size of its matrices to spare."""
    g = np.random.default_rng(seed)
    M = g.normal(size=(n, n))
    P, lam = M @ M.T / n + 0.3 * np.eye(n), np.exp(0.7 * g.normal(size=n))
    W = g.normal(size=(n, n)) / np.sqrt(n)
    off = P + W.T * lam
    # the Schur complement -(AᵀP + PA) - ½ off Λ⁻¹ offᵀ becomes what is left over, plus a free rotation
    left = 0.5 * off @ np.diag(1 / lam) @ off.T
    K = g.normal(size=(n, n))
    A = np.linalg.solve(P, -0.5 * left - 0.1 * np.linalg.norm(left, 2) * np.eye(n) + (K - K.T))
    assert verify_lmi(A, W, P, lam).certified
    assert search_lmi(A, W).certified


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_an_lmi_that_is_certified_holds_at_every_vertex(seed):
    A, W = system(seed, 3, shift=2.5, scale=0.7)
    found = search_lmi(A, W, max_steps=60)
    again = verify_lmi(A, W, found.P, found.Lambda)
    assert again.certified == found.certified
    if found.certified:
        P = found.P.numpy()
        for bits in range(8):
            M = A + np.diag([(bits >> i) & 1 for i in range(3)]).astype(float) @ W
            V = P @ M + M.T @ P
            assert np.linalg.eigvals(np.linalg.solve(P, V)).real.max() <= -2 * found.rate + 1e-7
    else:
        assert found.residual >= 0


def test_the_search_certifies_where_norms_cannot():
    A, W = np.array([[-1.0, 20.0], [0.0, -1.0]]), np.array([[0.1, 0.0], [0.0, 0.1]])
    assert not stability_certificate(A, W).certified
    found = search_lmi(A, W)
    assert found.certified
    assert 0 < found.rate < 1


def simulate(A, sigma, noise, paths=64, dt=1e-3, steps=10_000, seed=0):
    """Top exponent of dh = A h dt + noise, exact in the scalar case up to O(dt)."""
    g = np.random.default_rng(seed)
    n = len(A)
    e = g.normal(size=(paths, n))
    total = np.zeros(paths)
    for _ in range(steps):
        xi = g.normal(size=(paths, 1 if noise == "scalar" else n)) * np.sqrt(dt)
        # Milstein: strong order 1 for diagonal noise
        e = e + dt * e @ A.T + sigma * e * xi + 0.5 * sigma**2 * e * (xi**2 - dt)
        norm = np.linalg.norm(e, axis=1, keepdims=True)
        total += np.log(norm[:, 0])
        e /= norm
    return total.mean() / (steps * dt), total.std() / (steps * dt) / np.sqrt(paths)


@pytest.mark.parametrize("noise", ["scalar", "diagonal"])
def test_simulated_exponents_lie_inside_the_stochastic_bounds(noise):
    A = system(3, 3, shift=-0.2, scale=0)[0] * 0.5
    bounds = stochastic_stability_certificate(A, np.zeros((3, 3)), noise=noise, sigma=1.0)
    measured, error = simulate(A, 1.0, noise)
    assert bounds.lower - 4 * error <= measured <= bounds.upper + 4 * error


def simulate_whole(A, W, u, sigma, noise, paths=48, dt=2e-3, steps=6000, seed=0):
    """Top exponent of the tangent of dh = f(h) dt + Σ(h) dB with f = A h + tanh(W h + u), along the solutions themselves."""
    g = np.random.default_rng(seed)
    n = len(A)
    h, e = g.normal(size=(2, paths, n))
    total = np.zeros(paths)
    for _ in range(steps):
        xi = g.normal(size=(paths, 1 if noise == "scalar" else n)) * np.sqrt(dt)
        s = np.tanh(h @ W.T + u)
        f, Je = h @ A.T + s, e @ A.T + (1 - s**2) * (e @ W.T)
        noise_h, noise_e = (f, Je) if noise == "drift" else (h, e)
        h, e = h + dt * f + sigma * noise_h * xi, e + dt * Je + sigma * noise_e * xi
        norm = np.linalg.norm(e, axis=1, keepdims=True)
        total += np.log(norm[:, 0])
        e /= norm
    return total.mean() / (steps * dt), total.std() / (steps * dt) / np.sqrt(paths)


@pytest.mark.parametrize("noise", ["scalar", "diagonal", "drift"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exponents_with_a_nonlinearity_lie_inside_the_stochastic_bounds(noise, seed):
    A, W = system(seed, 3, shift=2.0, scale=0.8)
    sigma = 0.3 if noise == "drift" else 0.9
    bounds = stochastic_stability_certificate(A, W, noise=noise, sigma=sigma)
    measured, error = simulate_whole(A, W, np.linspace(-0.5, 0.5, 3), sigma, noise)
    # four standard errors, and the first-order error of the scheme: dt times squares of the rates
    slack = 4 * error + 2e-3 * (stability_certificate(A, W).ell ** 2 + sigma**4)
    assert bounds.lower - slack <= measured <= bounds.upper + slack


def test_scalar_noise_stabilises_and_independent_noise_is_not_promised_to():
    A, W = 0.3 * np.eye(4), 0.1 * np.eye(4)
    quiet = stochastic_stability_certificate(A, W, sigma=0.0)
    c = stability_certificate(A, W)
    assert quiet.upper == pytest.approx(c.mu)
    loud = stochastic_stability_certificate(A, W, sigma=2.0)
    assert loud.upper == pytest.approx(c.mu - 2.0)
    assert loud.certified
    assert not quiet.certified
    assert stochastic_stability_certificate(A, W, noise="diagonal", sigma=2.0).upper > quiet.upper
    assert stochastic_stability_certificate(A, W, noise="drift", sigma=1.0).upper == pytest.approx(c.mu + c.ell**2 / 2)


I2 = np.eye(2)


@pytest.mark.parametrize(
    ("call", "word", "error"),
    [
        (lambda: stability_certificate(np.ones((2, 3)), I2), "A must", ValueError),
        (lambda: stability_certificate(I2, np.eye(3)), "W must", ValueError),
        (lambda: stability_certificate(I2, I2 * 1j), "W must be real", TypeError),
        (lambda: stability_certificate(I2 * np.nan, I2), "A has NaN", ValueError),
        (lambda: stability_certificate("A", I2), "A must", TypeError),
        (lambda: stability_certificate(np.zeros((0, 0)), I2), "A must", ValueError),
        (lambda: stability_certificate(I2, I2, dt=0.0), "dt", ValueError),
        (lambda: stability_certificate(I2, I2, dt=-1), "dt", ValueError),
        (lambda: stability_certificate(I2, I2, lipschitz=0), "lipschitz", ValueError),
        (lambda: stability_certificate(I2, I2, metric=[1.0, -1.0]), "metric", ValueError),
        (lambda: stability_certificate(I2, I2, metric=[[1.0, 2.0], [2.0, 1.0]]), "metric", ValueError),
        (lambda: stability_certificate(I2, I2, metric=[[1.0, 0.5], [0.2, 1.0]]), "metric", ValueError),
        (lambda: stability_certificate(I2, I2, metric=np.ones((2, 3))), "metric", ValueError),
        (lambda: stability_certificate(I2, I2, metric=np.ones((3, 3))), "metric", ValueError),
        (lambda: stability_certificate(I2, I2).contraction_factor(-0.1), "dt", ValueError),
        (lambda: verify_lmi(I2, I2, np.array([[1.0, 2.0], [0.0, 1.0]]), [1, 1]), "P must", ValueError),
        (lambda: verify_lmi(I2, I2, I2, [1.0, 0.0]), "Lambda", ValueError),
        (lambda: stochastic_stability_certificate(I2, I2, sigma=-1), "sigma", ValueError),
        (lambda: stochastic_stability_certificate(I2, I2, sigma=1, noise="white"), "noise", ValueError),
    ],
)
def test_bad_input_names_the_argument(call, word, error):
    with pytest.raises(error, match=word):
        call()


def test_the_result_becomes_json():
    import json

    json.dumps(stability_certificate(I2, I2, dt=0.1).to_dict(), allow_nan=False)


def test_layers_give_a_certificate_per_layer_and_direction():
    from gyrostat.recurrent.lipschitz import LipschitzRNN

    layer = LipschitzRNN(2, 6, 2, bidirectional=True, dtype=torch.float64)
    found = layer.certificate()
    assert list(found) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert not any(c.certified for c in found.values())  # the released defaults are not stable by construction
    stable = LipschitzRNN(2, 6, stable=0.5, init_std=5.0, dtype=torch.float64).certificate()["l0"]
    assert stable.certified
    assert stable.rate >= 0.5 - 1e-12
    assert stable.dt == 0.03
    learned = LipschitzRNN(2, 6, stable=0.5, learn_dt=True, dt=0.1, dtype=torch.float64)
    one = LipschitzRNN(2, 6, stable=0.5, dt=0.1, dtype=torch.float64)
    one.load_state_dict({k: v for k, v in learned.state_dict().items() if k != "dt_l0"})
    per_step, per_time = learned.certificate()["l0"], one.certificate()["l0"]
    assert per_step.rate == pytest.approx(0.1 * per_time.rate)
    assert per_step.dt_certified == per_time.dt_certified
    assert LipschitzRNN(2, 3, solver="cn").certificate()["l0"].dt is None
    with pytest.raises(ValueError, match="gated"):
        LipschitzRNN(2, 3, gated=True).certificate()


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, rho=st.sampled_from([0.01, 0.3, 2.0]), learn=st.booleans())
def test_a_stable_layer_stays_certified_while_it_trains(seed, rho, learn):
    from gyrostat.recurrent.lipschitz import LipschitzRNN

    draw = torch.Generator().manual_seed(seed)
    layer = LipschitzRNN(2, 6, stable=rho, init_std=3.0, learn_dt=learn, dt=0.05, dtype=torch.float64)
    layer.reset_parameters(draw)
    rule = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.randn(8, 4, 2, dtype=torch.float64, generator=draw)
    before = layer.m_w_l0.detach().clone()
    for _ in range(25):
        rule.zero_grad()
        # the states are driven outwards, against the constraint
        (-layer(x)[0].square().mean()).backward()
        rule.step()
        c = layer.certificate()["l0"]
        if not learn:
            assert c.certified, c.reason
            assert c.rate >= rho - 1e-9
        else:
            A, W = layer.A(), layer.W()
            assert stability_certificate(A, W).rate >= rho - 1e-9
    assert (layer.m_w_l0 - before).abs().max() > 0.1
