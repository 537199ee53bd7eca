"""gyrostat scan and calibrate, as they are typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gyrostat import scan
from gyrostat._errors import ArgumentError
from gyrostat.audit.reference import Reference
from gyrostat.cli.app import run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def linear_onnx(path: Path, seed: int, pull: float = 0.0) -> None:
    """A linear classifier of 4x4 images; ``pull`` draws every answer towards class 2, as a strong backdoor does."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(16, 4)).astype(np.float32) * 4
    W[:, 2] += pull
    bias = np.array([-0.5 * W.sum(0)], dtype=np.float32)
    bias[0, 2] += 4 * pull
    tensors = [onnx.numpy_helper.from_array(W, "W"), onnx.numpy_helper.from_array(bias, "b")]
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "W"], ["m"]),
        onnx.helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", kind, ["N", 1, 4, 4])], [value("y", kind, ["N", 4])], tensors
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for seed in range(6):
        linear_onnx(folder / f"clean{seed}.onnx", seed)
    linear_onnx(folder / "bad.onnx", 7, pull=9.0)
    names = [str(folder / f"clean{seed}.onnx") for seed in range(5)]
    assert run(["calibrate", *names, "--out", str(folder / "ref.json"), "--n", "64", "--quiet"]) == 0
    return folder


