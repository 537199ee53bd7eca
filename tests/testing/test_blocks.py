"""The conformance suite of units: random trees of modules pass it, broken ones do not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gyrostat._errors import ArgumentError, ShapeError
from gyrostat.depth.convnet import VARIANTS, ConvUnit
from gyrostat.depth.transformer import TransformerUnit
from gyrostat.testing.blocks import CHECKS, check_block, statistics

VECTOR = {
    "linear": lambda: nn.Linear(4, 4),
    "norm": lambda: nn.LayerNorm(4),
    "batch": lambda: nn.BatchNorm1d(4),
    "drop": lambda: nn.Dropout(0.2),
    "smooth": nn.Tanh,
}
IMAGE = {
    "conv": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "grouped": lambda: nn.GroupNorm(1, 2),
    "batch": lambda: nn.BatchNorm2d(2),
    "smooth": nn.SiLU,
}


def tree(kinds, words):
    """A chain whose every second pair is a module of its own."""
    parts = [kinds[w]() for w in words]
    inner = nn.Sequential(*parts[1:3])
    return nn.Sequential(*parts[:1], inner, *parts[3:], nn.Tanh())


def data(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@given(words=st.lists(st.sampled_from(sorted(VECTOR)), min_size=1, max_size=5).map(lambda w: ["linear", *w]))
@settings(deadline=None, max_examples=12)
def test_random_units_of_vectors_pass(words):
    torch.manual_seed(0)
    assert check_block(tree(VECTOR, words), data(6, 4)) == [c.__name__ for c in CHECKS]


@given(words=st.lists(st.sampled_from(sorted(IMAGE)), min_size=1, max_size=4).map(lambda w: ["conv", *w]))
@settings(deadline=None, max_examples=8)
def test_random_units_of_images_pass(words):
    torch.manual_seed(0)
    check_block(tree(IMAGE, words), data(3, 2, 4, 4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_units_of_the_papers_pass(variant):
    torch.manual_seed(0)
    check_block(ConvUnit(2, variant), data(4, 2, 5, 5), checks=(statistics,))
    check_block(ConvUnit(2, variant, "gelu", skip_init=True), data(4, 2, 5, 5))


def test_an_encoder_with_a_mask_passes():
    torch.manual_seed(0)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    assert len(check_block(TransformerUnit(8, 2), data(2, 5, 8), mask)) == len(CHECKS)


class Reads(nn.Module):
    """Keeps a number outside parameters and buffers."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) / self.calls


class Detached(nn.Module):
    """A weight that gets no gradient."""

    def __init__(self):
        super().__init__()
        self.linear, self.gain = nn.Linear(3, 3), nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.linear(x) * self.gain.detach()


class Writes(nn.Module):
    """Writes its statistics in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("running_mean", torch.zeros(3))

    def forward(self, x):
        self.running_mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.linear(x) + self.running_mean


@pytest.mark.parametrize(
    ("unit", "error", "words"),
    [
        (Reads(), ArgumentError, "two answers"),
        (Detached(), AssertionError, "gain gets no gradient"),
        (Writes(), (AssertionError, ArgumentError), "evaluation"),
        (nn.Linear(3, 4), ShapeError, "keep the shape"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), ArgumentError, "no rule"),
    ],
)
def test_broken_units_are_found(unit, error, words):
    with pytest.raises(error, match=words):
        check_block(unit, data(4, 3))
