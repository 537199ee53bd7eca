"""What the tests of the fused kernels share: pairs of layers with the same weights, and when there is nothing to test."""

import os

import pytest
import torch

from gyrostat import Recurrent
from gyrostat.recurrent.kernels import native

THERE, WHY = native.available()
NATIVE = ("test_agreement", "test_bf16", "test_operators", "test_runtime")

# every epilogue: (cell, its options)
FAMILY = [
    ("lipschitz", {}),
    ("lipschitz", {"solver": "midpoint"}),
    ("lipschitz", {"solver": "heun", "gated": True, "learn_dt": True}),
    ("lipschitz", {"solver": "rk4_38", "nonlinearity": "sigmoid"}),
    ("lipschitz", {"gated": True}),
    ("lipschitz", {"learn_dt": True, "alpha": 0.5}),
    ("lipschitz", {"nonlinearity": "relu", "bias": False}),
    ("lipschitz", {"stable": 0.1, "nonlinearity": "identity"}),
    ("noisy", {"additive_noise": 0.1, "multiplicative_noise": 0.2}),
    ("noisy", {"noise_form": "released", "learn_dt": True}),
    ("noisy", {"brownian": "scalar"}),
    ("antisymmetric", {}),
    ("antisymmetric", {"gated": True}),
    ("elman", {}),
    ("residual", {"dt": 0.1}),
    ("orthogonal", {}),
    ("orthogonal", {"nonlinearity": "tanh", "parameterization": "cayley"}),
    ("vector_field", {"divergence": "zero"}),
    ("lem", {}),
    ("lem", {"dt": 0.5, "bias": False}),
]


def label(value):
    return "-".join(f"{k}={v}" for k, v in value.items()) or "plain" if isinstance(value, dict) else str(value)


def pytest_collection_modifyitems(items):
    # continuous integration builds the library: there, its absence is a failure and not a reason to skip
    if THERE or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.path.stem in NATIVE and "without_library" not in item.name:
            item.add_marker(pytest.mark.skip(reason=WHY))


def states_of(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def pair(cell, F, H, dtype=torch.float64, memory="full", training=False, **options):
    """A reference layer and a fused one with the same weights."""
    reference = Recurrent(F, H, cell=cell, dtype=dtype, backend="reference", **options).train(training)
    fused = Recurrent(F, H, cell=cell, dtype=dtype, backend="fused", memory=memory, **options).train(training)
    fused.load_state_dict(reference.state_dict())
    return reference, fused


def everything(layer, T, B, *, sequence=True, dt=None, lengths=None, seed=0, strided=False, dtype=torch.float64):
    """Outputs and all gradients of a pass with random input, states and output gradients, in a dictionary."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    F, H, n = layer.input_size, layer.hidden_size, len(layer.cells[0].states)
    x = draw(B, T, F).transpose(0, 1) if strided else draw(T, B, F)
    x = x.requires_grad_()
    start = [draw(1, B, H).requires_grad_() for _ in range(n)]
    leaves = {"x": x, **{f"start {i}": s for i, s in enumerate(start)}}
    if isinstance(dt, torch.Tensor):
        dt = dt.to(dtype).clone().requires_grad_()
        leaves["dt"] = dt
    options = (
        {"generator": torch.Generator().manual_seed(7)} if layer.cells[0].name == "noisy" and layer.training else {}
    )
    output, state = layer(x, start[0] if n == 1 else tuple(start), dt=dt, lengths=lengths, sequence=sequence, **options)
    loss = sum((s * draw(1, B, H)).sum() for s in states_of(state))
    found = {f"state {i}": s.detach() for i, s in enumerate(states_of(state))}
    if sequence:
        loss = loss + (output * draw(T, B, H)).sum()
        found["output"] = output.detach()
    loss.backward()
    found |= {f"d{k}": v.grad for k, v in leaves.items() if v.grad is not None}
    return found | {f"d{k}": p.grad for k, p in layer.named_parameters() if p.grad is not None}


def compare(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        error = (ours[key].double() - value.double()).norm() / value.double().norm().clamp_min(1e-30)
        assert error <= tolerance, f"{key}: relative error {error:.2e}"
