"""Layers that contain others, and the orders in which the Noisy RNN approaches its stochastic differential equation."""

import numpy as np
import pytest
import torch

from gyrostat import AntisymmetricRNN, LipschitzRNN, NoisyRNN

F64 = {"dtype": torch.float64}


def outputs(*layers):
    x = torch.randn(6, 3, 2, **F64)
    return [layer(x)[0] for layer in layers]


def test_lipschitz_without_its_linear_part_is_antisymmetric():
    plain = AntisymmetricRNN(2, 5, dt=0.1, gamma=0.02, **F64)
    layer = LipschitzRNN(2, 5, dt=0.1, alpha=0.0, beta_w=1.0, gamma_w=0.02, **F64)
    layer.load_state_dict({**layer.state_dict(), **plain.state_dict()})
    # alpha A h adds exact zeros
    torch.testing.assert_close(*outputs(layer, plain), rtol=1e-14, atol=1e-14)


def test_noisy_in_evaluation_is_lipschitz_with_its_own_steps():
    noisy = NoisyRNN(2, 5, learn_dt=True, additive_noise=1.0, multiplicative_noise=1.0, **F64).eval()
    with torch.no_grad():
        noisy.dt_l0.uniform_(0.05, 0.3)
    layer = LipschitzRNN(2, 5, learn_dt=True, **F64)
    layer.load_state_dict(noisy.state_dict())
    assert torch.equal(*outputs(noisy, layer))


def test_an_open_gate_is_no_gate():
    layer = LipschitzRNN(2, 5, dt=0.1, **F64)
    gated = LipschitzRNN(2, 5, dt=0.1, gated=True, **F64)
    gated.load_state_dict({**gated.state_dict(), **layer.state_dict()})
    with torch.no_grad():
        gated.bias_gate_l0.fill_(60.0)  # 1 - σ̂(60) is below the rounding of 1
    torch.testing.assert_close(*outputs(gated, layer), rtol=1e-14, atol=1e-14)


def ends(layer, path, steps):
    """States at time 1 of Euler-Maruyama with ``steps`` steps along one Brownian path ``(N, B, H)`` of N increments."""
    N, B, H = path.shape
    dt = 1 / steps
    dW = path.reshape(steps, N // steps, B, H).sum(1)  # (T, B, H)
    cell = layer.cells[0]
    # dt f + (σ1 + σ2 f) dW as the layer takes injected draws: dt (factor f) + additive
    noise = (cell.additive_noise * dW, 1 + cell.multiplicative_noise * dW / dt)
    start = torch.ones(1, B, H, **F64)
    return layer(torch.ones(steps, B, 2, **F64), start, dt=dt, noise=noise)[1][0]


@pytest.mark.parametrize(
    ("additive", "multiplicative", "strong"), [(0.5, 0.0, 1.0), (0.3, 0.8, 0.5)], ids=["additive", "multiplicative"]
)
def test_euler_maruyama_has_its_strong_and_weak_order(additive, multiplicative, strong):
    layer = NoisyRNN(2, 3, additive_noise=additive, multiplicative_noise=multiplicative, init_std=3.0, **F64)
    B, N, grid = 4000, 1024, np.array([8, 16, 32, 64])
    path = torch.randn(N, B, 3, **F64) / N**0.5
    with torch.no_grad():
        exact = ends(layer, path, N)
        found = [ends(layer, path, int(n)) for n in grid]
    errors = [(f - exact).norm(dim=1).mean().item() for f in found]
    slope = -np.polyfit(np.log(grid), np.log(errors), 1)[0]
    # the reference has an error of its own, a sixteenth (a quarter) of the smallest one measured
    assert strong - 0.15 < slope < strong + 0.25, (slope, errors)
    if multiplicative == 0:
        differences = [f.square().sum(1) - exact.square().sum(1) for f in found]
        biases = [d.mean().abs().item() for d in differences]
        assert all(d.std() / B**0.5 < 0.05 * b for d, b in zip(differences, biases, strict=True))
        weak = -np.polyfit(np.log(grid), np.log(biases), 1)[0]
        assert 0.8 < weak < 1.25, (weak, biases)
