"""Inference with products in bfloat16: what is computed, how exact it is, and that nothing else changes.

Three ways to multiply: ``vectors`` needs a processor with AVX512-BF16. ``tiles`` is the source for AMX compiled against
``tiles.h``, which stands for the instructions. ``instructions`` is the library as it is installed: on a processor with AMX
as it is, on others with ``trap.cpp`` doing what each tile instruction would have done. No test has met a processor with AMX.
"""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gyrostat import LEM, LipschitzRNN, Recurrent
from gyrostat.numerics.philox import draw_seeds
from gyrostat.recurrent.kernels import bf16, describe, library, ops, twin

from .conftest import label

KINDS = [
    ("lipschitz", {}),
    ("lipschitz", {"solver": "midpoint"}),
    ("lipschitz", {"gated": True, "phi": "relu", "A": None}),
    ("lipschitz", {"noise": "sde", "sigma_a": 0.1, "sigma_m": 0.2}),
    ("lem", {}),
]


def build(folder, name, source, *flags):
    path = folder / f"{name}.so"
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-O2", "-fPIC", "-shared", "-w", *flags, source, "-o", path]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The library of bf16 products with its tile instructions in plain C++."""
    header = Path(__file__).with_name("tiles.h")
    flags = ("-Wno-psabi", "-fvisibility=hidden", "-ffp-contract=fast", "-DGY_WIDE", f'-DGY_EMULATED_TILES="{header}"')
    source = library.HERE / "csrc" / "native_bf16.cpp"
    return bf16.opened(str(build(tmp_path_factory.mktemp("tiles"), "emulated", source, *flags)))


@pytest.fixture(scope="session")
def trap(tmp_path_factory):
    """What handles the tile instructions of the installed library where the processor does not."""
    folder = tmp_path_factory.mktemp("trap")
    return ctypes.CDLL(str(build(folder, "trap", Path(__file__).with_name("trap.cpp"))))


@pytest.fixture(params=["tiles", "instructions", "vectors"])
def engine(request, monkeypatch):
    """The library to be used, and restored precision afterwards."""
    found, handled = bf16._load(), None
    if request.param == "tiles":
        found = request.getfixturevalue("emulated")
    elif not found[1] & 1:
        pytest.skip(f"no AVX512-BF16: {found[2]}")
    elif request.param == "instructions" and not found[1] & 2:
        handled, found = request.getfixturevalue("trap"), (found[0], 2, "")
        assert handled.trap_install() == 0
    monkeypatch.setattr(bf16, "_load", lambda: found)
    monkeypatch.setenv("GYROSTAT_ISA", "bf16" if request.param == "vectors" else "amx")
    yield request.param
    torch.set_float32_matmul_precision("highest")
    if handled is not None:
        handled.trap_remove()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def split(t):
    high = t.bfloat16().float()
    return high, (t - high).bfloat16().float()


class Products:
    """``torch.nn.functional`` for the twin: without a bias it is a recurrent product, and made of bf16 numbers."""

    def __init__(self, terms):
        self.terms = terms

    def linear(self, a, w, bias=None):
        if bias is not None:
            return F.linear(a, w, bias)
        (a1, a2), (w1, w2) = split(a), split(w)
        first = F.linear(a1, w1)
        return first if self.terms == 1 else first + F.linear(a2, w1) + F.linear(a1, w2)


