"""Bad files of the user through the command line: one sentence that says what is wrong, exit code 2, no traceback."""

import gzip
import pickle

import numpy as np
import pytest

from gyrostat import open_data
from gyrostat._errors import DataError
from gyrostat.cli.app import run

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 6, 2)), np.arange(20) % 3


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def savez(**arrays):
    def write(path):
        np.savez(path, **{**{"X": X, "y": Y}, **arrays})

    return write


def savez_without(key):
    def write(path):
        np.savez(path, **{k: v for k, v in {"X": X, "y": Y}.items() if k != key})

    return write


def text(content):
    return lambda path: path.write_text(content)


def raw(content):
    return lambda path: path.write_bytes(content)


HEAD = "id,time,x,label\n"
TS = "@problemName toy\n@classLabel true a b\n@data\n"
HOLE = X.copy()
HOLE[3, 2, 1] = np.nan
BAD = {
    "no X": ("a.npz", savez_without("X"), "'X'"),
    "no y": ("a.npz", savez_without("y"), "'y'"),
    "NaN": ("a.npz", savez(X=HOLE), "sequence 3, step 2, feature 1"),
    "rank": ("a.npz", savez(X=np.zeros((20, 6, 2, 2))), "(N, T, F)"),
    "one class": ("a.npz", savez(y=np.zeros(20, int)), "two classes"),
    "ragged without lengths": ("a.npz", savez(X=X.reshape(120, 2)), "120 sequences and y has 20"),
    "objects": ("a.npz", savez(X=np.array([[1], [1, 2]] * 10, dtype=object)), "could execute code"),
    "a pickle inside": ("a.npz", savez(X=np.array([Bomb()] * 20, dtype=object)), "could execute code"),
    "a bare pickle": ("a.npz", lambda p: p.write_bytes(pickle.dumps([1, 2])), "not a whole .npz"),
    "empty": ("a.npz", raw(b""), "empty"),
    "wrong magic": ("a.npz", raw(b"GIF89a" * 50), "not a whole .npz"),
    "many whole numbers": ("a.npz", savez(X=np.tile(X, (2, 1, 1)), y=np.arange(40)), "task=regress"),
    "csv header": ("a.csv", text("a,b\n1,2\n"), "header must be"),
    "csv empty": ("a.csv", text(""), "empty"),
    "csv words": ("a.csv", text(HEAD + "1,0,abc,a\n"), "line 2, column x"),
    "csv NaN": ("a.csv", text(HEAD + "1,0,nan,a\n"), "not finite"),
    "csv one class": ("a.csv", text(HEAD + "".join(f"{i},0,1,a\n" for i in range(8))), "two classes"),
    "csv no label": ("a.csv", text(HEAD + "1,0,1,\n"), "no label"),
    "csv binary": ("a.csv", raw(b"\xff\xfe\x00\x01" * 9), "UTF-8"),
    "ts stranger": ("a.ts", text(TS + "1,2,3:c\n"), "label 'c'"),
    "ts missing": ("a.ts", text(TS + "1,?,3:a\n"), "missing value"),
    "ts no answers": ("a.ts", text("@classLabel false\n@data\n1,2:3\n"), "nothing to learn"),
    "ts uneven": ("a.ts", text(TS + "1,2:1,2,3:a\n"), "equal length"),
    "ts time stamps": ("a.ts", text("@timeStamps true\n@data\n"), "time stamps"),
    "no such ending": ("a.parquet", raw(b"PAR1"), "must end in"),
}


@pytest.mark.parametrize("verb", ["train", "compare"])
@pytest.mark.parametrize(("file", "write", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_gets_one_sentence(tmp_path, capsys, verb, file, write, words):
    write(tmp_path / file)
    assert run([verb, str(tmp_path / file), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("gyrostat: error:")
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fashion-mnist:limit=abc", "fashion-mnist: limit must be an integer >= 0, got 'abc'"),
        ("forced-pendulum:damping=nan", "forced-pendulum: damping must be a number >= 0 and <= 100, got nan"),
        ("digits:layot=8x8", "did you mean 'layout'?"),
        ("digits:8x8", "key=value"),
        ("digit", "did you mean 'digits'?"),
        ("adding:length=1000000,n=10000000", "does not fit into memory"),
        ("mnist", "GYROSTAT_DATA"),
        ("my.npz:colour=red", "no option 'colour'; it has standardize, task"),
        ("my.csv:task=guess", "task must be one of"),
        ("missing.ts", "no such file"),
    ],
)
def test_a_bad_name_or_option_gets_one_sentence(tmp_path, capsys, monkeypatch, spec, words):
    monkeypatch.delenv("GYROSTAT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run(["train", spec, "--out", "out"]) == 2
    assert words in capsys.readouterr().err


def test_a_truncated_gzip_gets_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    whole = gzip.compress(b"\0\0\x08\x03" + bytes(4000))
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(whole[:-9])
    assert run(["train", "mnist", "--out", str(tmp_path / "out")]) == 2
    assert "not a whole gzip file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("y", "options", "task", "classes"),
    [
        (np.arange(20) % 3, {}, "classify", ("0", "1", "2")),
        (np.array(["b", "a"] * 10), {}, "classify", ("a", "b")),
        (np.array(["1.0", "2"] * 10), {}, "classify", ("1", "2")),
        (np.array(["1.5", "2"] * 10), {}, "regress", ()),
        (np.array([1.0, 2.0] * 10), {}, "regress", ()),
        (np.array([1.0, 2.0] * 10), {"task": "classify"}, "classify", ("1", "2")),
        (np.arange(20), {"task": "regress"}, "regress", ()),
        (np.arange(20), {"task": "classify"}, "classify", tuple(map(str, range(20)))),
        (np.zeros((20, 4)), {}, "regress", ()),
        (np.zeros((20, 6, 3)), {}, "predict", ()),
        (np.arange(120).reshape(20, 6) % 4, {}, "tag", ("0", "1", "2", "3")),
    ],
)
def test_what_answers_mean(tmp_path, y, options, task, classes):
    savez(y=y)(tmp_path / "a.npz")
    data = open_data(tmp_path / "a.npz", **options)
    assert (data.task, data.classes) == (task, classes)
    assert ("classes" if classes else "targets") in data.provenance


def test_a_column_target_and_a_line_targetlabel_hold_targets(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("id,time,x,target\n" + "".join(f"{i},{t},{t * i},{i % 3}\n" for i in range(9) for t in range(3)))
    assert open_data(table).y[:, 0].tolist() == [0, 1, 2] * 3
    assert open_data(f"{table}:task=classify").task == "classify"
    ts = tmp_path / "a.ts"
    ts.write_text(
        "\ufeff%# a comment\n@classLabel false\n@targetLabel true\n@data\n"
        + "".join(f"1,2,{i}:{i}\n" for i in range(9))
    )
    assert open_data(ts).y[:, 0].tolist() == list(range(9))
    savez(y=np.array(["a", "b"] * 10))(tmp_path / "a.npz")
    with pytest.raises(DataError, match="targets must be numbers, got 'a'"):
        open_data(f"{tmp_path / 'a.npz'}:task=regress")
