"""Operators of vector fields: the exact statements, on random fluxes and masses, and golden arrays."""

import numpy as np
import pytest
import torch

from gyrostat.numerics import operators as op
from tests.conftest import load_golden

TOL = {"rtol": 1e-12, "atol": 1e-12}  # exact identities in float64, n <= 16
close = torch.testing.assert_close


def field(n, seed=0, free=True):
    g = torch.Generator().manual_seed(seed)
    S = op.skew(torch.randn(n * (n - 1) // 2, dtype=torch.float64, generator=g), n)
    mu = n * torch.softmax(torch.randn(n, dtype=torch.float64, generator=g) / 3, 0)  # ‖exp D‖ stays moderate
    return (S if free else op.hodge(S)[0]), mu


@pytest.mark.parametrize("n", [3, 4, 7])
def test_divergence_is_the_symmetric_part(n):
    S, mu = field(n)
    D = op.flux_to_operator(S, mu)
    div = S.sum(-1) / mu
    zero = torch.zeros(n, dtype=torch.float64)
    close(D.sum(-1), zero, **TOL)
    close(mu @ D, -mu * div, **TOL)
    close(op.divergence(D, mu), div, **TOL)
    close(D + op.adjoint(D, mu), -torch.diag(div), **TOL)
    close(op.split(D, mu)[1], -torch.diag(div) / 2, **TOL)
    close(op.operator_to_flux(D, mu), S, **TOL)
    E = op.flow(D)
    close(E.sum(-1), torch.ones_like(mu), rtol=0, atol=1e-13 * float(E.abs().sum(-1).max()) * n)
    close(torch.det(E), torch.exp(-div.sum() / 2), rtol=1e-10, atol=0)
    r = mu.sqrt()
    gains = torch.linalg.svdvals(r[:, None] * E / r[None, :])
    low, high = op.gain_bounds(div)
    assert low - 1e-12 <= gains.min()
    assert gains.max() <= high + 1e-12


@pytest.mark.parametrize("method", ["expm", "cayley"])
def test_orthogonal_if_and_only_if_divergence_free(method):
    for free in (False, True):
        S, mu = field(6, free=free)
        E = op.flow(op.flux_to_operator(S, mu), method)
        defect = (op.adjoint(E, mu) @ E - torch.eye(6, dtype=torch.float64)).abs().max()
        assert defect > 1e-2 if free else defect < 1e-12
        kept = (mu @ E - mu).abs().max()
        assert kept > 1e-2 if free else kept < 1e-12


def test_series_is_not_orthogonal():
    S, mu = field(6, free=False)
    E = op.taylor(op.flux_to_operator(S, mu), 4)
    assert (op.adjoint(E, mu) @ E - torch.eye(6, dtype=torch.float64)).abs().max() > 1e-3


def test_hodge_and_complement():
    S, mu = field(5)
    S0, u = op.hodge(S)
    close(S0.sum(-1), torch.zeros_like(u), **TOL)
    close(S0 + u[None] - u[:, None], S, **TOL)
    Q = op.complement(mu)
    close(Q.T @ Q, torch.eye(4, dtype=torch.float64), **TOL)
    close(Q.T @ mu.sqrt(), torch.zeros(4, dtype=torch.float64), **TOL)
    close(op.skew(op.upper(S), 5), S, **TOL)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_action_equals_the_exponential(layout):
    S, mu = field(7)
    D = 2 * op.flux_to_operator(S, mu)
    h = torch.randn(3, 7, dtype=torch.float64)
    given = D if layout == "dense" else D.to_sparse()
    close(op.expm_action(given, h), h @ op.flow(D).T, rtol=1e-10, atol=1e-10)  # ‖exp D‖ is up to 1e2


def test_ring_moves_a_wave():
    g = {k: torch.as_tensor(v) for k, v in load_golden("geom_ring").items()}
    D = op.flux_to_operator(g["S"], g["mu"])
    close(D, g["D"], **TOL)
    close(op.flow(g["t"] * D) @ g["f"], g["exact"], **TOL)


def test_galerkin_operator_is_not_skew_but_the_split_one_is():
    g = {k: torch.as_tensor(v) for k, v in load_golden("geom_free").items()}
    sym = [(op.split(g[k], g["mu"])[1]).abs().max() for k in ("D_split_divfree", "D_galerkin_divfree")]
    assert sym[0] < 1e-12
    assert sym[1] > 1e-2
    close(op.divergence(g["D_split"], g["mu"]), g["div"], **TOL)
    close(op.flow(g["D_split"]), g["E"], **TOL)


def test_flow_refuses():
    with pytest.raises(ValueError, match="method must be one of"):
        op.flow(torch.eye(2), "exp")
    with pytest.raises(RuntimeError, match="square"):
        op.flow(torch.ones(2, 3))
    assert np.isclose(op.gain_bounds(torch.tensor([1.0, -1.0]), 2)[1], np.e)
