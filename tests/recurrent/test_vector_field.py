"""Vector-field RNN: stored values and gradients, the gain bounds, the parameterisations."""

import pytest
import torch

from gyrostat import OrthogonalRNN, VectorFieldRNN
from gyrostat._errors import ArgumentError
from gyrostat.recurrent.vector_field import VectorFieldRNNMath
from gyrostat.testing.cells import check_cell
from tests.conftest import load_golden

# rounding of a few products of small float64 matrices
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
F64 = torch.float64


def close(a, b):
    torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", ["geom_graph_divfree_tanh", "geom_graph_modrelu"])
def test_stored_values_and_gradients(name):
    raw = load_golden(name)
    g = {k: torch.as_tensor(v) for k, v in raw.items() if v.dtype.kind == "f"}
    n, m = g["U"].shape
    layer = VectorFieldRNN(m, n, nonlinearity=str(raw["act"]), learn_mass=True, dtype=F64)
    pairs = {"weight_ih_l0": "U", "bias_l0": "bias", "flux_l0": "flux", "theta_mu_l0": "theta_mu"}
    layer.load_state_dict({k: g[v] for k, v in pairs.items()})
    close(layer.operator(), g["D"])
    close(layer.divergence(), g["div"])
    close(layer.mass(), g["mu"])
    close(layer.W(), g["E_expm"])
    cayley = VectorFieldRNN(m, n, learn_mass=True, flow="cayley", dtype=F64)
    cayley.load_state_dict(layer.state_dict())
    close(cayley.W(), g["E_cayley"])
    x, h0 = g["input"].requires_grad_(), g["h0"].requires_grad_()
    output, _ = layer(x, h0[None])
    close(output, g["h"])
    loss = (output * g["R"]).sum()
    close(loss, g["loss"])
    loss.backward()
    for key, stored in pairs.items():
        close(getattr(layer, key).grad, g[f"grad/{stored}"])
    close(x.grad, g["grad/input"])
    close(h0.grad, g["grad/h0"])


@pytest.mark.parametrize("options", [{}, {"parameterization": "hodge"}, {"divergence": "none"}, {"learn_mass": True}])
def test_starts_without_divergence(options):
    layer = VectorFieldRNN(3, 8, dtype=F64, **options)
    close(layer.W().T @ layer.W(), torch.eye(8, dtype=F64))


