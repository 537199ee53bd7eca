"""The Triton kernels by Triton's interpreter, against the plain twins; and compiled, without a GPU, for its limits."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from gyrostat import LEM, AntisymmetricRNN, LipschitzRNN, NoisyRNN, OrthogonalRNN
from gyrostat.numerics.philox import draw_seeds, normal, uniform
from gyrostat.recurrent.kernels import gpu, gpu_lem, gpu_lipschitz, graph, triton_common, twin
from gyrostat.recurrent.kernels.shapes import BLOCK

# float32 products summed in another order; thirty steps of it stay below this
TOLERANCE = 3e-6


def steps_of(kind, T, B, H):
    return {None: None, "unit": torch.rand(H) * 0.3 + 0.01, "row": torch.rand(T, B) * 0.3 + 0.01}[kind]


@pytest.fixture(params=["one kernel", "step by step"])
def engine(request, monkeypatch):
    """Both engines; pieces and recordings so small that a few interpreted steps need several."""
    for module in (gpu_lipschitz, gpu_lem):
        monkeypatch.setattr(module, "GROUP", BLOCK)
        if request.param == "step by step":
            monkeypatch.setattr(module, "too_large", lambda kind, H: "said by the test")
    monkeypatch.setattr(graph, "STEPS", BLOCK)
    return request.param


def compare(reference, forward, backward, leaves, rest, options, n_states, wanted):
    """Values and all gradients of a kernel against those of its twin."""
    leaves = [t if t is None else t.requires_grad_() for t in leaves]
    expected = reference(*leaves, *rest, *options)
    given = [torch.randn_like(t) for t in expected]
    used = [True] * n_states + [wanted > k for k in range(n_states)]
    loss = sum((e * g).sum() for e, g, u in zip(expected, given, used, strict=True) if u)
    wants = torch.autograd.grad(loss, [t for t in leaves if t is not None])
    with torch.no_grad():
        plain = [t if t is None else t.detach() for t in leaves]
        *found, stash = forward(*plain, *rest, *options)
        for f, e, u in zip(found, expected, used, strict=True):
            if u:
                torch.testing.assert_close(f, e, rtol=TOLERANCE, atol=TOLERANCE)
            else:
                assert f.numel() == 0
        grads = [g if u else None for g, u in zip(given, used, strict=True)]
        needs = [t is not None for t in leaves]
        got = backward(*grads, *plain, *rest, *found[n_states:], stash, *options, needs)
    got = [g for g, t in zip(got, leaves, strict=True) if t is not None]
    for g, w in zip(got, wants, strict=True):
        assert (g - w).norm() <= TOLERANCE * w.norm() + 1e-6


LIPSCHITZ = {
    "euler": {},
    "one of everything": {"T": 1, "B": 1, "F": 1, "H": 1},
    "last state only": {"wanted": 0},
    "nothing kept": {"save": "none", "H": 33},
    "little kept": {"save": "low", "T": 2 * BLOCK + 5, "B": 2, "H": 4, "dt": "row", "held": True},
    "little kept, midpoint": {"save": "low", "T": BLOCK + 3, "solver": "midpoint", "wanted": 0},
    "midpoint": {"solver": "midpoint", "phi": "relu", "dt": "unit", "held": True},
    "midpoint, rows": {"solver": "midpoint", "dt": "row", "wanted": 0, "B": 18},
    "noise": {"noise": "sde", "H": 70},
    "noise, one motion": {"noise": "scalar", "dt": "unit"},
    "noise, released": {"noise": "released", "dt": "unit"},
    "noise, given": {"noise": "given", "dt": "row", "phi": "sigmoid"},
    "many steps, noise": {"T": BLOCK + 3, "B": 2, "H": 5, "noise": "sde", "dt": "row", "held": True},
    "many steps, given": {"T": BLOCK + 2, "B": 2, "H": 5, "noise": "given", "dt": "unit", "wanted": 0},
    "antisymmetric": {"linear": False, "dt": "unit"},
    "elman": {"linear": False, "residual": False, "phi": "identity", "held": True},
}


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_lipschitz_kernels_equal_their_twin(name, engine):
    made = {"T": 6, "B": 3, "F": 2, "H": 7, "linear": True, "phi": "tanh", "residual": True, "solver": "euler",
            "noise": "none", "dt": None, "held": False, "wanted": 1, "save": "full", **LIPSCHITZ[name]}  # fmt: skip
    T, B, F, H, noise = (made[k] for k in ("T", "B", "F", "H", "noise"))
    matrices = [torch.randn(H, H) * 0.3 / H**0.5 if need else None for need in (made["linear"], True)]
    dt = steps_of(made["dt"], T, B, H)
    leaves = [torch.randn(T, B, F), torch.randn(B, H), torch.randn(H, F), torch.randn(H), *matrices, None, dt]
    seeds = draw_seeds(T, torch.device("cpu")) if noise in ("sde", "scalar", "released") else None
    draws = (torch.randn(T, B, H) * 0.1, torch.rand(T, B, H)) if noise == "given" else (None, None)
    rest = [torch.rand(T, B) > 0.3 if made["held"] else None, seeds, *draws]
    options = (0.1, made["phi"], False, made["residual"], made["solver"], noise, 0.05, 0.1, made["wanted"], made["save"],
               dt is not None)  # fmt: skip
    compare(
        twin.lipschitz, gpu_lipschitz.lipschitz, gpu_lipschitz.lipschitz_backward, leaves, rest, options, 1,
        made["wanted"],
    )  # fmt: skip


LEM_CASES = {
    "both sequences": {},
    "one sequence": {"wanted": 1},
    "last states": {"wanted": 0, "held": True},
    "one of everything": {"T": 1, "B": 1, "F": 1, "H": 1, "wanted": 1},
    "rows": {"B": 19, "H": 20, "dt": "row", "held": True},
    "units": {"dt": "unit", "wanted": 1, "save": "none", "held": True},
    "many steps": {"T": BLOCK + 2, "B": 2, "dt": "unit", "held": True},
    "little kept": {"save": "low", "T": 2 * BLOCK + 5, "B": 2, "H": 4, "dt": "row", "wanted": 1},
    "little kept, last": {"save": "low", "T": BLOCK + 3, "wanted": 0},
}


@pytest.mark.parametrize("name", LEM_CASES)
def test_lem_kernels_equal_their_twin(name, engine):
    made = {"T": 6, "B": 3, "F": 2, "H": 7, "dt": None, "held": False, "wanted": 2, "save": "full", **LEM_CASES[name]}
    T, B, F, H = (made[k] for k in "TBFH")
    weights = [torch.randn(4 * H, F), torch.randn(4 * H), torch.randn(3 * H, H) / H**0.5, torch.randn(H, H) / H**0.5]
    leaves = [torch.randn(T, B, F), torch.randn(B, H), torch.randn(B, H), *weights, steps_of(made["dt"], T, B, H)]
    rest = [torch.rand(T, B) > 0.3 if made["held"] else None]
    options = (0.3, made["wanted"], made["save"])
    compare(twin.lem, gpu_lem.lem, gpu_lem.lem_backward, leaves, rest, options, 2, made["wanted"])


def test_nothing_in_nothing_out(engine):
    x, h0, W = torch.zeros(0, 3, 2), torch.randn(3, 7), torch.zeros(7, 7)
    inputs = (x, h0, torch.zeros(7, 2), None, W, W, None, None, None, None, None, None)
    options = (0.1, "tanh", False, True, "euler", "none", 0.0, 0.0, 1, "full", False)
    last, sequence, stash = gpu_lipschitz.lipschitz(*inputs, *options)
    assert torch.equal(last, h0)
    assert sequence.shape == (0, 3, 7)
    needs = [True, True, True, False, True, True, False, False]
    g = torch.randn(3, 7)
    found = gpu_lipschitz.lipschitz_backward(g, None, *inputs, sequence, stash, *options, needs)
    assert torch.equal(found[1], g)
    assert not found[5].any()


def test_not_a_number_is_never_swallowed(engine):
    x, h0, W = torch.zeros(4, 2, 1), torch.zeros(2, 3), torch.zeros(3, 3)
    x[1, 0, 0] = float("nan")
    for phi in triton_common.PHI:
        inputs = (x, h0, torch.ones(3, 1), None, W, W, None, None, None, None, None, None)
        options = (0.1, phi, False, True, "euler", "none", 0.0, 0.0, 1, "none", False)
        _, sequence, _ = gpu_lipschitz.lipschitz(*inputs, *options)
        assert sequence[1:, 0].isnan().all()
        assert sequence[:, 1].isfinite().all()


def test_random_numbers_are_those_of_the_twin():
    """Equal integers; sine, cosine and logarithm differ in the last digit."""
    seeds = draw_seeds(2, torch.device("cpu"), torch.Generator().manual_seed(5))
    T, B, H = 2, 5, 90
    zero, one = torch.zeros(T, B, H), torch.ones(T, B, H)
    inputs = (
        torch.zeros(T, B, 1),
        zero[0],
        torch.zeros(H, 1),
        None,
        None,
        torch.zeros(H, H),
        None,
        None,
        None,
        seeds,
        None,
        None,
    )
    options = (1.0, "identity", False, True, "euler", "sde", 1.0, 0.0, 1, "none", False)
    _, sequence, _ = gpu_lipschitz.lipschitz(*inputs, *options)
    torch.testing.assert_close(
        torch.diff(sequence, dim=0, prepend=zero[:1]), normal(seeds, B, H, zero), rtol=1e-5, atol=2e-6
    )
    inputs = (one[..., :1], zero[0], torch.ones(H, 1), *inputs[3:])
    options = (1.0, "identity", False, True, "euler", "released", 0.0, 1.0, 1, "none", False)
    _, sequence, _ = gpu_lipschitz.lipschitz(*inputs, *options)
    torch.testing.assert_close(
        torch.diff(sequence, dim=0, prepend=zero[:1]), uniform(seeds, B, H, zero), rtol=1e-6, atol=1e-6
    )


def test_which_cells_run_on_a_gpu_is_said_in_words():
    def asked(layer, dtype=torch.float32):
        return gpu.available(layer.cells[0], dtype)

    assert asked(LipschitzRNN(2, 64)) == (True, "Triton kernel, products in ieee")
    assert asked(NoisyRNN(2, 64))[0]
    assert asked(AntisymmetricRNN(2, 8))[0]
    assert "set_float32_matmul_precision('high')" in asked(LipschitzRNN(2, 128))[1]
    there, words = asked(LipschitzRNN(2, 300))
    assert there
    assert "CUDA graphs" in words
    assert "no precision" in words
    assert "set_float32_matmul_precision('high')" in asked(LEM(2, 64))[1]
    assert "gated" in asked(LipschitzRNN(2, 8, gated=True))[1]
    assert "rk4_38" in asked(LipschitzRNN(2, 8, solver="rk4_38"))[1]
    assert "modrelu" in asked(OrthogonalRNN(2, 8))[1]
    assert "float64" in asked(LEM(2, 8), torch.float64)[1]
    torch.set_float32_matmul_precision("high")
    try:
        assert asked(LipschitzRNN(2, 128)) == (True, "Triton kernel, products in tf32")
        assert asked(LEM(2, 64))[0]
        assert "'medium'" in asked(LEM(2, 128))[1]
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("engine", ["step by step"], indirect=True)
def test_a_plan_is_used_again_for_other_weights_and_few_are_kept(engine, monkeypatch):
    plans = {}
    monkeypatch.setattr(graph, "_PLANS", graph.OrderedDict())
    options = (0.1, "tanh", False, True, "euler", "none", 0.0, 0.0, 1, "none", False)
    for H in (3, 3, 4, 5, 6, 7):
        inputs = (
            torch.randn(2, 2, 1),
            torch.randn(2, H),
            torch.randn(H, 1),
            None,
            torch.randn(H, H),
            torch.randn(H, H),
        )
        inputs += (None,) * 6
        with torch.inference_mode(len(plans) == 0):
            found = gpu_lipschitz.lipschitz(*inputs, *options)[0]
        torch.testing.assert_close(found, twin.lipschitz(*inputs, *options)[0], rtol=TOLERANCE, atol=TOLERANCE)
        plans |= dict(graph._PLANS)
    assert len(plans) == 5
    assert len(graph._PLANS) == graph.KEPT
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    gpu_lipschitz.lipschitz(*inputs, *options)
    assert len({*plans, *graph._PLANS}) == 6, "another precision needs another recording"


def test_a_number_of_steps_is_run_then_recorded_then_replayed(monkeypatch):
    """The order of calls, with stand-ins for what only a GPU has: a recording runs nothing."""
    log, recording = [], []

    class Graph:
        def replay(self):
            log.extend(f"replay {n}" for n in self.held)

    @contextlib.contextmanager
    def record(into, stream, capture_error_mode):
        recording.append(into)
        yield
        into.held = [log.pop()]
        recording.pop()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "another stream")
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run = graph.Recorded(log.append, torch.device("cuda"))
    for n in (8, 8, 3, 8, 3, 3):
        run(n)
    assert log == [8, "replay 8", 3, "replay 8", "replay 3", "replay 3"]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run(8)
    assert log[-1] == 8, "inside another recording the steps themselves are recorded"


COMPILE = """
import json, os, re, subprocess, tempfile, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from gyrostat.recurrent.kernels import graph_lem, graph_lipschitz, triton_lem, triton_lipschitz

