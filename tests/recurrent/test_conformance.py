"""Every registered cell holds the contract; a new cell is one class and is found by itself."""

import pickle

import pytest
import torch

from gyrostat import Recurrent
from gyrostat.recurrent.cell import Cell, cell_names, get_cell
from gyrostat.testing.cells import CHECKS, check_cell

VARIANTS = [(name, {}) for name in cell_names() if not name.startswith("toy")] + [
    ("lipschitz", {"solver": s}) for s in ("midpoint", "heun", "rk4_38", "imex", "cn", "etd1")
] + [
    ("lipschitz", {"gated": True}),
    ("lipschitz", {"learn_dt": True}),
    ("lipschitz", {"learn_dt": True, "solver": "etd1"}),
    ("lipschitz", {"nonlinearity": "sigmoid", "alpha": 0.5}),
    ("lipschitz", {"stable": 0.1}),
    ("antisymmetric", {"gated": True}),
    ("noisy", {"learn_dt": True, "noise_form": "released"}),
    ("lem", {"dt": 0.5}),
    ("lem", {"bias": False}),
    ("orthogonal", {"parameterization": "dtriv"}),
    ("orthogonal", {"parameterization": "cayley", "negative_signs": 1}),
    ("vector_field", {"geometry": "ring", "flow": "expmv"}),
    ("vector_field", {"geometry": "free", "divergence": "zero", "flow": "cayley"}),
]  # fmt: skip


def label(value):
    return "-".join(f"{k}={v}" for k, v in value.items()) or "plain" if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=label)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_cells_hold_the_contract(name, options, check):
    assert check_cell(name, checks=(check,), **options) == [check.__name__]


class Leaky(Cell):
    """A toy: h' = h + dt (U x - h)."""

    name = "toy_leaky"

    def parameter_shapes(self):
        return {"weight_ih": (self.hidden_size, self.input_size)}

    def prepare(self, parameters, dt):
        return parameters["weight_ih"]

    def step(self, weights, x, state, dt, extras=()):
        return (state[0] + dt * (x @ weights.T - state[0]),)


class Broken(Leaky):
    """A toy whose state leaks between the rows of a batch."""

    name = "toy_broken"

    def step(self, weights, x, state, dt, extras=()):
        return (state[0].roll(1, 0) + x @ weights.T,)


def test_a_toy_cell_registers_itself_and_passes():
    assert get_cell("toy_leaky") is Leaky
    assert len(check_cell("toy_leaky")) == len(CHECKS)


def test_the_suite_catches_a_broken_cell():
    with pytest.raises(AssertionError):
        check_cell("toy_broken")


def test_unknown_cell_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'lem'"):
        get_cell("lemm")


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=label)
def test_pickle_of_the_module_after_a_pass(name, options):
    layer = Recurrent(3, 4, 2, cell=name, bidirectional=True, **options).eval()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, _ = layer(x)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x)[0], output)
