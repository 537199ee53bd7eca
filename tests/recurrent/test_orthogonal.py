"""Orthogonal RNN: the stored Cayley model, orthogonality of all forms, the base point of dtriv."""

import pytest
import torch

from gyrostat import OrthogonalRNN, OrthogonalRNNCell
from gyrostat._errors import ArgumentError
from gyrostat.testing.cells import check_cell
from tests.conftest import load_golden

# rounding of a few products of small float64 matrices
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
F64 = torch.float64
FORMS = ("exp", "cayley", "dtriv")


def close(a, b):
    torch.testing.assert_close(a, b, **CLOSE)


def test_stored_cayley_values_and_gradients():
    g = {k: torch.as_tensor(v) for k, v in load_golden("lipschitz_cayley").items() if v.dtype.kind == "f"}
    own = {k.removeprefix("param/"): v for k, v in g.items() if k.startswith("param/")}
    layer = OrthogonalRNN.from_released(own, batch_first=True)
    x = g["x"].requires_grad_()
    output, last = layer(x)
    close(output, g["h_all"])
    y = last[0] @ own["D.weight"].T + own["D.bias"]
    close(y, g["y"])
    (y * g["R"]).sum().backward()
    close(x.grad, g["grad_x"])
    close(layer.weight_ih_l0.grad, g["grad/E.weight"])
    close(layer.bias_l0.grad, g["grad/E.bias"])
    # K = 2 (C - Cᵀ): the chain rule to C
    rows, columns = torch.triu_indices(6, 6, 1)
    close(2 * layer.skew_l0.grad, g["grad/C"][rows, columns])
    close(-2 * layer.skew_l0.grad, g["grad/C"][columns, rows])


def test_released_names_round_trip():
    g = {k: torch.as_tensor(v) for k, v in load_golden("lipschitz_cayley").items() if k.startswith("param/")}
    own = {k.removeprefix("param/"): v for k, v in g.items()}
    layer = OrthogonalRNN.from_released(own)
    back = layer.to_released()
    # only the skew half of C acts
    close(back["C"], 0.5 * (own["C"] - own["C"].T))
    assert torch.equal(back["E.weight"], own["E.weight"])
    close(OrthogonalRNN.from_released(back).W(), layer.W())
    for other in (OrthogonalRNN(3, 4), OrthogonalRNN(3, 4, 2, parameterization="cayley"),
                  OrthogonalRNN(3, 4, parameterization="cayley", negative_signs=2)):  # fmt: skip
        with pytest.raises(ArgumentError, match="to_released"):
            other.to_released()


def test_signs_reach_what_cayley_cannot():
    layer = OrthogonalRNN(2, 5, parameterization="cayley", negative_signs=3, dtype=F64)
    assert layer.signs_l0.tolist() == [-1, -1, -1, 1, 1]
    W = layer.W()
    close(W @ W.T, torch.eye(5, dtype=F64))
    assert torch.linalg.det(W) < 0
    plain = OrthogonalRNN(2, 5, parameterization="cayley", dtype=F64)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "signs_l0"})
    close(plain.W() @ torch.diag(layer.signs_l0), W)
    for options in ({"parameterization": "exp"}, {"parameterization": "cayley", "negative_signs": 6}):
        with pytest.raises(ArgumentError, match="negative_signs"):
            OrthogonalRNN(2, 5, **{"negative_signs": 1, **options})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("init", ["henaff", "cayley"])
def test_orthogonal_before_and_after_a_step(form, init):
    layer = OrthogonalRNN(3, 7, parameterization=form, init=init, num_layers=2, bidirectional=True, dtype=F64)
    rule = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.01)
    layer(torch.randn(5, 2, 3, dtype=F64))[0].square().sum().backward()
    before = layer.W(1, reverse=True).detach().clone()
    rule.step()
    assert not torch.equal(before, layer.W(1, reverse=True))
    for k in range(2):
        for reverse in (False, True):
            W = layer.W(k, reverse)
            close(W @ W.T, torch.eye(7, dtype=F64))


def test_rebase_moves_the_base_and_not_the_matrix():
    layer = OrthogonalRNN(3, 6, parameterization="dtriv", dtype=F64)
    with torch.no_grad():
        layer.skew_l0.normal_()
    before, base = layer.W().clone(), layer.base_l0.clone()
    layer.rebase()
    close(layer.W(), before)
    assert not torch.allclose(base, layer.base_l0)
    assert layer.skew_l0.abs().max() == 0


def test_the_base_of_dtriv_is_a_buffer():
    layer = OrthogonalRNN(3, 6, parameterization="dtriv", num_layers=2, bidirectional=True)
    assert not [k for k, _ in layer.named_parameters() if k.startswith("base")]
    assert {k for k in layer.state_dict() if k.startswith("base")} == {
        f"base_l{k}{end}" for k in (0, 1) for end in ("", "_reverse")
    }
    other = OrthogonalRNN(3, 6, parameterization="dtriv", num_layers=2, bidirectional=True)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.W(1, reverse=True), layer.W(1, reverse=True))
    assert [k for k, _ in OrthogonalRNNCell(3, 6, parameterization="dtriv").named_buffers()] == ["base"]


@pytest.mark.parametrize("form", FORMS)
def test_gradients_through_the_layer(form):
    layer = OrthogonalRNN(2, 4, parameterization=form, nonlinearity="tanh", dtype=F64)
    names = [k for k, p in layer.named_parameters() if p.requires_grad]
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))[0]

    own = [p.detach().clone().requires_grad_() for p in layer.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(run, (x, *own))


@pytest.mark.parametrize("nonlinearity", ["modrelu", "tanh", "relu", "identity"])
def test_identity_matrix_gives_the_activation(nonlinearity):
    cell = OrthogonalRNNCell(2, 2, nonlinearity=nonlinearity, dtype=F64)
    with torch.no_grad():
        cell.skew.zero_()
        cell.weight_ih.copy_(torch.eye(2))
        cell.bias.fill_(-0.5)
    x = torch.tensor([[2.0, -0.25]], dtype=F64)
    want = {
        "modrelu": torch.tensor([[1.5, 0.0]], dtype=F64),
        "tanh": torch.tanh(x - 0.5),
        "relu": torch.tensor([[1.5, 0.0]], dtype=F64),
        "identity": x - 0.5,
    }
    close(cell(x), want[nonlinearity])


def test_conformance_and_arguments():
    check_cell("orthogonal")
    with pytest.raises(ArgumentError, match="did you mean 'cayley'"):
        OrthogonalRNN(2, 3, parameterization="caley")