@pytest.mark.parametrize("parameterization", ["flux", "pairs", "hodge"])
def test_zero_divergence_stays_zero(parameterization):
    layer = VectorFieldRNN(
        3, 8, parameterization=parameterization, divergence="zero", learn_mass=True, num_layers=2, dtype=F64
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    for k in range(2):
        close(layer.divergence(k), torch.zeros(8, dtype=F64))
        E, mu = layer.W(k), layer.mass(k)
        torch.testing.assert_close(E.T @ torch.diag(mu) @ E, torch.diag(mu), rtol=1e-9, atol=1e-9)
    assert layer.divergence_penalty() < 1e-20


def test_no_divergence_with_unit_mass_is_the_orthogonal_rnn():
    ours, theirs = VectorFieldRNN(3, 6, divergence="none", dtype=F64), OrthogonalRNN(3, 6, dtype=F64)
    theirs.load_state_dict({"weight_ih_l0": ours.weight_ih_l0, "bias_l0": ours.bias_l0, "skew_l0": 0.5 * ours.flux_l0})
    x = torch.randn(9, 2, 3, dtype=F64)
    close(ours(x)[0], theirs(x)[0])


def test_pairs_reach_every_field():
    n = 7
    cell = VectorFieldRNNMath(1, n, parameterization="pairs")
    p = {k: torch.randn(s, dtype=F64) for k, s in cell.parameter_shapes().items()}

    def flux(a, b):
        S = cell.skew_flux({**p, "pairs_a": a, "pairs_b": b})
        return S[tuple(torch.triu_indices(n, n, 1))]

    a, b = p["pairs_a"], p["pairs_b"]
    direct = 0.5 * ((a[:, :, None] + a[:, None, :]) * (b[:, None, :] - b[:, :, None])).sum(0)
    close(flux(a, b), direct[tuple(torch.triu_indices(n, n, 1))])
    # the differential of the parameterisation has full rank at a generic point
    jacobians = torch.autograd.functional.jacobian(flux, (a, b))
    rank = torch.linalg.matrix_rank(torch.cat([j.flatten(1) for j in jacobians], 1))
    assert rank == n * (n - 1) // 2


def test_gain_over_many_steps_stays_between_the_bounds():
    layer = VectorFieldRNN(2, 6, nonlinearity="identity", bias=False, learn_mass=True, dtype=F64)
    with torch.no_grad():
        layer.flux_l0.normal_()
        layer.theta_mu_l0.normal_()
    h, mu, steps = torch.randn(1, 1, 6, dtype=F64, requires_grad=True), layer.mass().detach(), 5
    _, last = layer(torch.zeros(steps, 1, 2, dtype=F64), h)
    low, high = (float(v.detach()) ** steps for v in layer.gain_bounds())
    gain = float(((last.square() * mu).sum().sqrt() / (h.square() * mu).sum().sqrt()).detach())
    assert low <= gain <= high
    seed = torch.randn_like(last)
    (back,) = torch.autograd.grad(last, h, seed)
    assert low <= float((back.square() / mu).sum().sqrt() / (seed.square() / mu).sum().sqrt()) <= high


def test_action_equals_the_matrix():
    whole, action = VectorFieldRNN(3, 8, dtype=F64), VectorFieldRNN(3, 8, flow="expmv", dtype=F64)
    action.load_state_dict(whole.state_dict())
    x = torch.randn(6, 2, 3, dtype=F64)
    torch.testing.assert_close(action(x)[0], whole(x)[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("parameterization", ["flux", "pairs", "hodge"])
@pytest.mark.parametrize("flow", ["expm", "cayley", "expmv"])
def test_gradients_through_the_layer(parameterization, flow):
    layer = VectorFieldRNN(
        2, 4, nonlinearity="tanh", parameterization=parameterization, flow=flow, learn_mass=True, dtype=F64
    )
    names = [k for k, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))[0]

    assert torch.autograd.gradcheck(run, (x, *[p.detach().clone().requires_grad_() for p in layer.parameters()]))


def test_small_sizes_and_bad_arguments():
    for parameterization in ("flux", "pairs", "hodge"):
        assert VectorFieldRNN(1, 1, parameterization=parameterization)(torch.zeros(2, 1, 1))[0].shape == (2, 1, 1)
    with pytest.raises(ArgumentError, match="parameterization must be 'flux'"):
        VectorFieldRNN(1, 3, parameterization="hodge", divergence="none")
    with pytest.raises(ArgumentError, match="flow must be one of"):
        VectorFieldRNN(1, 3, flow="taylor")


def test_conformance():
    check_cell("vector_field")


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["none", "zero", "free", "penalty"])
def test_copies_over_thirty_steps(divergence):
    """A model without memory has loss 5 ln 8 / 40 = 0.26."""
    draw = torch.Generator().manual_seed(1)
    layer = VectorFieldRNN(10, 64, divergence=divergence)
    layer.reset_parameters(draw)
    head = torch.nn.Linear(64, 9)
    slow = [p for k, p in layer.named_parameters() if k.startswith("flux")]
    rest = [p for k, p in layer.named_parameters() if not k.startswith("flux")] + list(head.parameters())
    rule = torch.optim.RMSprop([{"params": rest, "lr": 1e-3}, {"params": slow, "lr": 1e-4}], alpha=0.9)
    losses = []
    for _ in range(300):
        symbols = torch.randint(1, 9, (5, 32), generator=draw)
        tokens, target = torch.zeros(40, 32, dtype=torch.long), torch.zeros(40, 32, dtype=torch.long)
        tokens[:5], tokens[34], target[35:] = symbols, 9, symbols
        output, _ = layer(torch.nn.functional.one_hot(tokens, 10).float())
        task = torch.nn.functional.cross_entropy(head(output).flatten(0, 1), target.flatten())
        loss = task + 0.1 * layer.divergence_penalty() if divergence == "penalty" else task
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(float(task.detach()))
    assert sum(losses[-10:]) / 10 < 0.13
