"""The vector-field RNN: golden values and gradients, orthogonality, gains, all modes learn to copy."""

import pytest
import torch
from torch import nn

from gyrostat import OrthogonalRNN, VectorFieldRNN, VectorFieldRNNCell
from tests.conftest import load_golden

TOL = {"rtol": 1e-11, "atol": 1e-12}  # one matrix exponential and 8 steps in float64
MODES = [("flux", "free"), ("flux", "zero"), ("flux", "none"), ("pairs", "free"), ("pairs", "zero"), ("hodge", "free"),
         ("hodge", "zero")]  # fmt: skip
close = torch.testing.assert_close


@pytest.mark.parametrize("name", ["geom_graph_divfree_tanh", "geom_graph_modrelu"])
def test_golden(name):
    g = {k: (torch.as_tensor(v) if v.dtype.kind == "f" else v) for k, v in load_golden(name).items()}
    n, m = g["U"].shape
    layer = VectorFieldRNN(m, n, nonlinearity=str(g["act"]), learn_mass=True, dtype=torch.float64)
    own = {"weight_ih_l0": "U", "bias_l0": "bias", "flux_l0": "flux", "theta_mu_l0": "theta_mu"}
    layer.load_state_dict({ours: g[theirs] for ours, theirs in own.items()})
    x, h0 = g["input"].clone().requires_grad_(), g["h0"][None].clone().requires_grad_()
    h, _ = layer(x, h0)
    close(layer.operator(), g["D"], **TOL)
    close(layer.divergence(), g["div"], **TOL)
    close(h, g["h"], **TOL)
    loss = (h * g["R"]).sum()
    close(loss, g["loss"], **TOL)
    loss.backward()
    for ours, theirs in own.items():
        close(getattr(layer, ours).grad, g[f"grad/{theirs}"], rtol=1e-9, atol=1e-10)
    close(x.grad, g["grad/input"], rtol=1e-9, atol=1e-10)
    close(h0.grad[0], g["grad/h0"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("parameterization", "divergence"), MODES)
@pytest.mark.parametrize("flow", ["expm", "cayley"])
def test_divergence_zero_keeps_the_norm(parameterization, divergence, flow):
    layer = VectorFieldRNN(2, 6, parameterization=parameterization, divergence=divergence, flow=flow, bias=False,
                           nonlinearity="identity", learn_mass=divergence != "none", dtype=torch.float64)  # fmt: skip
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    mu = layer.mass().detach()
    h0 = torch.randn(1, 3, 6, dtype=torch.float64)
    _, h = layer(torch.zeros(4, 3, 2, dtype=torch.float64), h0)
    gain = ((h**2 * mu).sum(-1) / (h0**2 * mu).sum(-1)).sqrt()
    if divergence == "free":
        assert (gain - 1).abs().max() > 1e-3
        if flow == "expm":
            low, high = layer.gain_bounds(steps=4)
            assert low * (1 - 1e-9) <= gain.min()
            assert gain.max() <= high * (1 + 1e-9)
    else:
        close(gain, torch.ones_like(gain), rtol=1e-10, atol=1e-10)
        assert float(layer.divergence_penalty().detach()) < 1e-20


def test_none_equals_the_orthogonal_rnn():
    ours = VectorFieldRNN(2, 5, divergence="none", dtype=torch.float64)
    theirs = OrthogonalRNN(2, 5, dtype=torch.float64)
    theirs.load_state_dict({k.replace("flux", "skew"): v for k, v in ours.state_dict().items()})
    x = torch.randn(6, 3, 2, dtype=torch.float64)
    close(ours(x)[0], theirs(x)[0], **TOL)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_pairs_represent_every_field(n):
    layer = VectorFieldRNN(1, n, parameterization="pairs", dtype=torch.float64)
    p = {k: v.detach() for k, v in layer.parameters_of().items()}
    pairs = {k: p[k] for k in ("pairs_a", "pairs_b")}
    jacobian = torch.func.jacrev(lambda q: layer.cells[0].flux({**p, **q}))(pairs)
    J = torch.cat([j.flatten(0, 1).flatten(1) for j in jacobian.values()], 1)
    assert torch.linalg.matrix_rank(J) == n * (n - 1) // 2  # the map onto the fluxes is open here


@pytest.mark.parametrize("flow", ["expm", "cayley", "expmv"])
def test_steps_of_their_own(flow):
    layer = VectorFieldRNN(2, 5, flow=flow, dtype=torch.float64)
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    whole = layer(x, dt=0.3)[0]
    close(layer(x, dt=torch.full((4,), 0.3, dtype=torch.float64))[0], whole, rtol=1e-11, atol=1e-12)
    close(layer(x, dt=torch.full((3, 4), 0.3, dtype=torch.float64))[0], whole, rtol=1e-11, atol=1e-12)


def test_action_equals_the_matrix():
    layer = VectorFieldRNN(2, 5, dtype=torch.float64)
    other = VectorFieldRNN(2, 5, flow="expmv", dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    close(other(x)[0], layer(x)[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("parameterization", "divergence"), MODES)
def test_gradients(parameterization, divergence):
    cell = VectorFieldRNNCell(2, 4, parameterization=parameterization, divergence=divergence, nonlinearity="tanh",
                              learn_mass=True, dtype=torch.float64)  # fmt: skip
    names = [n for n, _ in cell.named_parameters()]
    x, h = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    values = [p.detach().clone().requires_grad_() for p in cell.parameters()]

    def run(*values):
        return torch.func.functional_call(cell, dict(zip(names, values)), (x, h))

    assert torch.autograd.gradcheck(run, values)


def test_two_rates_and_refusals():
    layer = VectorFieldRNN(2, 4, learn_mass=True)
    rest, operator = layer.parameter_groups(1e-3)
    assert operator["lr"] == pytest.approx(1e-4)
    assert len(rest["params"]) == 2
    assert {id(p) for p in operator["params"]} == {id(layer.flux_l0), id(layer.theta_mu_l0)}
    with pytest.raises(ValueError, match="divergence='none' needs"):
        VectorFieldRNN(2, 4, parameterization="hodge", divergence="none")
    with pytest.raises(ValueError, match="needs flow"):
        VectorFieldRNN(2, 4, flow="cayley").gain_bounds()


@pytest.mark.slow
@pytest.mark.parametrize(("parameterization", "divergence"), MODES)
def test_copy(parameterization, divergence):
    torch.manual_seed(1)
    layer = VectorFieldRNN(10, 64, parameterization=parameterization, divergence=divergence)
    read = nn.Linear(64, 9)
    groups = [*layer.parameter_groups(1e-3), {"params": read.parameters(), "lr": 1e-3}]
    optimiser = torch.optim.RMSprop(groups)
    loss = torch.zeros(())
    for _ in range(300):
        symbols = torch.randint(1, 9, (5, 32))
        source = torch.zeros(40, 32, dtype=torch.long)
        source[:5], source[34] = symbols, 9
        target = torch.zeros(40, 32, dtype=torch.long)
        target[35:] = symbols
        logits = read(layer(nn.functional.one_hot(source, 10).float())[0])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.13  # without memory: 5 ln 8 / 40 = 0.26