def inputs(kind, T, B, H, options, n=3):
    """Arguments of an operator, as its twin takes them and as ``ops`` does."""
    torch.manual_seed(T + 10 * B + 100 * H)
    x, states = torch.randn(T, B, n), [torch.randn(B, H) for _ in range(1 + (kind == "lem"))]
    if kind == "lem":
        tensors = {"weight_ih": torch.randn(4 * H, n), "bias": torch.randn(4 * H),
                   "weight_hh": torch.randn(3 * H, H) / H**0.5, "weight_zy": torch.randn(H, H) / H**0.5}  # fmt: skip
        tensors |= {"dt": torch.rand(T, B) * 0.1, "active": None}
        names = ("weight_ih", "bias", "weight_hh", "weight_zy", "dt", "active", "step")
    else:
        gates = 1 + options.get("gated", False)
        tensors = {"weight_ih": torch.randn(gates * H, n), "bias": torch.randn(gates * H), "A": torch.randn(H, H) / H**0.5,
                   "W": torch.randn(H, H) / H**0.5, "inner_bias": None, "dt": None, "active": torch.rand(T, B) > 0.2,
                   "seeds": draw_seeds(T, torch.device("cpu")), "additive": None, "factor": None}  # fmt: skip
        names = ("weight_ih", "bias", "A", "W", "inner_bias", "dt", "active", "seeds", "additive", "factor", "step", "phi",
                 "gated", "residual", "solver", "noise", "sigma_a", "sigma_m")  # fmt: skip
        tensors |= {"phi": "tanh", "gated": False, "residual": True, "solver": "euler", "noise": "none", "sigma_a": 0.0,
                    "sigma_m": 0.0}  # fmt: skip
    tensors |= {"step": 0.03, **options}
    return (x, *states), tensors, [tensors[k] for k in names]


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=label)
def test_products_are_what_their_definition_says(engine, kind, options, precision, monkeypatch):
    """Every block of rows and columns: few rows and many, whole tiles and parts of them."""
    monkeypatch.setattr(twin, "F", Products(bf16.TERMS[precision]))
    for T, B, H in (
        (3, 1, 1),
        (2, 2, 33),
        (3, 5, 20),
        (2, 16, 64),
        (2, 17, 96),
        (2, 70, 48),
        (1, 35, 100),
        (1, 150, 16),
    ):
        leading, named, ordered = inputs(kind, T, B, H, options)
        expected = getattr(twin, kind)(*leading, *ordered)[0]
        plain = getattr(ops, kind)(*leading, **named)[0]
        torch.set_float32_matmul_precision(precision)
        found = getattr(ops, kind)(*leading, **named)[0]
        torch.set_float32_matmul_precision("highest")
        # other sums of the same numbers; seldom one of them is rounded the other way to bf16, and 0.03 times that remains
        error, scale = (found - expected).abs().max(), expected.abs().max()
        assert error <= 3e-5 * scale, (T, B, H, error)
        assert H == 1 or not torch.equal(found, plain), "the products were in float32"


@pytest.mark.parametrize("kind", [LipschitzRNN, LEM])
@pytest.mark.parametrize(("precision", "bound"), [("high", 1e-4), ("medium", 3e-2)])
def test_error_after_784_steps(engine, kind, precision, bound):
    """The bounds of the plan for the last state; weights of a trained layer's size."""
    torch.manual_seed(3)
    H = 64 if engine == "vectors" else 20
    layer = kind(1, H, backend="fused", **({"dt": 0.03} if kind is LEM else {}))
    with torch.no_grad():
        for p in layer.parameters():
            if p.shape[-1] == H and p.ndim == 2:
                p.copy_(torch.randn_like(p) / H**0.5)
    exact = kind(1, H, dtype=torch.float64, backend="reference", **({"dt": 0.03} if kind is LEM else {}))
    exact.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
    x = torch.randn(784, 3, 1)
    with torch.no_grad():
        torch.set_float32_matmul_precision(precision)
        found = layer(x)[0][-1]
        torch.set_float32_matmul_precision("highest")
        single, expected = layer(x)[0][-1], exact(x.double())[0][-1]
    error, rounding = ((v - expected).abs().max() / expected.abs().max() for v in (found, single))
    assert rounding < error <= bound


@pytest.mark.parametrize("kind", [LipschitzRNN, LEM])
def test_rows_steps_and_threads_change_no_bit(engine, kind, threads):
    layer = kind(3, 40, backend="fused")
    x = torch.randn(5, 37, 3)
    torch.set_float32_matmul_precision("medium")
    with torch.no_grad():
        whole, state = layer(x)[0], None
        for n in (2, 3):
            threads(n)
            assert torch.equal(layer(x)[0], whole)
        for rows in (slice(0, 1), slice(5, 7), slice(3, 30)):
            assert torch.equal(layer(x[:, rows])[0], whole[:, rows])
        for t in range(5):
            y, state = layer.step(x[t], state)
            assert torch.equal(y, whole[t])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [LipschitzRNN, LEM])
def test_what_is_not_finite_stays_so_and_in_its_row(engine, kind, bad):
    layer = kind(2, 20, backend="fused")
    x = torch.randn(4, 20, 2)
    start = torch.zeros(1, 20, 20)
    spoiled = start.clone()
    spoiled[0, 2, 3] = bad
    pair = (lambda s: (s, torch.zeros_like(s))) if kind is LEM else lambda s: s
    for precision in ("high", "medium"):
        torch.set_float32_matmul_precision(precision)
        with torch.no_grad():
            clean, found = layer(x, pair(start))[0], layer(x, pair(spoiled))[0]
        others = [i for i in range(20) if i != 2]
        assert torch.equal(found[:, others], clean[:, others])
        assert clean.isfinite().all()
        assert not found[:, 2, 3].isfinite().any()
        if bad != bad:
            assert found[1:, 2].isnan().all()


