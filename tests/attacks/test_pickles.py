"""Hostile pickles are refused by name, nothing of them runs, and the walk ends."""

import os
import pickle
import subprocess
import sys

import pytest
import torch

from gyrostat._errors import UnsafeFileError
from gyrostat.audit.load import load_model, pickle_report
from gyrostat.audit.pickles import COMPUTED, walk
from gyrostat.cli.app import run

from .hostile import broken, by_name, checkpoint, live

NAMED, LIVE, BROKEN = by_name(), live(), broken()


def weights():
    return {"weight": torch.zeros(3, 4)}


def test_there_are_more_than_eighty_and_the_live_ones_really_fire(tmp_path):
    assert len(NAMED) + len(LIVE) > 160
    code = (
        "import sys, os, pickle, pathlib\n"
        "for i, path in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir(), key=lambda p: int(p.name))):\n"
        "    stream = path.open('rb')\n"
        "    try:\n"
        "        while True: pickle.load(stream)\n"
        "    except Exception as error: last = error\n"
        "    print(path.name, os.path.exists('canary'), repr(last)[:90])\n"
        "    if os.path.exists('canary'): os.remove('canary')\n"
    )
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    for i, data in enumerate(LIVE.values()):
        (source / str(i)).write_bytes(data)
    out = subprocess.run(
        [sys.executable, "-c", code, str(source)], cwd=work, capture_output=True, text=True, check=True
    ).stdout
    fired = [line.split(" ", 2) for line in out.splitlines()]
    silent = [(list(LIVE)[int(i)], why) for i, hit, why in fired if hit != "True"]
    assert not silent
    assert len(fired) == len(LIVE)


@pytest.mark.parametrize("name", NAMED)
def test_what_a_file_would_call_is_named(name, tmp_path):
    report = walk(NAMED[name])
    assert report.refused == (name,)
    assert not report.safe
    (tmp_path / "model.pt").write_bytes(NAMED[name])
    with pytest.raises(UnsafeFileError, match="would call"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "checkpoint"])
def test_nothing_of_a_live_one_runs(name, wrapped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = checkpoint(LIVE[name]) if wrapped else LIVE[name]
    (tmp_path / "model.onnx").write_bytes(data)  # the name lies: the bytes decide
    with pytest.raises(UnsafeFileError) as refusal:
        load_model(tmp_path / "model.onnx", architecture=lambda: torch.nn.Linear(4, 3))
    assert "\n" not in str(refusal.value)
    assert run(["scan", "model.onnx", "--quiet"]) == 3
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]


def test_computed_names_are_said_to_be_computed():
    assert COMPUTED in walk(LIVE["a name computed by a call"]).globals


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_end_in_our_error(name, tmp_path):
    report = walk(BROKEN[name])
    assert not report.safe or name.startswith(("laughs", "endless nesting"))
    for data in (BROKEN[name], checkpoint(BROKEN[name])):
        (tmp_path / "model.pt").write_bytes(data)
        with pytest.raises(UnsafeFileError):
            load_model(tmp_path / "model.pt", architecture=lambda: torch.nn.Linear(4, 3))


@pytest.mark.parametrize("legacy", [False, True])
def test_honest_checkpoints_pass(legacy, tmp_path):
    path = tmp_path / "w.pt"
    state = dict(torch.nn.Linear(4, 3).state_dict())
    for kept in (state, {"state_dict": state, "epoch": 3}, {**state, "weight": state["weight"].t().clone().t()}):
        torch.save(kept, path, _use_new_zipfile_serialization=not legacy)
        assert pickle_report(path).safe
        with load_model(path, architecture=lambda: torch.nn.Linear(4, 3)) as model:
            torch.testing.assert_close(model.predict.weight, state["weight"])
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64):
        torch.save({"a": torch.zeros(2, dtype=dtype), "p": torch.nn.Parameter(torch.zeros(2))}, path)
        assert pickle_report(path).safe, dtype


def test_a_pickled_module_is_refused_and_says_why(tmp_path, capsys):
    torch.save(torch.nn.Linear(4, 3), tmp_path / "m.pt")
    assert run(["scan", str(tmp_path / "m.pt"), "--quiet"]) == 3
    assert "torch.nn.modules.linear.Linear" in capsys.readouterr().out
    (tmp_path / "p").write_bytes(pickle.dumps([1, 2]))
    assert run(["scan", str(tmp_path / "p"), "--quiet"]) == 3
