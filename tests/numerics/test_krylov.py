"""Krylov methods against dense linear algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat._errors import NonFiniteError
from gyrostat.numerics.krylov import (
    conjugate_gradient,
    lanczos,
    power_iteration,
)
from gyrostat.numerics.trace import hutchinson, hutchpp, lanczos_density


def symmetric(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    M = torch.randn(n, n, generator=g, dtype=torch.float64)
    return (M + M.T) / 2


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_lanczos_agrees_with_dense_eigenvalues_at_both_ends(n, k, seed):
    k = min(k, n)
    H = symmetric(n, seed)
    dense = torch.linalg.eigvalsh(H)
    for which, expected in (
        ("largest", dense.flip(0)[:k]),
        ("smallest", dense[:k].flip(0)),
        ("magnitude", dense[dense.abs().argsort(descending=True)][:k].sort(descending=True).values),
    ):
        got = lanczos(lambda v: H @ v, n, k, which=which, tol=1e-9)
        assert bool(got.converged.all())
        # error is quadratic in the residual for separated eigenvalues, at most linear otherwise: 1e-9 |H|
        torch.testing.assert_close(got.values, expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(20, 120), k=st.integers(1, 4), seed=st.integers(0, 99),
       which=st.sampled_from(["largest", "smallest", "both", "magnitude"]), spare=st.integers(8, 16))  # fmt: skip
def test_few_vectors_find_the_same_eigenvalues(n, k, seed, which, spare):
    g = torch.Generator().manual_seed(seed)
    M = torch.randn(n, n, dtype=torch.float64, generator=g)
    A = M + M.T
    basis = spare + (2 * k if which == "both" else k)
    held = []

    def product(v):
        held.append(v.untyped_storage().nbytes())
        return A @ v

    few = lanczos(product, n, k, which=which, basis=basis, tol=1e-9, max_steps=4000, start=A[0])
    values = torch.linalg.eigvalsh(A)
    by_size = values[values.abs().argsort(descending=True)[:k]]
    want = {"largest": values[-k:], "smallest": values[:k], "both": torch.cat([values[-k:], values[:k]]),
            "magnitude": by_size}[which]  # fmt: skip
    assert few.converged.all()
    torch.testing.assert_close(few.values, want.unique().flip(0), rtol=1e-8, atol=1e-8)
    assert (few.residuals <= 1e-9 * few.values.abs() + 1e-12 * n).all()
    # the vector handed over is a row of the basis: its storage is all there is
    assert max(held) <= basis * n * 8


def test_lanczos_finds_multiple_eigenvalues():
    H = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, -2.0], dtype=torch.float64))
    got = lanczos(lambda v: H @ v, 6, 4, which="largest")
    torch.testing.assert_close(got.values, torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    both = lanczos(lambda v: H @ v, 6, 1, which="both")
    torch.testing.assert_close(both.values, torch.tensor([3.0, -2.0], dtype=torch.float64))


def test_a_zero_operator_is_no_trouble():
    got = lanczos(lambda v: 0 * v, 5, 2)
    assert got.values.abs().max() == 0
    assert bool(got.converged.all())


def test_lanczos_that_ran_out_of_steps_says_so_with_its_residual():
    H = symmetric(200)
    got = lanczos(lambda v: H @ v, 200, 1, tol=1e-12, max_steps=6)
    assert not bool(got.converged.any())
    dense = torch.linalg.eigvalsh(H)
    # the residual bound: an eigenvalue lies within it
    assert float((dense - got.values[0]).abs().min()) <= float(got.residuals[0])


def test_power_iteration_agrees_with_lanczos_and_reports_failure():
    H = symmetric(20) + 5 * torch.eye(20, dtype=torch.float64)
    got = power_iteration(lambda v: H @ v, 20, max_steps=5000)
    assert bool(got.converged[0])
    torch.testing.assert_close(got.values, lanczos(lambda v: H @ v, 20, which="magnitude").values)
    assert not bool(power_iteration(lambda v: H @ v, 20, max_steps=2, tol=1e-12).converged[0])


def test_same_seed_same_numbers():
    H = symmetric(30)
    one, two = (lanczos(lambda v: H @ v, 30, generator=torch.Generator().manual_seed(3), max_steps=8) for _ in range(2))
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.vectors, two.vectors)


def test_trace_estimates_bracket_the_trace():
    H = symmetric(80, 4)
    exact = float(H.trace())
    for estimate in (hutchinson(lambda v: H @ v, 80, 200), hutchpp(lambda v: H @ v, 80, 150)):
        assert abs(estimate.value - exact) <= 4 * estimate.standard_error
    assert math.isnan(hutchinson(lambda v: H @ v, 80, 1).standard_error)


def test_hutchpp_is_exact_for_low_rank():
    B = symmetric(40, 1)[:, :5]
    H = B @ B.T
    assert hutchpp(lambda v: H @ v, 40, 18).value == pytest.approx(float(H.trace()), rel=1e-10)


def test_density_integrates_to_one_and_has_the_right_moments():
    H = symmetric(100, 2)
    d = lanczos_density(lambda v: H @ v, 100, probes=20, steps=60)
    assert float(torch.trapezoid(d.density, d.grid)) == pytest.approx(1.0, abs=1e-3)
    # Gauss quadrature: the moments are those of zᵀHᵏz / n, unbiased for tr Hᵏ / n; 20 probes of size 100
    second = float((d.weights * d.nodes**2).sum(1).mean())
    assert second == pytest.approx(float((H @ H).trace()) / 100, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), r=st.integers(0, 3), seed=st.integers(0, 99))
def test_conjugate_gradient_solves(n, r, seed):
    M = symmetric(n, seed)
    H = M @ M + torch.eye(n, dtype=torch.float64)
    b = torch.randn((n, r) if r else (n,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = conjugate_gradient(lambda v: H @ v, b, damping=0.5, tol=1e-12)
    expected = torch.linalg.solve(H + 0.5 * torch.eye(n, dtype=torch.float64), b)
    assert got.converged
    torch.testing.assert_close(got.x, expected, rtol=1e-7, atol=1e-9)


def test_conjugate_gradient_reports_and_refuses():
    H = torch.diag(torch.logspace(0, 6, 50, dtype=torch.float64))
    b = torch.ones(50, dtype=torch.float64)
    short = conjugate_gradient(lambda v: H @ v, b, max_steps=3)
    assert not short.converged
    assert short.residual > 1e-3
    with pytest.raises(ValueError, match="damping"):
        conjugate_gradient(lambda v: -v, b)
    assert conjugate_gradient(lambda v: H @ v, 0 * b).iterations == 0


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: lanczos(lambda v: v, 3, 4), "k"),
        (lambda: lanczos(lambda v: v, 3, which="top"), "which"),
        (lambda: lanczos(lambda v: v[:2], 3), "matvec"),
        (lambda: hutchpp(lambda v: v, 3, 2), "probes"),
        (lambda: lanczos_density(lambda v: v, 3, width=0.0), "width"),
    ],
)
def test_bad_input_names_the_argument(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(NonFiniteError, match="matvec"):
        lanczos(lambda v: v / 0, 3)
