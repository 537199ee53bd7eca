import json
import os

import numpy as np
import pytest
import scipy.sparse as sp

from gyrostat.cli.app import run


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
        ("a.npy", ["--out", "nowhere/f.npz"]),
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


def test_a_file_that_changes_is_refused(matrix):
    from gyrostat._errors import DataError
    from gyrostat.cli._matrix import open_matrix

    folder, _ = matrix
    rows = open_matrix(folder / "a.npy")
    os.utime(folder / "a.npy", ns=(1, 1))
    with pytest.raises(DataError, match="changed"):
        list(rows.blocks())
