"""The unit of the matrix changes nothing but the unit of the answer; what float64 cannot square is refused."""

import warnings

import numpy as np
import pytest

from gyrostat import SketchWarning, bootstrap_error, sketched_svd, svd
from gyrostat._errors import ArgumentError, DataError
from gyrostat.sketch.delta import delta_error
from gyrostat.sketch.exact import exact_svd
from tests.sketch.matrices import polynomial

A = polynomial(3000, 20)[0]
WAYS = {
    "to tolerance": lambda M: svd(M, 2, 0.3),
    "exact": lambda M: exact_svd(M, 2),
    "Gram matrix": lambda M: exact_svd(np.tile(M, (5, 1)), 2),
    "gaussian": lambda M: sketched_svd(M, 2, 200),
    "length": lambda M: sketched_svd(M, 2, 200, "length"),
    "refined": lambda M: sketched_svd(M, 2, 200, refine=6),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unit", [1e-170, 1e-300, 1e170])
def test_squares_beyond_float64_are_refused(way, unit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SketchWarning)
        with pytest.raises(DataError, match="divide A by its largest entry first"):
            WAYS[way](A * unit)


@pytest.mark.parametrize(("power", "unit"), [(1, 1e-60), (2, 1e40)])
def test_powers_beyond_float64_are_refused(power, unit):
    with pytest.raises(DataError, match=f"to the power {2 * power + 1}"):
        sketched_svd(A * unit, 2, 200, power=power)


def test_a_matrix_of_zeros_is_no_faint_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SketchWarning)
        for way in WAYS.values():
            assert not way(A * 0).s.any()


def test_rows_that_were_not_drawn_are_missed_aloud():
    lonely = np.zeros((30_000, 20))
    lonely[0] = 1.0
    with pytest.warns(SketchWarning, match="all rows that were drawn are zero"):
        sketched_svd(lonely, 2, 200, "uniform")


@pytest.mark.parametrize("unit", [1e-100, 3.0, 1e100])
@pytest.mark.parametrize("method", ["gaussian", "countsketch", "length"])
def test_bounds_have_the_unit_of_the_matrix(method, unit):
    one, other = (sketched_svd(M, 2, 200, method) for M in (A, A * unit))
    here, there = (bootstrap_error(r, k=2, subspace=(1,), quiet=True) for r in (one, other))
    assert here.resolved == there.resolved
    for m, scale in {"values": unit, "left": 1.0, "right": 1.0}.items():
        np.testing.assert_allclose(there.per_component[m], here.per_component[m] * scale, rtol=1e-9)
    np.testing.assert_allclose(there.subspace[1], here.subspace[1], rtol=1e-9)
    for m, bound in delta_error(one, 2).items():
        np.testing.assert_allclose(delta_error(other, 2)[m], bound * (unit if m == "values" else 1.0), rtol=1e-9)


@pytest.mark.parametrize("way", ["sketch", "dense", "Gram matrix"])
def test_vectors_beyond_the_rank_are_said_to_be_undetermined(way):
    rng = np.random.default_rng(0)
    low = rng.standard_normal((20_000, 2)) @ np.diag([2.0, 1.0]) @ rng.standard_normal((2, 30))
    ways = {
        "sketch": lambda: svd(low, 4, 0.2),
        "dense": lambda: exact_svd(low[:500], 4),
        "Gram matrix": lambda: exact_svd(low, 4),
    }
    with pytest.warns(SketchWarning, match="rank 2 to rounding"):
        bounds = ways[way]().bounds
    assert bounds.simultaneous["right"] < 0.2
    for m in ("left", "right"):
        assert list(bounds.per_component[m] == 1.0) == [False, False, True, True]
    assert bounds.resolved[2:] == ("unresolved", "unresolved")


def test_one_replicate_is_its_own_quantile_and_exact_factors_bound_no_more_than_they_have():
    found = sketched_svd(A, 2, 200)
    rows = np.random.default_rng(0).integers(0, 200, (3, 200))
    one = bootstrap_error(found, k=2, boot_idx=rows[:1], quiet=True)
    np.testing.assert_array_equal(one.per_component["right"], one.replicates["right"][0])
    several = bootstrap_error(found, k=2, boot_idx=rows, quantile="linear", quiet=True)
    np.testing.assert_allclose(several.per_component["left"], np.quantile(several.replicates["left"], 0.95, axis=0))
    with pytest.raises(ArgumentError, match="k must be at most 2"):
        bootstrap_error(exact_svd(A, 2), k=3)


def test_nothing_is_known_of_the_vectors_of_zeros():
    with pytest.warns(SketchWarning, match="rank 0"):
        bounds = bootstrap_error(sketched_svd(A * 0, 2, 200), k=2)
    assert bounds.per_component["left"].tolist() == bounds.per_component["right"].tolist() == [1.0, 1.0]
    assert bounds.simultaneous["values"] == 0.0


@pytest.mark.parametrize("unit", [1e-100, 3.0, 1e100])
def test_refined_bounds_have_the_unit_of_the_matrix(unit):
    wide = polynomial(6000, 300, values=1 / np.arange(1.0, 301))[0]
    one, other = (svd(M, 3, 1e-3) for M in (wide, wide * unit))
    assert one.passes == other.passes > 0
    for metric, scale in {"values": unit, "left": 1.0, "right": 1.0}.items():
        here, there = one.bounds.per_component[metric], other.bounds.per_component[metric]
        # rounding in the residuals, which are a thousandth of the values
        np.testing.assert_allclose(there / scale, here, rtol=1e-4)