def test_denormals_are_zero(engine):
    W = torch.eye(20)
    h0 = torch.full((3, 20), 1e-40)
    arguments = {"weight_ih": torch.zeros(20, 1), "W": W, "phi": "identity", "step": 1.0}
    torch.set_float32_matmul_precision("medium")
    assert not ops.lipschitz(torch.zeros(1, 3, 1), h0, **arguments)[0].any()


@pytest.mark.parametrize("kind", [LipschitzRNN, LEM])
def test_a_pass_that_learns_keeps_its_bits(engine, kind):
    layer = kind(2, 20, backend="fused")
    x = torch.randn(6, 4, 2)
    found = []
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        layer.zero_grad()
        output, _ = layer(x)
        output.sum().backward()
        found.append([output.detach(), *(p.grad for p in layer.parameters())])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_steps_without_residual_and_other_types_keep_their_bits(engine):
    leading, named, _ = inputs("lipschitz", 3, 4, 20, {})
    double = [t.double() for t in leading], {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
                                            for k, v in named.items()}  # fmt: skip
    for arguments, options in ((leading, {**named, "residual": False}), double):
        found = []
        for precision in ("medium", "highest"):
            torch.set_float32_matmul_precision(precision)
            found.append(ops.lipschitz(*arguments, **options)[0])
        assert torch.equal(*found)
    torch.set_float32_matmul_precision("medium")
    assert "no residual" in Recurrent(2, 3, cell="elman").backend_in_use
    assert "no residual" in Recurrent(2, 3, cell="vector_field").backend_in_use
    assert ";" not in LEM(2, 3, dtype=torch.float64).backend_in_use


def test_the_words_say_what_multiplies_and_why(engine, monkeypatch):
    layer = LipschitzRNN(2, 3)
    assert ";" not in layer.backend_in_use
    torch.set_float32_matmul_precision("high")
    name = "AVX512-BF16" if engine == "vectors" else "AMX"
    assert layer.backend_in_use.endswith(f"; inference with bf16x3 products ({name})")
    torch.set_float32_matmul_precision("medium")
    assert layer.backend_in_use.endswith(f"; inference with bf16 products ({name})")
    monkeypatch.setenv("GYROSTAT_ISA", {"amx": "bf16", "bf16": "amx"}[os.environ["GYROSTAT_ISA"]])
    if engine == "tiles":
        assert "processor has none" in layer.backend_in_use
    monkeypatch.setenv("GYROSTAT_ISA", "v4")
    assert layer.backend_in_use.endswith("products in float32 despite precision 'medium': GYROSTAT_ISA=v4")
    monkeypatch.delenv("GYROSTAT_ISA")
    monkeypatch.setattr(bf16, "_load", lambda: (None, 0, "nothing is built"))
    assert "nothing is built" in layer.backend_in_use


def test_only_what_is_faster_is_chosen_unasked(monkeypatch):
    there = object()
    monkeypatch.delenv("GYROSTAT_ISA", raising=False)
    for engines, expected in ((0, (None, None)), (1, (None, "bf16")), (3, ("amx", "amx")), (5, (None, "bf16"))):
        monkeypatch.setattr(bf16, "_load", lambda engines=engines: (there, engines, "why"))
        assert tuple(bf16.engine(level)[0] for level in ("high", "medium")) == expected
        words = describe()["precision"]
        assert words.startswith("'highest'")
        assert words.count("why") == expected.count(None)
        assert words.count("AVX512-BF16)") == expected.count("bf16")


def test_backends_of_torch_that_disagree_mean_the_default(monkeypatch):
    def undecided():
        raise RuntimeError("no single answer")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", undecided)
    assert bf16.precision() == "highest"
    assert LEM(2, 3)(torch.randn(2, 1, 2))[0].isfinite().all()


def test_a_compiled_layer_listens_to_the_precision_of_its_call(engine):
    layer = LipschitzRNN(2, 20, backend="fused")
    x = torch.randn(5, 3, 2)
    run = torch.compile(lambda v: layer(v)[0], fullgraph=True, backend="eager")
    found = {}
    with torch.no_grad():
        for precision in ("highest", "medium", "high"):
            torch.set_float32_matmul_precision(precision)
            found[precision] = run(x)
            assert torch.equal(found[precision], layer(x)[0]), precision
    assert not torch.equal(found["highest"], found["medium"])
