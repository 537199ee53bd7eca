"""Operators of vector fields: the exact properties, the stored values, the lemmas."""

import pytest
import torch

from gyrostat._errors import ArgumentError, ShapeError
from gyrostat.numerics.geometry import LatentGeometry
from gyrostat.numerics.operators import (
    action_steps,
    adjoint,
    divergence,
    flow,
    flow_action,
    flux_to_operator,
    hodge,
    operator_to_flux,
    skew_matrix,
    split,
    upper_triangle,
)
from tests.conftest import load_golden

# rounding of a few products of small float64 matrices
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def close(a, b):
    torch.testing.assert_close(a, b, **CLOSE)


def golden(name):
    return {k: torch.as_tensor(v) for k, v in load_golden(name).items() if v.dtype.kind in "fib"}


def field(n=7, zero=False):
    draw = torch.Generator().manual_seed(3)
    S = torch.randn(n, n, dtype=torch.float64, generator=draw)
    S = S - S.T
    mu = torch.rand(n, dtype=torch.float64, generator=draw) + 0.3
    return (hodge(S)[0] if zero else S), mu


@pytest.mark.parametrize("zero", [False, True])
def test_exact_properties(zero):
    S, mu = field(zero=zero)
    D, one = flux_to_operator(S, mu), torch.ones(7, dtype=torch.float64)
    div = divergence(D, mu)
    close(div, S.sum(1) / mu)
    close(flux_to_operator(2 * S, mu), 2 * D)
    close(D @ one, 0 * one)
    close(mu @ D, -(mu * div))
    close(D + adjoint(D, mu), -torch.diag(div))
    close(operator_to_flux(D, mu), S)
    skew, symmetric = split(D, mu)
    close(skew + symmetric, D)
    close(symmetric, -0.5 * torch.diag(div))
    E = flow(D)
    close(E @ one, one)
    close(torch.linalg.det(E), torch.exp(-0.5 * div.sum()))
    gains = torch.linalg.svdvals(mu.sqrt()[:, None] * E / mu.sqrt())
    assert gains.max() <= torch.exp(-0.5 * div.min()) + 1e-12
    assert gains.min() >= torch.exp(-0.5 * div.max()) - 1e-12
    for method in ("expm", "cayley"):
        E = flow(D, method)
        close(E @ one, one)
        defect = (E.T @ torch.diag(mu) @ E - torch.diag(mu)).abs().max()
        assert (defect < 1e-11) if zero else (defect > 1e-2)
        assert ((mu @ E - mu).abs().max() < 1e-12) if zero else ((mu @ E - mu).abs().max() > 1e-3)


def test_fourth_order_taylor_is_not_orthogonal():
    S, mu = field(zero=True)
    D = flux_to_operator(S, mu)
    E = sum((torch.linalg.matrix_power(D, k) / f for k, f in ((1, 1), (2, 2), (3, 6), (4, 24))), torch.eye(7))
    assert (E.T @ torch.diag(mu) @ E - torch.diag(mu)).abs().max() > 1e-3


def test_hodge_and_triangle():
    S, _ = field()
    S0, u = hodge(S)
    close(S0.sum(1), torch.zeros(7, dtype=torch.float64))
    close(S0 + u[None, :] - u[:, None], S)
    close(skew_matrix(upper_triangle(S), 7), S)


def test_action_equals_the_exponential():
    S, mu = field()
    D, rows = 5 * flux_to_operator(S, mu), torch.eye(7, dtype=torch.float64)
    steps = action_steps(D.abs().sum(1).max())
    torch.testing.assert_close(flow_action(lambda r: r @ D.T, rows, steps).T, flow(D), rtol=1e-9, atol=1e-9)


def test_flow_refuses_unknown_methods():
    with pytest.raises(ArgumentError, match="method must be one of 'expm', 'cayley'"):
        flow(torch.eye(2), "rk4")


def test_ring_disperses_exactly():
    g = golden("geom_ring")
    D = flux_to_operator(g["S"], g["mu"])
    close(D, g["D"])
    close(flow(g["t"] * D) @ g["f"], g["exact"])


def test_free_geometry_matches_stored_values():
    g = golden("geom_free")
    geometry = LatentGeometry(g["G"], g["P"], g["alpha"])
    close(geometry.mu, g["mu"])
    close(geometry.div(g["V"]), g["div"])
    close(geometry.grad(g["f"]).reshape(-1), g["gradf"])
    close(geometry.div(geometry.grad(g["f"])), g["Lap"] @ g["f"])
    close(geometry.operator(g["V"]), g["D_split"])
    close(geometry.operator(g["V"], "galerkin"), g["D_galerkin"])
    close(flow(geometry.operator(g["V"])), g["E"])
    close(divergence(geometry.operator(g["V"]), geometry.mu), g["div"])


def test_only_the_split_operator_is_skew_when_the_divergence_vanishes():
    g = golden("geom_free")
    geometry = LatentGeometry(g["G"], g["P"], g["alpha"])
    V = g["V_divfree"]
    assert geometry.div(V).abs().max() < 1e-11
    assert split(geometry.operator(V), geometry.mu)[1].abs().max() < 1e-11
    assert split(geometry.operator(V, "galerkin"), geometry.mu)[1].abs().max() > 1e-2
    with pytest.raises(ArgumentError, match="form must be"):
        geometry.operator(V, "weak")
    with pytest.raises(ShapeError, match="alpha must be"):
        LatentGeometry(g["G"], g["P"], g["alpha"][1:])


def test_sphere_rotation():
    g = golden("geom_sphere_mesh")
    geometry = LatentGeometry(g["G"], g["P"], g["alpha"])
    close(geometry.operator(g["V"]), g["D_split"])
    close(geometry.operator(g["V"], "galerkin"), g["D_galerkin"])
