"""The order conditions of every Runge-Kutta scheme, in exact rationals, and the step they make."""

from fractions import Fraction

import pytest

from gyrostat._errors import ArgumentError
from gyrostat.numerics.tableau import TABLEAUS, rk_step, tableau


def weights_of_trees(s):
    """Elementary weights of all rooted trees up to order 4, with 1/density: (order, Φ, 1/γ)."""
    n = range(s.stages)
    a = [[row[j] if j < len(row) else Fraction(0) for j in n] for row in s.a]
    b, c = s.b, s.c

    def below(v):
        return [sum((a[i][j] * v[j] for j in n), Fraction(0)) for i in n]

    def total(v):
        return sum((b[i] * v[i] for i in n), Fraction(0))

    squares, ac = [v**2 for v in c], below(c)
    return [
        (1, sum(b), Fraction(1)),
        (2, total(c), Fraction(1, 2)),
        (3, total(squares), Fraction(1, 3)),
        (3, total(ac), Fraction(1, 6)),
        (4, total([v**3 for v in c]), Fraction(1, 4)),
        (4, total([c[i] * ac[i] for i in n]), Fraction(1, 8)),
        (4, total(below(squares)), Fraction(1, 12)),
        (4, total(below(ac)), Fraction(1, 24)),
    ]


@pytest.mark.parametrize("name", sorted(TABLEAUS))
def test_order_is_what_is_stated_and_no_more(name):
    s = tableau(name)
    trees = weights_of_trees(s)
    assert all(weight == value for order, weight, value in trees if order <= s.order)
    if s.order < 4:
        assert any(weight != value for order, weight, value in trees if order == s.order + 1)


@pytest.mark.parametrize("name", sorted(TABLEAUS))
def test_schemes_are_explicit(name):
    for i, row in enumerate(tableau(name).a):
        assert len(row) == i  # stage i sees the slopes of the stages before it


@pytest.mark.parametrize("name", sorted(TABLEAUS))
def test_step_on_a_linear_equation_is_the_truncated_exponential(name):
    s = tableau(name)
    h, term, expected = 0.1, 1.0, 1.0
    for k in range(1, s.stages + 1):
        term *= h / k
        expected += term
    # each scheme here has as many stages as its order, so its stability polynomial is the Taylor polynomial
    assert s.stages == s.order
    assert rk_step(s, lambda x: x, 1.0, h) == pytest.approx(expected, rel=1e-14)


def test_unknown_scheme_is_refused_in_words():
    with pytest.raises(ArgumentError, match="rk5"):
        tableau("rk5")
