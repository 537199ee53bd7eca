"""The fused kernels against their slow twins: values and all gradients, every epilogue, odd shapes, both types."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat import LEM, LipschitzRNN, Recurrent
from gyrostat.testing.cells import CHECKS, check_cell

from .conftest import FAMILY, compare, everything, label, pair, states_of

EXACT64 = 1e-12  # float64, different order of the same few hundred additions
SINGLE = 3e-6  # float32 against float64 at T = 784 (PERFORMANCE: 1.1e-6 measured)


@pytest.mark.parametrize(("cell", "options"), FAMILY, ids=label)
@pytest.mark.parametrize("memory", ["full", "low"])
def test_values_and_gradients(cell, options, memory):
    for T, B, F, H, sequence in ((7, 5, 3, 11, True), (37, 13, 1, 33, False), (3, 1, 40, 16, True), (1, 2, 2, 1, True)):
        for training in (False, True) if cell == "noisy" else (False,):
            layers = pair(cell, F, H, memory=memory, training=training, **options)
            reference, fused = (everything(layer, T, B, sequence=sequence) for layer in layers)
            compare(fused, reference, EXACT64)


@pytest.mark.parametrize(("cell", "options"), [f for f in FAMILY if f[0] not in ("elman", "orthogonal", "vector_field")],
                         ids=label)  # fmt: skip
def test_steps_and_lengths(cell, options):
    T, B = 9, 6
    steps = torch.rand(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    steps[2, 3:5] = 0
    for dt in (None, 0.2, torch.tensor(0.2), steps[0], steps):
        layers = pair(cell, 3, 10, training=cell == "noisy", **options)
        for lengths in (None, [9, 0, 4, 1, 9, 7]):
            reference, fused = (everything(layer, T, B, dt=dt, lengths=lengths) for layer in layers)
            compare(fused, reference, EXACT64)


@settings(max_examples=40, deadline=None)
@given(T=st.integers(0, 20), B=st.integers(0, 20), F=st.sampled_from([1, 2, 3, 17]), H=st.integers(1, 70),
       which=st.sampled_from(FAMILY), memory=st.sampled_from(["full", "low"]), sequence=st.booleans(),
       strided=st.booleans(), single=st.booleans())  # fmt: skip
def test_any_shape(T, B, F, H, which, memory, sequence, strided, single):
    cell, options = which
    dtype = torch.float32 if single else torch.float64
    layers = pair(cell, F, H, memory=memory, dtype=dtype, **options)
    reference, fused = (everything(v, T, B, sequence=sequence, strided=strided, dtype=dtype) for v in layers)
    compare(fused, reference, 1e-4 if single else 1e-10)


@pytest.mark.parametrize(("kind", "options"), [(LipschitzRNN, {}), (LEM, {"dt": 0.1})])
def test_float32_over_a_long_sequence(kind, options):
    torch.manual_seed(0)
    exact = kind(1, 64, dtype=torch.float64, backend="reference", **options)
    single = kind(1, 64, backend="fused", **options)
    single.load_state_dict(exact.state_dict())
    exact.load_state_dict(single.state_dict())
    compare(everything(single, 784, 16, dtype=torch.float32), everything(exact, 784, 16), SINGLE)


@pytest.mark.parametrize(("cell", "options"), FAMILY, ids=label)
def test_low_memory_changes_no_bit(cell, options):
    full, low = (pair(cell, 2, 21, memory=m, dtype=torch.float32, **options)[1] for m in ("full", "low"))
    low.load_state_dict(full.state_dict())
    for sequence in (False, True):
        for p in (*full.parameters(), *low.parameters()):
            p.grad = None
        a, b = (everything(v, 50, 9, sequence=sequence, dtype=torch.float32) for v in (full, low))
        for key, value in a.items():
            assert torch.equal(value, b[key]), key


CONTRACT = [("lipschitz", {}), ("lipschitz", {"solver": "midpoint"}), ("lipschitz", {"gated": True, "learn_dt": True}),
            ("noisy", {}), ("antisymmetric", {}), ("elman", {}), ("residual", {}), ("orthogonal", {}), ("vector_field", {}),
            ("lem", {})]  # fmt: skip


@pytest.mark.parametrize(("cell", "options"), CONTRACT, ids=label)
def test_the_conformance_suite_passes(cell, options):
    # types and devices without a fused kernel are refused by backend="fused"; the suite of "auto" covers them
    checks = tuple(c for c in CHECKS if c.__name__ != "types_and_devices")
    assert len(check_cell(cell, checks=checks, backend="fused", **options)) == len(checks)


@pytest.mark.parametrize(("cell", "options"), FAMILY, ids=label)
def test_finite_differences(cell, options):
    layer = Recurrent(2, 3, cell=cell, dtype=torch.float64, backend="fused", **options).eval()
    names = [n for n, p in layer.named_parameters() if p.requires_grad]
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    start = [torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in layer.cells[0].states]

    def run(x, *rest):
        state, values = rest[: len(start)], dict(zip(names, rest[len(start) :]))
        given = state[0] if len(start) == 1 else tuple(state)
        output, final = torch.func.functional_call(layer, values, (x, given))
        return output, *states_of(final)

    assert torch.autograd.gradcheck(run, (x, *start, *(dict(layer.named_parameters())[n] for n in names)))


@pytest.mark.parametrize(("cell", "options"), FAMILY, ids=label)
def test_the_last_state_alone(cell, options):
    layer = Recurrent(3, 12, 2, cell=cell, backend="fused", **options).eval()
    x = torch.randn(5, 4, 3)
    nothing, state = layer(x, sequence=False)
    assert nothing is None
    for a, b in zip(states_of(state), states_of(layer(x)[1])):
        assert torch.equal(a, b)
