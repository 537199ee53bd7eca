"""Archives, graphs and headers that lie: everything ends in one of our errors, nothing executes, nothing hangs."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from gyrostat._errors import GyrostatError, UnsafeFileError
from gyrostat.audit.formats import sniff
from gyrostat.audit.graph import inspect_graph
from gyrostat.audit.load import load_model, pickle_report
from gyrostat.audit.pickles import walk
from gyrostat.audit.scan import scan
from gyrostat.audit.worker import Limits, Worker, WorkerError
from gyrostat.cli.app import run

from .hostile import checkpoint, live, named

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, TensorProto = onnx.helper, onnx.TensorProto
QUICK = Limits(memory=4 << 30, cpu_seconds=60, wait_seconds=120)  # to be waited for on a busy machine


def architecture():
    return torch.nn.Linear(4, 3)


def graph(nodes=None, initializers=None, **model):
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    initializers = [onnx.numpy_helper.from_array(weight, "W")] if initializers is None else initializers
    nodes = nodes or [helper.make_node("MatMul", ["x", "W"], ["y"])]
    body = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        initializers,
    )  # fmt: skip
    return helper.make_model(body, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], **model)


def external(location, **entries):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def state_bytes(**kwargs):
    buffer = io.BytesIO()
    torch.save(architecture().state_dict(), buffer, **kwargs)
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(path, words="."):
    with pytest.raises(UnsafeFileError, match=words):
        load_model(path, architecture=architecture, limits=QUICK)


def test_an_honest_graph_answers(here):
    (here / "m").write_bytes(graph().SerializeToString())
    with load_model(here / "m") as model:
        x = np.ones((5, 4), dtype=np.float32)
        np.testing.assert_allclose(model.predict(x), x @ np.arange(12).reshape(4, 3), rtol=1e-6)
        assert model.input_shape == (4,)


def test_honest_external_data_is_read(here):
    (here / "w.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    (here / "m.onnx").write_bytes(graph(initializers=[external("w.bin", offset=0, length=48)]).SerializeToString())
    with load_model(here / "m.onnx") as model:
        assert model.predict(np.eye(4, dtype=np.float32))[3, 2] == 11


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "..\\secret.bin", "", "missing.bin", "w.bin\0.txt"],
)
def test_external_data_stays_inside_the_folder(here, location):
    (here.parent / "secret.bin").write_bytes(bytes(48))
    (here / "m.onnx").write_bytes(graph(initializers=[external(location, offset=0, length=48)]).SerializeToString())
    refused(here / "m.onnx", "weights|folder")


@pytest.mark.parametrize(("offset", "length"), [(0, 49), (1 << 40, 4), (-4, 8), ("x", 4), (4, 48)])
def test_external_data_holds_what_is_asked(here, offset, length):
    (here / "w.bin").write_bytes(bytes(48))
    (here / "m.onnx").write_bytes(
        graph(initializers=[external("w.bin", offset=offset, length=length)]).SerializeToString()
    )
    refused(here / "m.onnx", r"w\.bin")


@pytest.mark.parametrize("where", ["file", "folder"])
def test_external_data_is_no_link(here, where):
    (here.parent / "secret.bin").write_bytes(bytes(48))
    if where == "file":
        os.symlink(here.parent / "secret.bin", here / "w.bin")
        location = "w.bin"
    else:
        os.symlink(here.parent, here / "sub")
        location = "sub/secret.bin"
    (here / "m.onnx").write_bytes(graph(initializers=[external(location, offset=0, length=48)]).SerializeToString())
    refused(here / "m.onnx", "symbolic link")


def test_external_data_hides_nowhere(here):
    bad = external("../secret.bin")
    constant = helper.make_node("Constant", [], ["W"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=bad))
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3])])
    branch = helper.make_node("If", ["c"], ["W"], then_branch=inner, else_branch=inner)
    function = helper.make_function("own", "F", [], ["W"], [constant], [helper.make_opsetid("", 17)])
    for model in (graph([constant]), graph([branch]), graph(functions=[function])):
        (here / "m.onnx").write_bytes(model.SerializeToString())
        refused(here / "m.onnx", "outside the model's folder")


@pytest.mark.parametrize(
    ("domain", "op"), [("evil", "Run"), ("com.microsoft", "EPContext"), ("ai.onnx.contrib", "PyOp")]
)
def test_operators_from_elsewhere(here, domain, op):
    (here / "m.onnx").write_bytes(graph([helper.make_node(op, ["x"], ["y"], domain=domain)]).SerializeToString())
    refused(here / "m.onnx", "code from elsewhere")


def test_a_graph_that_never_ends_or_eats_all_memory(here):
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])], "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, ["N", 4])],
        [value("c2", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, ["N", 4])],
    )  # fmt: skip
    forever = graph(
        [helper.make_node("Loop", ["n", "t", "x"], ["z"], body=body), helper.make_node("MatMul", ["z", "W"], ["y"])],
        [
            onnx.numpy_helper.from_array(np.array(1 << 62), "n"),
            onnx.numpy_helper.from_array(np.array(True), "t"),
            onnx.numpy_helper.from_array(np.zeros((4, 3), np.float32), "W"),
        ],
    )
    (here / "loop.onnx").write_bytes(forever.SerializeToString())
    report = scan(here / "loop.onnx", limits=Limits(cpu_seconds=3, wait_seconds=4))
    assert report.exit_code() == 2
    assert "did not answer" in report.failed or "died" in report.failed
    huge = graph(
        [helper.make_node("ConstantOfShape", ["s"], ["big"]), helper.make_node("ReduceSum", ["big"], ["r"], keepdims=0),
         helper.make_node("MatMul", ["x", "W"], ["p"]), helper.make_node("Add", ["p", "r"], ["y"])],
        [onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 16]), "s"),
         onnx.numpy_helper.from_array(np.zeros((4, 3), np.float32), "W")],
    )  # fmt: skip
    (here / "huge.onnx").write_bytes(huge.SerializeToString())
    report = scan(here / "huge.onnx", limits=QUICK)
    assert report.exit_code() == 2
    assert report.failed


def zip_of(entries, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def overlapping_bomb():
    """A central directory that lists one stored entry many times."""
    raw = zip_of([("archive/data.pkl", named("os", "system")), ("archive/data/0", bytes(1 << 16))], zipfile.ZIP_STORED)
    start = struct.unpack("<I", raw[-6:-2])[0]
    directory = raw[start:-22]
    end = bytearray(raw[-22:])
    end[8:12], end[12:16] = struct.pack("<HH", 200, 200), struct.pack("<I", len(directory) * 100)
    return raw[:start] + directory * 100 + bytes(end)


ARCHIVES = {
    "a bomb": zip_of([("archive/data.pkl", b"N" * (1 << 24)), ("archive/version", b"3")]),
    "a bomb of storages": zip_of([("archive/data.pkl", b"\x80\x02}."), ("archive/data/0", bytes(1 << 26))]),
    "overlapping entries": overlapping_bomb(),
    "a name twice": zip_of(
        [("archive/data.pkl", b"\x80\x02}."), ("archive/data.pkl ", b""), ("archive/x", b"")]
    ).replace(b"archive/data.pkl ", b"archive/data.pkl\0"),
    "a name that leads out": checkpoint(b"\x80\x02}.", **{"../../evil": b"x"}),
    "an absolute name": checkpoint(b"\x80\x02}.", **{"/etc/evil": b"x"}),
    "no pickle": zip_of([("archive/version", b"3")]),
    "cut in half": state_bytes()[: len(state_bytes()) // 2],
    "only an end": b"PK\x05\x06" + bytes(18),
    "an end that lies": b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + b"\xff" * 18,
    "evil beside the weights": checkpoint(b"\x80\x02}.", **{"archive/extra.pkl": named("os", "system")}),
    "in capitals": zip_of([("archive/DATA.PKL", named("os", "system"))]),
    "torchscript": zip_of(
        [("m/data.pkl", b"\x80\x02}."), ("m/constants.pkl", b"\x80\x02)."), ("m/code/__torch__.py", b"")]
    ),
    "an exported program": zip_of([("m/archive_format", b"pt2"), ("m/models/model.json", b"{}")]),
    "keras": zip_of([("config.json", b"{}"), ("metadata.json", b"{}"), ("model.weights.h5", b"")]),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(here, name):
    (here / "m.safetensors").write_bytes(ARCHIVES[name])
    refused(here / "m.safetensors")
    assert run(["scan", "m.safetensors", "--quiet"]) == 3


def test_two_files_in_one(here):
    evil = checkpoint(live()["exec by STACK_GLOBAL"])
    for front in (graph().SerializeToString(), safetensors_bytes(architecture().state_dict()), b"%PDF-1.4\n"):
        (here / "m").write_bytes(front + evil)
        refused(here / "m")
    assert os.listdir(here) == ["m"]


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b"[" * 100_000,
        json.dumps({"weight": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 48]}}).encode(),
        json.dumps({"weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 1 << 60]}}).encode(),
        json.dumps({"weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [40, 0]}}).encode(),
        json.dumps({"weight": {"dtype": "F999", "shape": [3, 4], "data_offsets": [0, 48]}}).encode(),
        json.dumps({"weight": {"dtype": "F32", "shape": [-3, 4], "data_offsets": [0, 48]}}).encode(),
        b'{"weight": 1}', b"{}", b"{", b'{"a":NaN}', "{\"\ud800\": 1}".encode("utf-8", "surrogatepass"),
    ],
)  # fmt: skip
def test_safetensors_headers_that_lie(here, header):
    (here / "m").write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
    with pytest.raises(GyrostatError):
        load_model(here / "m", architecture=architecture)
    (here / "m").write_bytes(struct.pack("<Q", 1 << 60) + header + bytes(48))
    refused(here / "m")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"), (b"\x89HDF\r\n\x1a\n" + bytes(99), "Lambda"), (b"\x1f\x8b" + bytes(99), "unpack"),
        (b"GGUF" + bytes(99), "language"), (b"\x93NUMPY" + bytes(99), "numpy"), (b"just some text, not a model", "not known"),
        (bytes(257) + b"ustar" + bytes(99), "tar"), (b"\x1c\0\0\0TFL3" + bytes(99), "TFLite"),
    ],
)  # fmt: skip
def test_other_formats_say_the_way_out(here, data, words):
    (here / "m.onnx").write_bytes(data)
    refused(here / "m.onnx", words)


def test_folders_devices_and_pipes_are_refused(here):
    refused(here, "not a regular file")
    os.mkfifo(here / "pipe")
    refused(here / "pipe", "not a regular file")


def test_trusted_files_run_elsewhere_and_within_limits(here):
    torch.save(architecture(), here / "m.pt")
    with load_model(here / "m.pt", trust=True, limits=QUICK) as model:
        assert model.predict(np.zeros((2, 4), np.float32)).shape == (2, 3)
        assert "not a sandbox" in model.warnings[0]
        child = model.worker.process
    assert child.poll() is not None
    for name in ("breaks off after the call", "reduce, protocol 4"):
        (here / "evil.pt").write_bytes(live()[name])
        with pytest.raises(GyrostatError):
            load_model(here / "evil.pt", trust=True, limits=QUICK)


def test_a_worker_that_dies_or_babbles_is_an_error():
    with Worker(QUICK) as worker:
        worker.process.kill()
        with pytest.raises(WorkerError, match="died"):
            worker.call("load", {"path": "x", "kind": "onnx"})
    with Worker(QUICK) as worker, pytest.raises(WorkerError):
        worker.call("load", {"path": "/nowhere", "kind": "pickle"})


@pytest.mark.slow
@pytest.mark.telling
def test_ten_thousand_mutants(here):
    """Static checks on every mutant of six honest files; those that pass are opened in a worker as well."""
    rng = np.random.default_rng(0)
    (here / "w.bin").write_bytes(bytes(48))
    honest = {
        "onnx": graph().SerializeToString(),
        "external": graph(initializers=[external("w.bin", offset=0, length=48)]).SerializeToString(),
        "zip": state_bytes(),
        "legacy": state_bytes(_use_new_zipfile_serialization=False),
        "safetensors": safetensors_bytes(architecture().state_dict()),
        "pickle": live()["hidden in a dictionary of weights"],
    }
    path = here / "m"
    opened = 0
    for i in range(10_000):
        data = bytearray(list(honest.values())[i % len(honest)])
        for _ in range(int(rng.integers(1, 6))):
            at, act = int(rng.integers(len(data))), rng.integers(4)
            if act == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif act == 1:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            elif act == 2:
                del data[at : at + int(rng.integers(1, 20))]
            else:
                data[at:at] = data[at : at + int(rng.integers(1, 20))]
            if not data:
                break
        path.write_bytes(bytes(data))
        try:
            kind = sniff(path).name
            if kind in ("torch", "pickle"):
                pickle_report(path)
            if kind in ("torch", "pickle", "safetensors"):
                load_model(path, architecture=architecture)
            if kind == "onnx":
                inspect_graph(path)
            if kind == "onnx" and i % 60 < 2:  # a process each: enough to see that crashes stay outside
                with load_model(path, limits=QUICK) as model:
                    model.predict(np.zeros((1, 4), np.float32))
                    opened += 1
            walk(bytes(data), pickles=None, max_opcodes=20_000)
        except GyrostatError:
            continue
    assert opened > 3
    assert sorted(os.listdir(here)) == ["m", "w.bin"]


ESCAPE = "\x1b]0;mine\x07"


@pytest.mark.parametrize("form", ["text", "md", "json", "sarif"])
def test_names_in_a_graph_do_not_move_the_cursor(form, tmp_path, capsys):
    operator = graph([helper.make_node(f"Op{ESCAPE}", ["x", "W"], ["y"], domain=f"own{ESCAPE}")])
    outputs = graph([helper.make_node("MatMul", ["x", "W"], ["y"]), helper.make_node("Identity", ["y"], [ESCAPE])])
    outputs.graph.output.append(helper.make_tensor_value_info(ESCAPE, TensorProto.FLOAT, ["N", 3]))
    for number, model in enumerate((operator, outputs)):
        (tmp_path / f"{number}.onnx").write_bytes(model.SerializeToString())
    assert run(["scan", str(tmp_path / "0.onnx"), "--format", form]) == 3
    assert run(["scan", str(tmp_path / "1.onnx"), "--format", form, "--n", "8"]) == 0
    told = capsys.readouterr()
    assert "gives 2 outputs" in told.err
    assert not {"\x1b", "\x07"} & {*told.out, *told.err}


def test_what_a_file_says_is_told_on_one_line_without_control_characters(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(f"1,2\n3,x{ESCAPE}\n")
    assert run(["svd", str(tmp_path / "a.csv"), "--rank", "1"]) == 2
    told = capsys.readouterr().err
    assert "not a number" in told
    assert told.count("\n") == 1
    assert "\x1b" not in told
