"""The operators as torch sees them: opcheck, compiling, exporting, derivatives of derivatives, transforms."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gyrostat import LEM, LipschitzRNN, NoisyRNN, Recurrent
from gyrostat.recurrent.kernels import ops, twin

from .conftest import label


def arguments(name, learns=True):
    T, B, F, H = 5, 3, 2, 7
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64).requires_grad_(learns)  # noqa: E731
    active = torch.rand(T, B) > 0.2
    if name == "lem":
        return (draw(T, B, F), draw(B, H), draw(B, H), draw(4 * H, F), draw(4 * H), draw(3 * H, H), draw(H, H),
                torch.rand(H, dtype=torch.float64).requires_grad_(learns), active, 1.0, 2, "full")  # fmt: skip
    return (draw(T, B, F), draw(B, H), draw(2 * H, F), draw(2 * H), draw(H, H), draw(H, H), None,
            torch.rand(T, B, dtype=torch.float64).requires_grad_(learns), active, None, None, None,
            1.0, "tanh", True, True, "midpoint", "none", 0.0, 0.0, 1, "full", learns)  # fmt: skip


@pytest.mark.parametrize("name", ["lipschitz", "lem"])
@pytest.mark.parametrize("save", ["full", "low", "none"])
def test_opcheck(name, save):
    args = list(arguments(name))
    args[-2 if name == "lipschitz" else -1] = save
    torch.library.opcheck(getattr(torch.ops.gyrostat, name).default, tuple(args))


@pytest.mark.parametrize("name", ["lipschitz", "lem"])
def test_opcheck_of_the_backward(name):
    args = arguments(name, learns=False)
    outputs = getattr(torch.ops.gyrostat, name)(*args)
    split, states = (12, 1) if name == "lipschitz" else (9, 2)
    grads = tuple(torch.randn_like(o) for o in outputs[: 2 * states])
    needs = [a is not None for a in args[:8]]
    everything = (*grads, *args[:split], *outputs[states:], *args[split:], needs)
    torch.library.opcheck(getattr(torch.ops.gyrostat, f"{name}_backward").default, everything)


@pytest.mark.parametrize("name", ["lipschitz", "lem"])
def test_the_twin_is_the_operator(name):
    args = arguments(name, learns=False)
    for ours, plain in zip(getattr(torch.ops.gyrostat, name)(*args), getattr(twin, name)(*args)):
        if name == "lem":
            break
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    if name == "lem":
        y, z, ys, zs, _ = torch.ops.gyrostat.lem(*args)
        for ours, plain in zip((y, z, ys, zs), twin.lem(*args)):
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lipschitz", "lem"])
def test_a_backward_without_stash_runs_forward_again(name):
    def gradients(save):
        torch.manual_seed(1)
        args = list(arguments(name))
        args[-2 if name == "lipschitz" else -1] = save
        first, *_ = getattr(torch.ops.gyrostat, name)(*args)
        first.square().sum().backward()
        return [a.grad for a in args if isinstance(a, torch.Tensor) and a.grad is not None]

    for kept, again in zip(gradients("full"), gradients("none")):
        assert torch.equal(kept, again)


MODELS = [(LipschitzRNN, {}), (LipschitzRNN, {"solver": "midpoint", "learn_dt": True}), (LEM, {})]


@pytest.mark.parametrize(("kind", "options"), MODELS, ids=label)
def test_compiles_whole_and_does_not_recompile_with_time(kind, options):
    torch.compiler.reset()
    layer = kind(2, 6, backend="fused", **options)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    run = torch.compile(lambda v: layer(v)[0], fullgraph=True, backend=backend, dynamic=True)
    for T in (4, 9, 40, 23):
        x = torch.randn(T, 3, 2, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        layer.zero_grad()
        run(x).square().sum().backward()
        compiled = [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad()
        layer(y)[0].square().sum().backward()
        assert torch.equal(x.grad, y.grad)
        assert all(torch.equal(a, p.grad) for a, p in zip(compiled, layer.parameters()))
    assert len(graphs) == 1, "another length made another graph"
    assert any("gyrostat" in str(node.target) for node in graphs[0].graph.nodes), "the operator is not in the graph"


def test_aot_autograd_compiles_the_backward_too():
    torch.compiler.reset()
    layer = LEM(2, 6, backend="fused")
    run = torch.compile(lambda v: layer(v)[0], fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 2)
    run(x).square().sum().backward()
    compiled = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x)[0].square().sum().backward()
    for a, p in zip(compiled, layer.parameters()):
        torch.testing.assert_close(a, p.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_exports_run_anywhere():
    layer = LipschitzRNN(2, 4, batch_first=True, backend="auto").eval()
    program = torch.export.export(layer, (torch.randn(3, 5, 2),), strict=False)
    assert "gyrostat" not in str(program.graph), "an exported file must not need this library"
    x = torch.randn(3, 5, 2)
    torch.testing.assert_close(program.module()(x)[0], layer(x)[0])


@pytest.mark.parametrize(("kind", "options"), MODELS, ids=label)
def test_second_derivatives_and_transforms_take_the_reference(kind, options):
    fused = kind(2, 3, dtype=torch.float64, backend="fused", **options)
    plain = kind(2, 3, dtype=torch.float64, backend="reference", **options)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: fused(v)[0], (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda v: fused(v)[0], (x,))
    loss = [lambda v, m=m: m(v)[0].square().sum() for m in (fused, plain)]
    v = torch.randn_like(x)
    for transform in (
        lambda f: torch.func.jvp(f, (x.detach(),), (v,))[1],
        lambda f: torch.func.grad(f)(x.detach()),
        lambda f: torch.func.hessian(f)(x.detach()),
        lambda f: torch.func.vmap(f)(torch.stack([x.detach(), v])),
        lambda f: torch.autograd.functional.hvp(f, x.detach(), v)[1],
    ):
        torch.testing.assert_close(transform(loss[0]), transform(loss[1]), rtol=1e-10, atol=1e-12)
    out = fused(x)[0]
    batch = torch.randn(3, *out.shape, dtype=torch.float64)
    ours = torch.autograd.grad(out, x, batch, is_grads_batched=True, retain_graph=True)[0]
    for g, o in zip(batch, ours):
        torch.testing.assert_close(o, torch.autograd.grad(out, x, g, retain_graph=True)[0], rtol=1e-10, atol=1e-12)


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "options"), MODELS, ids=label)
def test_without_the_dispatcher_the_bits_are_the_same(kind, options):
    layer = kind(2, 6, backend="fused", **options)
    x = torch.randn(5, 3, 2)

    def gradients():
        layer.zero_grad()
        layer(x)[0].square().sum().backward()
        return [p.grad.clone() for p in layer.parameters()]

    plain = gradients()
    with Seen() as seen:
        watched = gradients()
    assert [n for n in seen.names if "gyrostat" in n] == [
        f"gyrostat::{layer.cells[0].name}{s}" for s in ("", "_backward")
    ]
    assert all(torch.equal(a, b) for a, b in zip(plain, watched))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_subclass_or_a_lazy_negation_is_seen_by_the_dispatcher():
    class Own(torch.Tensor):
        pass

    layer = LEM(2, 6, backend="fused")
    x = torch.randn(5, 3, 2)
    negative = torch.complex(x, -x).conj().imag
    assert negative.is_neg()
    assert torch.equal(layer(negative)[0], layer(x)[0])
    assert isinstance(layer(x.as_subclass(Own))[0], Own)
    layer.requires_grad_(False)
    traced = torch.jit.trace(lambda v: layer(v)[0], x, check_trace=False)
    assert torch.equal(traced(2 * x), layer(2 * x)[0])


def test_gradients_of_noise_that_is_learned_take_the_reference():
    layer = NoisyRNN(2, 5, dtype=torch.float64, backend="fused")
    noise = [torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    layer(torch.randn(4, 3, 2, dtype=torch.float64), noise=noise)[0].sum().backward()
    assert all(n.grad is not None for n in noise)


def test_backward_twice_and_hooks_on_outputs():
    layer = LEM(2, 5, backend="fused")
    output, _ = layer(torch.randn(6, 3, 2))
    loss = output.sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in layer.parameters()]
    loss.backward()
    assert all(torch.equal(2 * a, p.grad) for a, p in zip(first, layer.parameters()))


def test_an_output_changed_in_place_is_noticed():
    layer = LipschitzRNN(2, 5, backend="fused")
    output, _ = layer(torch.randn(6, 3, 2))
    loss = output.square().sum()
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_wrong_arguments_of_an_operator_are_refused():
    args = list(arguments("lem", learns=False))
    args[5] = args[5][:-1]
    with pytest.raises(ValueError, match="weight_hh must have shape"):
        torch.ops.gyrostat.lem(*args)
    args = list(arguments("lem", learns=False))
    args[6] = args[6].float()
    with pytest.raises(ValueError, match="weight_zy must be"):
        torch.ops.gyrostat.lem(*args)


def test_memory_is_low_above_the_stated_size(monkeypatch):
    layer = LEM(1, 8, backend="fused")
    saves = []
    original = ops._save
    monkeypatch.setattr(ops, "_save", lambda *a: saves.append(original(*a)) or saves[-1])
    layer(torch.randn(5, 2, 1))
    monkeypatch.setattr(ops, "LIMIT", 100)
    layer(torch.randn(5, 2, 1))
    with torch.no_grad():
        layer(torch.randn(5, 2, 1))
    assert saves == ["full", "low", "none"]


def test_every_cell_says_what_runs():
    for cell in ("lipschitz", "lem", "noisy", "orthogonal"):
        assert Recurrent(2, 3, cell=cell).backend_in_use.startswith("fused: native kernel")
        assert "asked for" in Recurrent(2, 3, cell=cell, backend="reference").backend_in_use
    assert "bfloat16" in Recurrent(2, 3, cell="lem", dtype=torch.bfloat16).backend_in_use
    assert "meta" in Recurrent(2, 3, cell="lem", device="meta").backend_in_use
    assert "imex" in LipschitzRNN(2, 3, solver="imex").backend_in_use
    with pytest.raises(ValueError, match="backend 'fused' is not available"):
        LipschitzRNN(2, 3, solver="imex", backend="fused")
