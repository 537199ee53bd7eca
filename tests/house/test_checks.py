"""Argument rules: one sentence for every value outside."""

import math

import pytest

from gyrostat._checks import Integer, Real
from gyrostat._errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_a_real_is_finite_and_within_its_bounds(value):
    with pytest.raises(ArgumentError, match="f: x must be a number > 0, got"):
        Real(low=0, closed="neither").check("x", value, "f")
    Real(low=0, closed="neither").check("x", 1e300, "f")


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400])
def test_an_integer_is_one_that_torch_can_count_to(value):
    with pytest.raises(ArgumentError, match="too large"):
        Integer().check("x", value, "f")
    Integer().check("x", 2**63 - 1, "f")


@pytest.mark.parametrize("value", [True, "1", None, 1.5])
def test_kinds_are_not_guessed(value):
    with pytest.raises(ArgumentTypeError, match="x must be an integer"):
        Integer().check("x", value, "f")