def resources(function, H, precision, constants):
    tile = graph_lipschitz.TILE if precision == "none" else {"ROWS": 16, "HP": H, "PRECISION": precision}
    constants = {**constants, **tile, "DT": 0, "HELD": precision == "none"}
    kinds = {"active": "*i1", "seeds": "*i64", "T": "i32", "B": "i32", "H": "i32"}
    kinds |= dict.fromkeys(("step", "sigma_a", "sigma_m"), "fp32") | {"t": "i32"}
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp32") for n in names}
    source = ASTSource(function, signature, {(names.index(k),): v for k, v in constants.items()})
    built = compile(source, GPUTarget("cuda", 90, 32), {"num_warps": min(16, H // 8), "num_stages": 1})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {"shared": built.metadata.shared, "stack": int(re.search(r"STACK:(\\d+)", text)[1])}

shared = {"LINEAR": True, "PHI": 0, "RESIDUAL": True, "STAGES": 1, "NOISE": 0, "SLOPES": 0}
two = {**shared, "STAGES": 2}
table = {
    "euler": [
        (triton_lipschitz.forward_kernel, {**shared, "WANTED": True, "SAVE": 1, "BLOCK": 16}),
        (triton_lipschitz.forward_kernel, {**shared, "NOISE": 1, "WANTED": True, "SAVE": 1, "BLOCK": 16}),
        (triton_lipschitz.backward_kernel, {**shared, "LAST": True, "EACH": False, "LEARNS": False}),
    ],
    "midpoint": [
        (triton_lipschitz.forward_kernel, {**two, "WANTED": False, "SAVE": 0, "BLOCK": 16}),
        (triton_lipschitz.backward_kernel, {**two, "LAST": True, "EACH": True, "LEARNS": False}),
    ],
    "lem": [
        (triton_lem.forward_kernel, {"WANTED": 2, "SAVE": 1, "BLOCK": 16}),
        (triton_lem.backward_kernel,
         {"LAST_Y": True, "LAST_Z": False, "EACH_Y": False, "EACH_Z": False, "LEARNS": False}),
    ],
}
point = {k: v for k, v in shared.items() if k != "STAGES"}
table["points"] = [
    *((graph_lipschitz.forward_point, {**point, "NOISE": noise, "MIDDLE": middle, "KEEP": True})
      for noise, middle in ((1, False), (3, False), (0, True))),
    *((graph_lipschitz.backward_point, {**point, "NOISE": noise, "FIRST": first, "EACH": True, "LEARNS": True})
      for noise, first in ((1, False), (0, True))),
    *((graph_lem.forward_point, {"SECOND": second}) for second in (False, True)),
    *((graph_lem.backward_point, {"SECOND": second, "EACH": True, "EACH_Z": True, "LEARNS": True})
      for second in (False, True)),
]
found = []
for kind, H, precision in json.loads(os.environ["ASKED"]):
    found += [[kind, H, precision, resources(function, H, precision, constants)] for function, constants in table[kind]]
print(json.dumps(found))
"""


def test_compiled_for_an_h100_nothing_spills_and_shared_memory_suffices():
    """Every size that ``too_large`` admits, at its largest; 227 KB is what one program may take there."""
    asked = [[kind, H, p] for kind, sizes in triton_common.LARGEST.items() for p, H in sizes.items()]
    asked.append(["points", 512, "none"])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"ASKED": json.dumps(asked)}
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert len(found) == 21 + 9
    for kind, H, p, used in found:
        assert used["shared"] <= 227 * 1024, (kind, H, p, used)
        # forty saved registers at the most; a state that does not fit would be kilobytes
        assert used["stack"] <= 160, (kind, H, p, used)
