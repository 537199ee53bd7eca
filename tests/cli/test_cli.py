"""Wrong lines get one sentence and exit code 2, leave nothing behind, and help needs no torch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gyrostat.cli.app import purpose, run, verbs

WRONG = [
    ["nosuch"],
    ["train"],
    ["train", "nosuch"],
    ["train", "missing.npz"],
    ["train", "digits", "--model", "lemm"],
    ["train", "digits", "--lr", "-1"],
    ["train", "digits", "--epochs", "many"],
    ["train", "digits", "--epochs", "0"],
    ["train", "digits", "--hidden-size", "0"],
    ["train", "digits", "--set", "foo=1"],
    ["train", "digits", "--set", "dt"],
    ["train", "digits", "--set", "dt=-1"],
    ["train", "digits", "--device", "abacus"],
    ["train", "digits:layout=3x3"],
    ["compare", "digits", "--models", "lem,lem"],
    ["compare", "digits", "--models", "nothing"],
    ["compare", "digits", "--seeds", "0"],
    ["compare", "digits", "--same", "weight"],
    ["predict", "nowhere", "digits"],
    ["cells", "show"],
    ["cells", "show", "lme"],
    ["cite", "nobody"],
]


@pytest.mark.parametrize("line", WRONG, ids=" ".join)
def test_wrong_lines(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("gyrostat: error: ")
    assert "Traceback" not in said.err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_train_predict_and_no_overwriting(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal(2.0, 5.0, size=(40, 8, 2))
    y = (X[:, :, 0].mean(1) > 2).astype(int)
    np.savez("mine.npz", X=X, y=y)
    line = ["train", "mine.npz", "--model", "lem", "--epochs", "2", "--quiet", "--device", "cpu", "--out", "r"]
    assert run([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs_run"] == 2
    assert run(line) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*line, "--force"]) == 0
    assert run(["predict", "r", "mine.npz", "--out", "p.csv"]) == 0
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert rows[0] == "row,prediction,p_0,p_1"
    assert len(rows) == 41
    assert run(["predict", "r", "mine.npz", "--out", "p.csv"]) == 2
    np.savez("new.npz", X=X)
    assert run(["predict", "r", "new.npz", "--out", "new.csv"]) == 0
    assert (tmp_path / "new.csv").read_text() == (tmp_path / "p.csv").read_text()
    steps = [f"a,{t},{float(X[0, t, 0])!r},{float(X[0, t, 1])!r}" for t in range(8)]
    for name, header, tail in (("bare.csv", "id,time,u,v", ""), ("same.csv", "id,time,u,v,label", ",0")):
        (tmp_path / name).write_text("\n".join([header, *(s + tail for s in steps)]) + "\n")
        assert run(["predict", "r", name, "--out", f"{name}.out"]) == 0
        assert (tmp_path / f"{name}.out").read_text().splitlines() == rows[:2]


def test_predictions_at_every_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(20, 6, 2))
    answers = {"numbers": np.cumsum(X, 1), "labels": (np.cumsum(X[:, :, 0], 1) > 0).astype(int)}
    for name, y in answers.items():
        np.savez(f"{name}.npz", X=X, y=y)
        assert run(["train", f"{name}.npz", "--model", "lem", "--epochs", "1", "--quiet", "--out", name]) == 0
        capsys.readouterr()
        assert run(["predict", name, f"{name}.npz", "--out", f"{name}.csv"]) == 0
        assert "predictions for 20 sequences" in capsys.readouterr().out
    rows = [line.split(",") for line in (tmp_path / "numbers.csv").read_text().splitlines()]
    assert rows[0] == ["row", "step", "prediction_0", "prediction_1"]
    assert [r[:2] for r in rows[1:]] == [[str(i), str(t)] for i in range(20) for t in range(6)]
    rows = [line.split(",") for line in (tmp_path / "labels.csv").read_text().splitlines()]
    assert rows[0] == ["row", "step", "prediction", "p_0", "p_1"]
    assert all(r[2] == str(int(float(r[4]) > float(r[3]))) for r in rows[1:])
    assert len(rows) == 121


def test_a_graph_as_an_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = [
        "train",
        "digits",
        "--model",
        "vector_field",
        "--hidden-size",
        "4",
        "--epochs",
        "1",
        "--quiet",
        "--out",
        "r",
    ]
    assert run([*line, "--set", "geometry=[[0,1],[1,2],[2,3]]"]) == 0
    assert run(["predict", "r", "digits"]) == 0
    assert run([*line, "--force", "--set", "geometry=[[0,1],[1"]) == 2
    assert "JSON list" in capsys.readouterr().err


def test_a_folder_that_is_not_ours_is_never_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    assert run(["train", "digits", "--out", "precious", "--force", "--epochs", "1"]) == 2
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_doctor_cells_cite(capsys):
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["self_test"] is True
    assert run(["cells"]) == 0
    assert "lem" in capsys.readouterr().out
    assert run(["cells", "show", "lem"]) == 0
    assert "arXiv:2110.04744" in capsys.readouterr().out
    assert run(["cite", "noisy"]) == 0
    assert "2102.04877" in capsys.readouterr().out


def test_help_needs_no_torch():
    code = (
        "import sys; from gyrostat.cli.app import run; run(['--help']); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for verb in verbs():
        assert verb.replace("_", "-") in out
        assert purpose(verb)
        assert purpose(verb)[:25] in out


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself(verb, capsys):
    assert run([verb.replace("_", "-"), "--help"]) == 0
    assert "Example" in capsys.readouterr().out
