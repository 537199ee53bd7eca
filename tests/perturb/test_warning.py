"""Probabilities where logits are meant are told apart, once per call, and nothing else is."""

import warnings

import pytest
import torch
from torch import nn

from gyrostat import NoisyFeatureMixup, pgd
from gyrostat.perturb.warning import ProbabilityWarning, warn_probabilities

X, Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def test_a_model_that_ends_in_softmax():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    with pytest.warns(ProbabilityWarning, match="pgd: .*last softmax") as seen:
        pgd(model, X, Y, eps=0.1, steps=3)
    assert len(seen) == 1
    output, target = NoisyFeatureMixup(model)(X, Y)
    with pytest.warns(ProbabilityWarning, match="MixedTarget"):
        target.loss(output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # a loss of one's own may well take probabilities
        target.loss(output, lambda p, y: nn.functional.nll_loss(p.log(), y, reduction="none"))
        pgd(model[0], X, Y, eps=0.1, steps=1)


def test_what_is_no_distribution_is_silent():
    rows = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), 1)
    one_off = rows.clone()
    one_off[2, 0] += 1e-3
    negative = rows - torch.tensor([rows.min() + 0.1, 0.0, -rows.min() - 0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for output in (one_off, negative, rows.log(), rows[:, :1], rows[:0]):
            warn_probabilities(output, "here")
    with pytest.warns(ProbabilityWarning):
        warn_probabilities(rows, "here")
