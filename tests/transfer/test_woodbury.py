"""The inverse curvature by blocks of classes against a factor of the whole matrix, and the choice between the two."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat._errors import ArgumentError
from gyrostat.transfer import woodbury
from gyrostat.transfer.head import (
    HeadPoint,
    contract,
    head_hessian,
    head_point,
    own_products,
    relative_residual,
    solve_cholesky,
)
from gyrostat.transfer.influence import influence_scores
from gyrostat.transfer.woodbury import memory, operations, solve_woodbury

F64 = torch.float64


def point(n, d, C, *, sure=1.0, seed=0, bias=True, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g, dtype=F64).relu()
    logits = sure * torch.randn(n, C, generator=g, dtype=F64)
    found = head_point(a, logits, torch.randint(C, (n,), generator=g), bias)
    return HeadPoint(found.a.to(dtype), found.q.to(dtype), found.p.to(dtype))


def whole(train, shift, one):
    return solve_cholesky(head_hessian(train), shift, one.gradients().T.contiguous()).x


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 30), r=st.integers(1, 9), d=st.integers(1, 20), C=st.integers(2, 6), bias=st.booleans(),
    sure=st.sampled_from([0.0, 1.0, 30.0]), own=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_factor_of_the_whole_matrix(n, r, d, C, bias, sure, own, seed):
    train = point(n, d, C, sure=sure, bias=bias, seed=seed)
    one = train if own else point(r, d, C, bias=bias, seed=seed + 1)
    found = solve_woodbury(train, 1e-2, one)
    torch.testing.assert_close(found.x, whole(train, 1e-2, one), rtol=1e-8, atol=1e-10)
    assert found.residual < 1e-10
    expected = (contract(one, found.x)).diagonal()
    torch.testing.assert_close(own_products(one, found.x), expected, rtol=1e-9, atol=1e-12)


def test_pieces_do_not_change_the_solution(monkeypatch):
    train, one = point(20, 5, 3), point(11, 5, 3, seed=1)
    expected = solve_woodbury(train, 1e-2, one).x
    monkeypatch.setattr(woodbury, "_CHUNK", 60)  # four columns
    torch.testing.assert_close(solve_woodbury(train, 1e-2, one).x, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sure", [3.0, 30.0])
def test_float32_is_corrected_where_the_model_is_sure(sure, monkeypatch):
    train = point(300, 200, 10, sure=sure, dtype=torch.float32)
    exact = whole(train.double(), 1e-4, train.double())
    found = solve_woodbury(train, 1e-4, train)
    direct = relative_residual(train, 1e-4, whole(train, 1e-4, train), train)
    monkeypatch.setattr(woodbury, "_CORRECTIONS", 0)
    bare = solve_woodbury(train, 1e-4, train)
    # as good as the factor of the whole matrix; without corrections a sure model would be ten times worse
    assert found.residual < 3 * direct
    assert float((found.x - exact).norm() / exact.norm()) < 1e-3
    assert (found.iterations > 0) == (found.residual < bare.residual)


def test_shifts_of_the_size_of_rounding_are_refused():
    train = point(10, 4, 3)
    for shift in (0.0, 1e-17):
        with pytest.raises(ArgumentError, match="l2="):
            solve_woodbury(train, shift, train)


def test_the_least_work_that_fits_is_chosen():
    # 3,200 samples and 20,490 parameters against 5,000 samples and 165
    assert operations(3200, 3200, 2049, 10)[0] < 0.5 * operations(3200, 3200, 2049, 10)[1]
    assert operations(5000, 5000, 33, 5)[0] > operations(5000, 5000, 33, 5)[1]
    g = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(60, 8, dtype=F64)
    x, y = torch.randn(50, 60, generator=g, dtype=F64), torch.randint(8, (50,), generator=g)
    found = {
        limit: influence_scores(model, (x, y), (x, y), l2=1e-2, tol=1e-11, memory_limit=limit)
        for limit in (None, 8 * memory(50, 50, 61, 8), 1.1e6)
    }
    # the matrix would take 3.4e6 bytes and this way 1.3e6; conjugate gradients 1.0e6
    assert [scores.solver for scores in found.values()] == ["woodbury", "woodbury", "cg"]
    for scores in found.values():
        torch.testing.assert_close(scores.scores, found[None].scores, rtol=1e-7, atol=1e-10)
    few, y = x[:, :2], y % 2
    assert influence_scores(torch.nn.Linear(2, 2, dtype=F64), (few, y), (few, y), l2=1e-2).solver == "cholesky"
