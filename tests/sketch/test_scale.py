"""The unit of the matrix changes nothing but the unit of the answer; what float64 cannot square is refused."""

import warnings

import numpy as np
import pytest

from gyrostat import SketchWarning, sketched_svd, svd
from gyrostat._errors import DataError
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
