"""The orthogonal RNN: its matrix is orthogonal in every parameterization, and a new base keeps the function."""

import pytest
import torch

from gyrostat import OrthogonalRNN

close = torch.testing.assert_close


@pytest.mark.parametrize("parameterization", ["exp", "cayley", "dtriv"])
@pytest.mark.parametrize("init", ["henaff", "cayley"])
def test_orthogonal(parameterization, init):
    layer = OrthogonalRNN(2, 7, parameterization=parameterization, init=init, dtype=torch.float64)
    W = layer.W()
    close(W @ W.T, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-12)


def test_cayley_is_the_published_formula():
    layer = OrthogonalRNN(2, 4, parameterization="cayley", negative_ones=1, dtype=torch.float64)
    with torch.no_grad():
        layer.skew_l0.normal_()
    i, j = torch.triu_indices(4, 4, 1)
    A = torch.zeros(4, 4, dtype=torch.float64)
    A[i, j] = layer.skew_l0.detach()
    A = A - A.T
    eye = torch.eye(4, dtype=torch.float64)
    J = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    close(layer.W(), torch.linalg.inv(eye + A) @ (eye - A) @ J, rtol=1e-12, atol=1e-12)
    assert torch.linalg.det(layer.W()) < 0


def test_rebase_keeps_the_function():
    layer = OrthogonalRNN(2, 5, 2, parameterization="dtriv", bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 3, 2, dtype=torch.float64)
    before = layer(x)[0]
    layer.rebase()
    close(layer(x)[0], before, rtol=1e-10, atol=1e-12)
    assert float(layer.skew_l1_reverse.detach().abs().max()) == 0
    again = OrthogonalRNN(2, 5, 2, parameterization="dtriv", bidirectional=True, dtype=torch.float64)
    again.load_state_dict(layer.state_dict())
    close(again(x)[0], before, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="dtriv"):
        OrthogonalRNN(2, 5).rebase()
