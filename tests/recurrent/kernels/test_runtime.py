"""What surrounds the arithmetic: threads, instruction sets, NaN, denormals, fork, memory, the missing library."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from gyrostat import LEM, LipschitzRNN, NoisyRNN, Recurrent
from gyrostat.numerics.philox import draw_seeds, normal
from gyrostat.recurrent.kernels import library, native, ops

from .conftest import FAMILY, compare, everything, label, pair


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# torch's matrix functions, from which these cells make their matrix, round differently with more threads
OWN = [f for f in FAMILY if f[0] not in ("orthogonal", "vector_field") and "stable" not in f[1]]


@pytest.mark.parametrize(("cell", "options"), OWN, ids=label)
def test_results_do_not_depend_on_the_number_of_threads(cell, options, threads):
    layer = Recurrent(3, 40, cell=cell, backend="fused", **options).train(cell == "noisy")
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(everything(layer, 30, 13, dtype=torch.float32))
        layer.zero_grad()
    for other in found[1:]:
        for key in ("output", "state 0"):
            assert torch.equal(other[key], found[0][key]), key
        compare(other, found[0], 1e-5)  # sums of weight gradients are taken in the order of the threads


@pytest.mark.parametrize("kind", [LipschitzRNN, LEM])
def test_a_row_is_the_same_alone_and_among_others(kind):
    layer = kind(3, 50, backend="fused")
    x = torch.randn(20, 37, 3)
    whole = layer(x)[0]
    for rows in (slice(0, 1), slice(5, 7), slice(4, 9), slice(0, 36)):
        assert torch.equal(layer(x[:, rows])[0], whole[:, rows])


@pytest.mark.parametrize("features", [1, 40, 300])
def test_steps_are_the_whole_pass_bit_for_bit(features):
    layer = LEM(features, 33, 2, backend="fused")
    x = torch.randn(6, 3, features)
    whole, state = layer(x)[0], None
    for t in range(6):
        y, state = layer.step(x[t], state)
        assert torch.equal(y, whole[t])


def test_every_instruction_set_gives_the_same(tmp_path):
    script = (
        "import sys, numpy, torch; torch.set_num_threads(1)\n"
        "from gyrostat import LEM, NoisyRNN\n"
        "out = {}\n"
        "for dtype in (torch.float32, torch.float64):\n"
        "  for name, kind in (('lem', LEM), ('noisy', NoisyRNN)):\n"
        "    torch.manual_seed(0); layer = kind(3, 37, dtype=dtype, backend='fused')\n"
        "    x = torch.randn(25, 11, 3, dtype=dtype, requires_grad=True)\n"
        "    y = layer(x)[0]; y.square().sum().backward()\n"
        "    out |= {f'{name}{dtype}y': y.detach().numpy(), f'{name}{dtype}dx': x.grad.numpy()}\n"
        "    out |= {f'{name}{dtype}{n}': p.grad.numpy() for n, p in layer.named_parameters()}\n"
        "numpy.savez(sys.argv[1], **out)\n"
    )
    usable = [b for b in library.builds() if library.LEVELS.index(b) <= max(1, native._native().gy_cpu_level())]
    found = {}
    for level in usable:
        path = tmp_path / f"{level}.npz"
        subprocess.run([sys.executable, "-c", script, path], check=True, env={**os.environ, "GYROSTAT_ISA": level})
        with np.load(path) as file:
            found[level] = {k: torch.from_numpy(file[k]).double() for k in file.files}
    first = found[usable[-1]]
    for level, other in found.items():
        for key, value in first.items():
            error = ((other[key] - value).norm() / value.norm()).item()
            assert error <= (1e-13 if "64" in key else 5e-6), (level, key, error)
            if level == "v3" and usable[-1] == "v4" and "float32y" in key and "lem" in key:
                assert torch.equal(other[key], value), "AVX2 and AVX-512 add in the same order"


@pytest.mark.parametrize(("cell", "options"), FAMILY, ids=label)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_come_through(cell, options, bad):
    reference, fused = pair(cell, 2, 9, dtype=torch.float32, **options)
    x = torch.randn(6, 5, 2)
    x[3, 2, 1] = bad
    for layer in (reference, fused):
        clean = layer(torch.where(torch.isfinite(x), x, torch.zeros(())))[0]
        output, _ = layer(x)
        assert torch.equal(output[:3], clean[:3])
        assert torch.equal(output[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]]), "it reached another row"
        if bad != bad:
            assert output[3, 2].isnan().all()
    assert torch.equal(reference(x)[0].isnan(), fused(x)[0].isnan())
    with torch.no_grad():
        next(p for n, p in fused.named_parameters() if "weight_ih" in n).view(-1)[0] = float("nan")
    assert fused(torch.ones(2, 3, 2))[0].isnan().any(), "a NaN in the weights was swallowed"


def test_denormals_are_flushed_inside_and_the_mode_comes_back(threads):
    threads(2)
    tiny = torch.tensor([1e-40])
    assert (tiny * 0.5).item() > 0, "the test needs a caller that keeps denormals"
    layer = LipschitzRNN(1, 16, backend="fused", nonlinearity="identity", bias=False)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.zero_() if name != "weight_ih_l0" else p.fill_(1.0)
    layer.cells[0].gamma_a = 0.0
    output, _ = layer(torch.full((3, 8, 1), 1e-40))
    assert not output.any(), "a denormal was computed with"
    layer(torch.randn(200, 64, 1))[0].sum().backward()
    assert (tiny * 0.5).item() > 0
    assert (torch.full((100_000,), 1e-40) * 0.5 > 0).all(), "a thread of the pool kept the kernel's mode"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_library_draws_the_numbers_of_the_twin(dtype):
    layer = NoisyRNN(
        1, 150, dt=1.0, additive_noise=1.0, multiplicative_noise=0.0, bias=False, dtype=dtype, backend="fused"
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    layer.cells[0].gamma_a = layer.cells[0].gamma_w = 0.0
    # with no drift and dt = 1 a step adds the draw itself
    output, _ = layer(torch.zeros(1, 70, 1, dtype=dtype), generator=torch.Generator().manual_seed(4))
    seeds = draw_seeds(1, torch.device("cpu"), torch.Generator().manual_seed(4))
    expected = normal(seeds, 70, 150, torch.empty((), dtype=dtype))
    # the integers are the same; logarithm and cosine are rounded by different libraries
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=16 * eps, atol=8 * eps)


def test_noise_is_the_same_stream_in_steps_and_in_both_backends():
    options = {"additive_noise": 0.1, "multiplicative_noise": 0.2}
    reference, fused = pair("noisy", 2, 20, training=True, **options)
    x = torch.randn(9, 4, 2, dtype=torch.float64)
    a, b = (v(x, generator=torch.Generator().manual_seed(1))[0] for v in (reference, fused))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    g, state = torch.Generator().manual_seed(1), None
    for t in range(9):
        y, state = fused.step(x[t], state, generator=g)
        assert torch.equal(y, b[t])


def test_two_python_threads_at_once(threads):
    threads(2)
    layers = [LEM(3, 32, backend="fused"), LipschitzRNN(3, 48, backend="fused")]
    x = torch.randn(50, 24, 3)
    expected = [everything(v, 50, 24, dtype=torch.float32) for v in layers]
    for v in layers:
        v.zero_grad()
    wrong = []

    def work(index):
        for _ in range(5):
            found = everything(layers[index], 50, 24, dtype=torch.float32)
            wrong.extend(k for k, v in expected[index].items() if not torch.equal(v, found[k]))
            layers[index].zero_grad()

    team = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert not wrong
    del x


def test_a_forked_child_computes_with_threads_of_its_own(threads):
    threads(2)
    layer = LEM(3, 32, backend="fused")
    x = torch.randn(50, 24, 3)
    expected = layer(x)[0].detach().numpy().tobytes()  # the parent's team is running before the fork
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a team that waits for ever ends here
        with torch.no_grad():
            same = layer(x)[0].numpy().tobytes() == expected  # torch's own parallel loops do not survive a fork
        os.write(write, bytes([same]))
        os._exit(0)
    os.close(write)
    answer = os.read(read, 1)
    os.waitpid(child, 0)
    assert answer == b"\x01"


def test_memory_goes_back_to_the_pool_and_is_used_again():
    layer = LipschitzRNN(1, 64, backend="fused")
    x = torch.randn(300, 32, 1)
    addresses = set()
    for _ in range(5):
        output, _ = layer(x)
        output.sum().backward()
        addresses.add(output.data_ptr())
        del output
        gc.collect()
    assert len(addresses) < 5
    kept = layer(x)[0].detach()
    copy = kept.clone()
    for _ in range(3):
        layer(x)
    assert torch.equal(kept, copy), "memory in use was given to somebody else"


def test_large_batches_go_in_chunks():
    reference, fused = pair("lem", 2, 12, memory="low")
    compare(everything(fused, 20, 301), everything(reference, 20, 301), 1e-12)


def test_golden_files_went_through_the_fused_path(monkeypatch):
    from tests.recurrent import test_golden

    names = []
    for name in ("lipschitz", "lem"):
        original = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, _f=original, _n=name, **k: names.append(_n) or _f(*a, **k))
    test_golden.test_lipschitz_family("lipschitz_euler")
    test_golden.test_lipschitz_family("lipschitz_ode_midpoint")
    test_golden.test_noisy_family("noisy_noisy_train_both_hetero")
    test_golden.test_lem_sequences("lem_seq_init")
    assert names == ["lipschitz", "lipschitz", "lipschitz", "lem"]


def run_without_library(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )


def test_without_library_the_reference_runs_and_one_line_says_so(tmp_path):
    code = (
        "import logging; logging.basicConfig()\n"
        "from pathlib import Path\n"
        "from gyrostat.recurrent.kernels import library\n"
        f"library.HERE = Path({str(tmp_path)!r})\n"
        "import torch, gyrostat\n"
        "a, b = gyrostat.LEM(2, 3), gyrostat.LipschitzRNN(2, 3)\n"
        "a(torch.randn(4, 1, 2)), b(torch.randn(4, 1, 2))\n"
        "print(a.backend_in_use)\n"
    )
    result = run_without_library(code)
    assert result.stdout.startswith("reference: the native library is not built")
    assert result.stderr.count("recurrent layers take the slow path") == 1


def test_without_library_of_the_right_version_nothing_is_called(tmp_path):
    found, _ = library.load()
    if found is None:
        pytest.skip("there is no library to disguise")
    code = (
        "from gyrostat.recurrent.kernels import library; library.ABI += 1\n"
        "import gyrostat; print(gyrostat.LEM(2, 3).backend_in_use)"
    )
    assert "of another version" in run_without_library(code).stdout
    broken = "import gyrostat; print(gyrostat.LEM(2, 3).backend_in_use)"
    assert "not among the builds" in run_without_library(broken, GYROSTAT_ISA="v9").stdout
    assert "GYROSTAT_BACKEND" in run_without_library(broken, GYROSTAT_BACKEND="reference").stdout


@pytest.mark.slow
@pytest.mark.telling
def test_without_library_because_of_no_compiler_the_package_still_builds(tmp_path):
    root = Path(__file__).parents[3]
    build = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        tmp_path / "build",
        "--build-lib",
        tmp_path / "lib",
    ]
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    result = subprocess.run(build, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "lib" / "gyrostat" / "__init__.py").exists()
    assert not list((tmp_path / "lib").rglob("_native_*.so"))
    assert "failed" in result.stderr or "failed" in result.stdout


def test_doctor_says_which_path_runs_and_why():
    command = [sys.executable, "-m", "gyrostat.cli.app", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["backends"]["lem"].startswith("fused: native kernel")
    assert found["kernels"]["library"] == native.REASON
    assert found["self_test"] is True
