"""Laws of perturbation: moments, ranges, streams, and what level 0 leaves alone."""

import pytest
import torch

from gyrostat.numerics.noise import LAWS, multiplicative, salt_pepper, uniform, white

N = 200_000


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_level_zero_changes_nothing(law):
    x = torch.rand(7, 3, 4, generator=stream(1))
    assert torch.equal(LAWS[law](x, 0.0, generator=stream()), x)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_draws_follow_the_generator_and_leave_the_global_stream_alone(law):
    x = torch.rand(5, 2, 10, dtype=torch.float64, generator=stream(1)) + 0.25
    before = torch.get_rng_state()
    first, again, other = (LAWS[law](x, 0.5, generator=stream(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == x.dtype


@pytest.mark.parametrize(("law", "variance"), [(white, 0.09), (multiplicative, 0.09 * 4), (uniform, 0.09 / 3)])
def test_mean_and_variance(law, variance):
    x = torch.full((N,), 2.0, dtype=torch.float64)
    shift = law(x, 0.3, generator=stream()) - x
    # five standard errors of a mean over N draws; a sample variance errs by at most sqrt(2 / N) relative, five times
    assert abs(shift.mean().item()) < 5 * (variance / N) ** 0.5
    assert shift.var().item() == pytest.approx(variance, rel=5 * (2 / N) ** 0.5)


def test_uniform_stays_in_its_range():
    shift = uniform(torch.zeros(N), 0.3, generator=stream())
    assert shift.abs().max().item() <= 0.3


def test_salt_and_pepper_hit_as_often_as_asked_with_equal_chance():
    x = torch.full((N,), 0.5)
    noisy = salt_pepper(x, 0.2, low=-1.0, high=2.0, generator=stream())
    assert set(noisy.unique().tolist()) == {-1.0, 0.5, 2.0}
    for value, chance in ((-1.0, 0.1), (2.0, 0.1), (0.5, 0.8)):
        share = (noisy == value).double().mean().item()
        assert abs(share - chance) < 5 * (chance * (1 - chance) / N) ** 0.5  # five standard errors
