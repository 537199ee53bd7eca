"""Derivatives of every cell against finite differences: first order, second order, forward mode. The suite prints how many."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gyrostat import Recurrent
from gyrostat.recurrent.cell import cell_names
from tests.recurrent.test_conformance import VARIANTS, label

T, B, F, H = 3, 2, 2, 2
FORMS = ("plain", "lengths", "dt", "dt per row", "backward", "backward lengths", "unbatched", "state")
FIRST = list(itertools.product(VARIANTS, FORMS, (1, 2)))
SECOND = list(itertools.product(VARIANTS, ("plain", "lengths", "dt per row", "backward", "state")))
FORWARD = list(itertools.product(VARIANTS, ("plain", "lengths", "state")))


def case(name, options, form, layers=1):
    """A function of input, first state and parameters, and the point to differentiate it at."""
    both = form.startswith("backward")
    layer = Recurrent(F, H, layers, cell=name, dtype=torch.float64, bidirectional=both, **options).eval()
    names = [n for n, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    g = torch.Generator().manual_seed(3)
    x = torch.randn(T, B, F, dtype=torch.float64, generator=g)
    x = (x[:, 0] if form == "unbatched" else x).requires_grad_()
    shape = (layers * (2 if both else 1), B, H)
    states = [torch.randn(shape, dtype=torch.float64, generator=g).requires_grad_() for _ in layer.cells[0].states]
    states = states if form == "state" else []
    extra = {}
    if form.endswith("lengths"):
        extra["lengths"] = [3, 1]
    elif form.startswith("dt") and layer.cells[0].time_step:
        rows = (B, T) if form == "dt per row" else (T,)
        extra["dt"] = torch.rand(rows, dtype=torch.float64, generator=g) + 0.1

    def run(x, *rest):
        given = rest[: len(states)]
        state = None if not given else given if len(given) > 1 else given[0]
        weights = dict(zip(names, rest[len(states) :]))
        output, final = torch.func.functional_call(layer, weights, (x, state), extra)
        final = final if isinstance(final, torch.Tensor) else torch.cat(final)
        return output, final

    return run, (x, *states, *values)


@pytest.mark.parametrize(
    ("variant", "form", "layers"), FIRST, ids=lambda v: label(v[1]) + v[0] if isinstance(v, tuple) else str(v)
)
def test_first_order(variant, form, layers, tally):
    run, at = case(*variant, form, layers)
    assert gradcheck(run, at)
    tally["gradchecks"] += 1


@pytest.mark.parametrize(
    ("variant", "form"), SECOND, ids=lambda v: label(v[1]) + v[0] if isinstance(v, tuple) else str(v)
)
def test_second_order(variant, form, tally):
    run, at = case(*variant, form)
    # fast mode compares random projections, which is what makes a hundred of them affordable
    assert gradgradcheck(run, at, fast_mode=True)
    tally["gradgradchecks"] += 1


@pytest.mark.parametrize(
    ("variant", "form"), FORWARD, ids=lambda v: label(v[1]) + v[0] if isinstance(v, tuple) else str(v)
)
def test_forward_mode(variant, form, tally):
    run, at = case(*variant, form)
    assert gradcheck(
        run, at, check_forward_ad=True, check_backward_ad=False, check_undefined_grad=False, check_batched_grad=False
    )
    tally["forward-mode checks"] += 1


def test_there_are_enough():
    assert len(FIRST) >= 300
    assert len(SECOND) >= 100
    assert len(FORWARD) >= 60
    assert {n for n, _ in VARIANTS} == {n for n in cell_names() if not n.startswith("toy")}