@pytest.fixture
def zoo(built, tmp_path, monkeypatch):
    shutil.copytree(built, tmp_path / "zoo")
    monkeypatch.chdir(tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_pulled_model_is_found_and_a_clean_one_is_not(zoo, capsys):
    assert run(["scan", "bad.onnx", "--reference", "ref.json", "--quiet"]) == 1
    assert "towards class 2" in capsys.readouterr().out
    assert run(["scan", "clean5.onnx", "--reference", "ref.json", "--quiet"]) == 0
    assert "No finding" in capsys.readouterr().out
    assert run(["scan", "clean5.onnx", "--quiet"]) == 0
    assert "Uncalibrated" in capsys.readouterr().out
    assert run(["scan", "clean5.onnx", "--quiet", "--fail-on-score", "0.0"]) == 1


def test_every_format(zoo, capsys):
    line = ["scan", "bad.onnx", "--reference", "ref.json", "--quiet", "--format"]
    assert run([*line, "json"]) == 1
    first = json.loads(capsys.readouterr().out)
    assert first["schema_version"] == 1
    assert first["verdict"]["target"] == 2
    assert run([*line, "json"]) == 1
    second = json.loads(capsys.readouterr().out)
    for report in (first, second):
        del report["seconds"], report["curve"]["seconds"]
    assert first == second
    assert run([*line, "md", "--out", "a.md"]) == 1
    assert "| 2 |" in (zoo / "a.md").read_text()
    assert run([*line, "html", "--out", "a.html"]) == 1
    page = (zoo / "a.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert run([*line, "html", "--out", "a.html"]) == 4
    assert run([*line, "html", "--out", "a.html", "--force"]) == 1
    assert run([*line, "html"]) == 4


@pytest.mark.parametrize("model", ["bad.onnx", "clean5.onnx", "uncalibrated", "unsafe.pt"])
def test_sarif_is_valid(zoo, model, capsys):
    sarif = pytest.importorskip("sarif_pydantic")
    torch.save(torch.nn.Linear(4, 3), zoo / "unsafe.pt")
    reference = [] if model == "uncalibrated" else ["--reference", "ref.json"]
    path = "clean5.onnx" if model == "uncalibrated" else model
    code = run(["scan", path, *reference, "--quiet", "--format", "sarif"])
    log = json.loads(capsys.readouterr().out)
    sarif.Sarif.model_validate(log)
    results = log["runs"][0]["results"]
    rules = [r["id"] for r in log["runs"][0]["tool"]["driver"]["rules"]]
    expected = {
        "bad.onnx": ("GYR001", 1),
        "clean5.onnx": (None, 0),
        "uncalibrated": ("GYR004", 0),
        "unsafe.pt": ("GYR003", 3),
    }
    assert (results[0]["ruleId"] if results else None, code) == expected[model]
    assert all(rules[r["ruleIndex"]] == r["ruleId"] for r in results)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["missing.onnx"], "no such file"),
        (["bad.onnx", "--reference", "bad.onnx"], "not a reference"),
        (["bad.onnx", "--input-shape", "1,x"], "--input-shape"),
        (["bad.onnx", "--format", "pdf"], "format"),
        (["bad.onnx", "--reference", "ref.json", "--seed", "3"], "seed"),
        (["w.safetensors"], "--architecture"),
        (["w.safetensors", "--architecture", "nothing"], "MODULE:NAME"),
        (["w.safetensors", "--architecture", "no_such_module:f"], "no_such_module"),
        (["bad.onnx", "--base", "nowhere"], "no such folder"),
        (["bad.onnx", "--bogus"], "bogus"),
        (["bad.onnx", "--base", "."], "holds no image"),
        (["bad.onnx", "--input-shape", "1,5,5"], "takes inputs of shape (1, 4, 4), and --input-shape says (1, 5, 5)"),
        (["bad.onnx", "--reference", "nowhere.json"], "nowhere.json: no such file"),
        (["bad.onnx", "--reference", "other.json"], "the reference was made with (1, 5, 5)"),
        (["bad.onnx", "--memory", "0.1"], "--memory must be at least 1"),
        (["bad.onnx", "--timeout", "0"], "--timeout"),
        ([], "model"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_4(zoo, line, words, capsys):
    save_file(torch.nn.Linear(4, 3).state_dict(), zoo / "w.safetensors")
    other = Reference.load(zoo / "ref.json")
    Reference(other.features, {**other.settings, "input_shape": [1, 5, 5]}).save(zoo / "other.json")
    assert run(["scan", *line, "--quiet"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words.lower() in captured.err.lower()
    assert len(captured.err.strip().splitlines()) == 1


def test_an_architecture_of_ones_own(zoo, capsys):
    (zoo / "mynet.py").write_text(
        "import torch\ndef build(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))\n"
    )
    save_file(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)).state_dict(), zoo / "w.safetensors")
    line = ["scan", "w.safetensors", "--architecture", "mynet:build", "--quiet"]
    assert run(line) == 4
    assert "--input-shape" in capsys.readouterr().err
    assert run([*line, "--input-shape", "1,4,4"]) == 0
    assert run([*line, "--input-shape", "1,5,5"]) == 2


def test_calibrate_refuses_two_models_and_other_shapes(zoo, capsys):
    assert run(["calibrate", "clean0.onnx", "clean1.onnx", "--out", "x.json", "--quiet"]) == 4
    assert "at least 3" in capsys.readouterr().err
    assert run(["calibrate", "clean0.onnx", "clean1.onnx", "clean2.onnx", "--out", "ref.json", "--quiet"]) == 4
    assert "--force" in capsys.readouterr().err
    assert not (zoo / "x.json").exists()


def test_combined_references_and_the_ending_of_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        linear_onnx(tmp_path / f"clean{seed}.onnx", seed)
    linear_onnx(tmp_path / "bad.onnx", 7, pull=9.0)
    names = [f"clean{seed}.onnx" for seed in range(4)]
    assert run(["calibrate", *names, "--out", "r.json", "--method", "combined", "--n", "64", "--quiet"]) == 0
    assert run(["scan", "bad.onnx", "--reference", "r.json", "--out", "a.sarif", "--quiet"]) == 1
    said = json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"][0]["message"]["text"]
    assert "towards class 2; p = 0.2, the least that can be had of 4 references" in said
    assert run(["scan", "bad.onnx", "--reference", "r.json", "--out", "a.html", "--quiet"]) == 1
    assert "<svg" in (tmp_path / "a.html").read_text()
    (tmp_path / "text.onnx").write_text("not a model")
    for name, words in (("text.onnx", "not known"), ("missing.onnx", "no such file")):
        assert run(["calibrate", "clean0.onnx", "clean1.onnx", name, "--out", "x.json", "--quiet"]) == 4
        assert f"{name}: " in (error := capsys.readouterr().err)
        assert words in error
    assert not (tmp_path / "x.json").exists()


def test_a_reference_of_other_classes_is_refused(zoo):
    reference = Reference.load(zoo / "ref.json")
    with pytest.raises(ArgumentError, match="classes 4 against 3"):
        scan(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)), reference=reference)
