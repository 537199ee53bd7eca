import json
import os

import numpy as np
import pytest
import scipy.sparse as sp

from gyrostat.cli.app import run
from gyrostat.cli.svd import _pass_in_words


@pytest.fixture
def matrix(tmp_path):
    A = np.random.default_rng(0).standard_normal((3000, 30)) / np.arange(1, 31)
    np.save(tmp_path / "a.npy", A)
    return tmp_path, A


def test_factors_report_and_table(matrix, capsys):
    folder, A = matrix
    line = ["svd", str(folder / "a.npy"), "--rank", "2", "--tol", "0.3"]
    assert run([*line, "--out", str(folder / "f.npz"), "--report", str(folder / "r.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with np.load(folder / "f.npz", allow_pickle=False) as f:
        np.testing.assert_allclose(f["s"], told["s"])
        assert f["U"].shape == (3000, 2)
        assert np.all(np.abs(f["s"] - np.linalg.svd(A, compute_uv=False)[:2]) < 2 * f["bound_values"] + 1e-9)
    assert "<svg" in (folder / "r.html").read_text()
    assert run([*line, "--out", str(folder / "f.npz")]) == 2  # finished results stay


def test_refined_factors_say_how_and_draw_each_pass(tmp_path, capsys):
    A = np.random.default_rng(0).standard_normal((8000, 300)) / np.arange(1, 301)
    np.save(tmp_path / "a.npy", A)
    line = ["svd", str(tmp_path / "a.npy"), "--rank", "3", "--tol", "1e-3", "--report", str(tmp_path / "r.html")]
    assert run([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passes"] == len(told["history"]) - 1 > 0
    assert "refined in" in told["note"]
    np.testing.assert_allclose(told["s"], np.linalg.svd(A, compute_uv=False)[:3], rtol=1e-5)
    page = (tmp_path / "r.html").read_text()
    assert "after each pass over A" in page
    assert "pass 2" in page


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("countsketch-500-0", "countsketch sketch of 500 rows"),
        ("normal-3440", "refining"),
        ("energy", "sum of squares"),
        ("left-51de", "left vectors"),
    ],
)
def test_progress_names_the_pass(name, words):
    assert _pass_in_words(name) == words


@pytest.mark.parametrize("kind", ["npz", "csv", "zarr", "h5", "parquet"])
def test_formats_agree_with_npy(kind, matrix, capsys):
    folder, A = matrix
    file = folder / f"a.{kind}"
    if kind == "npz":
        sp.save_npz(file, sp.csr_matrix(A))
    elif kind == "csv":
        np.savetxt(file, A, delimiter=",", header="names")
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr")
        zarr.open(str(file), mode="w", shape=A.shape, chunks=(500, 30), dtype="f8")[:] = A
    elif kind == "h5":
        with pytest.importorskip("h5py").File(file, "w") as f:
            f["x"] = A
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pa.table({f"c{j}": A[:, j] for j in range(30)}), file)
    values = []
    for path in (folder / "a.npy", file):
        flags = ["--rank", "2", "--max-size", "300", "--json"]
        assert run(["svd", str(path), *flags]) == 0
        values.append(json.loads(capsys.readouterr().out)["s"])
    np.testing.assert_allclose(*values, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("nan.npy", []),
        ("text.npy", []),
        ("broken.npy", []),
        ("a.npy", ["--rank", "30"]),
        ("a.npy", ["--max-size", "1"]),
        ("missing.npy", []),
        ("a.npy", ["--out", "/dev/null/f.npz"]),
    ],
)
def test_bad_input_is_one_sentence(name, flags, matrix, capsys):
    folder, A = matrix
    A[7, 3] = np.nan
    np.save(folder / "nan.npy", A)
    np.save(folder / "text.npy", np.array([["a", "b"], ["c", "d"]]))
    (folder / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00junk")
    before = sorted(os.listdir(folder))
    out = [] if "--out" in flags else ["--out", str(folder / "new.npz")]
    assert run(["svd", str(folder / name), "--rank", "2", *flags, *out]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("gyrostat: error: ")
    assert told.err.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("ragged.csv", "1,2,3\n4,5\n", "line 2 has 2 columns, but 3 were expected"),
        ("words.csv", "a;b\n1;2\n3;x\n", "line 3 holds 'x' in column 2"),
        ("empty.csv", "", "is empty"),
        ("bad.npz", "junk", "not a .npz archive"),
        ("bad.h5", "junk", "cannot be read as a matrix"),
        ("matrix.mat", "junk", "files of type .mat are not read"),
    ],
)
def test_broken_files_say_where(name, content, told, tmp_path, capsys):
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_text(content)
    assert run(["svd", str(tmp_path / name), "--rank", "1"]) == 2
    assert told in capsys.readouterr().err


def test_text_in_parquet_names_the_column(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": [1.0, 2.0], "word": ["x", "y"]}), tmp_path / "t.parquet")
    assert run(["svd", str(tmp_path / "t.parquet"), "--rank", "1"]) == 2
    assert "column 'word' is of type string" in capsys.readouterr().err


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_dense_npz(delimiter, matrix, capsys):
    folder, A = matrix
    np.savetxt(folder / "a.csv", A, delimiter=delimiter)
    np.savez(folder / "two.npz", x=A, y=A[:9])
    lines = [["a.npy"], ["a.csv"], ["two.npz", "--dataset", "x"]]
    values = []
    for name, *flags in lines:
        assert run(["svd", str(folder / name), *flags, "--rank", "2", "--max-size", "300", "--json"]) == 0
        values.append(json.loads(capsys.readouterr().out)["s"])
    np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=1e-10)
    assert run(["svd", str(folder / "two.npz"), "--rank", "2"]) == 2
    assert "['x', 'y']" in capsys.readouterr().err


def test_interrupt_and_the_same_line_again(matrix, capsys, monkeypatch):
    import signal

    from gyrostat.sketch.passes import Watch

    folder, A = matrix
    np.savetxt(folder / "a.csv", np.tile(A, (4, 1)), delimiter=",")
    line = ["svd", str(folder / "a.csv"), "--rank", "2", "--max-size", "300", "--out", str(folder / "f.npz")]
    assert run([*line[:-1], str(folder / "whole.npz")]) == 0
    plain, seen = Watch.run, []

    def interrupted(self, rows, work, name):
        tell = self.progress

        def progress(count):
            seen.append((name, count))
            if len(seen) == 6:
                signal.raise_signal(signal.SIGINT)
            tell(count)

        self.progress = progress
        try:
            plain(self, rows, work, name)
        finally:
            self.progress = tell

    monkeypatch.setattr(Watch, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert run(line) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "same line again" in capsys.readouterr().err
    assert not (folder / "f.npz").exists()
    [state] = [p for p in folder.iterdir() if p.name.startswith(".f.npz")]
    stopped = seen[-1]
    assert run(line) == 0
    assert seen[6][0] == stopped[0]
    assert seen[6][1] >= stopped[1]
    assert not state.exists()
    with np.load(folder / "f.npz") as one, np.load(folder / "whole.npz") as other:
        for key in other.files:
            np.testing.assert_array_equal(one[key], other[key])


def test_bad_rows_leave_no_state_behind(matrix, capsys):
    folder, A = matrix
    A = np.tile(A, (40, 1))
    A[-1, 3] = np.nan
    np.save(folder / "nan.npy", A)
    assert run(["svd", str(folder / "nan.npy"), "--rank", "2", "--out", str(folder / "f.npz")]) == 2
    assert f"row {len(A) - 1}, column 3" in capsys.readouterr().err
    assert not [p for p in folder.iterdir() if "f.npz" in p.name]


def test_right_only_leaves_out_u(matrix):
    folder, _ = matrix
    line = ["svd", str(folder / "a.npy"), "--rank", "2", "--tol", "0.3", "--right-only", "--out", str(folder / "f.npz")]
    assert run(line) == 0
    with np.load(folder / "f.npz") as found:
        assert "U" not in found.files
        assert found["Vt"].shape == (2, 30)


def test_a_file_that_changes_is_refused(matrix):
    from gyrostat._errors import DataError
    from gyrostat.cli._matrix import open_matrix

    folder, _ = matrix
    rows = open_matrix(folder / "a.npy")
    os.utime(folder / "a.npy", ns=(1, 1))
    with pytest.raises(DataError, match="changed"):
        list(rows.blocks())
