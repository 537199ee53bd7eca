"""Sources give what they say; every bad file gets one sentence that names what is wrong."""

import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gyrostat import GyrostatError, SequenceData, open_data
from gyrostat._errors import DataError
from gyrostat.data.batches import Batches
from gyrostat.data.images import permutation
from gyrostat.data.mnist import read_idx
from gyrostat.data.synthetic import fitzhugh_nagumo_initial, solve_fitzhugh_nagumo
from tests.conftest import WHOLE, load_golden

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("spec", "shape", "outputs"),
    [
        ("digits", (1797, 16, 4), 10),
        ("digits:layout=64x1", (1797, 64, 1), 10),
        ("adding:length=30,n=100", (100, 30, 2), 1),
        ("copy:blanks=5,n=60", (60, 25, 10), 9),
        ("fitzhugh-nagumo:n_train=2,n_valid=1,n_test=1", (4, 1000, 1), 1),
        ("forced-pendulum:n=40,length=50", (40, 50, 2), 2),
    ],
)
def test_sources(spec, shape, outputs):
    data = open_data(spec)
    assert data.x.shape == shape
    assert data.n_outputs == outputs
    rows = np.concatenate(list(data.split.values()))
    assert len(rows) == len(np.unique(rows)) == shape[0]
    assert data.content_hash == open_data(spec).content_hash


def test_adding_targets_are_the_marked_sum():
    data = open_data("adding:length=30,n=100", seed=4)
    np.testing.assert_allclose((data.x[..., 0] * data.x[..., 1]).sum(1), data.y[:, 0], rtol=1e-6)
    assert (data.x[:, :15, 1].sum(1) == 1).all()
    assert (data.x[:, 15:, 1].sum(1) == 1).all()


def test_fitzhugh_nagumo_against_golden():
    g, start = load_golden("fhn_golden"), load_golden("fhn_initial_values")
    ours = fitzhugh_nagumo_initial()
    np.testing.assert_array_equal(ours[:128], start["x0_train"])
    np.testing.assert_array_equal(ours[256:1280], start["x0_test"])
    v, w = solve_fitzhugh_nagumo(float(g["x0"][0]))
    # rtol 1e-10 per step leaves 4e-9 after 400 time units, measured on all golden trajectories
    np.testing.assert_allclose(v, g["v"][0], atol=1e-8)
    np.testing.assert_allclose(w, g["w"][0], atol=1e-8)
    released, _ = solve_fitzhugh_nagumo(float(g["x0"][0]), solver="released")
    # at rtol 1e-3 the step sequence magnifies rounding to 1e-2 at the jumps; the size of the error is what is stable
    error = np.sqrt(np.mean((released - v) ** 2))
    assert abs(error / np.sqrt(np.mean((g["v_rk45_default"][0] - g["v"][0]) ** 2)) - 1) < 0.05


def test_released_permutation_of_the_images():
    assert permutation("lem", 784)[:8].tolist() == [327, 72, 48, 129, 109, 101, 69, 569]
    assert permutation("exprnn", 784)[:4].tolist() == [319, 576, 323, 107]


def test_fashion_mnist_from_files(monkeypatch):
    folder = WHOLE.parent / "data"
    if not (folder / "fashion-mnist").is_dir():
        pytest.skip("the Fashion-MNIST files are absent")
    monkeypatch.setenv("GYROSTAT_DATA", str(folder))
    data = open_data("fashion-mnist:limit=500,layout=rows")
    assert data.x.shape == (600, 28, 28)
    assert data.x.max() == 1.0


def test_batches_depend_on_seed_and_epoch_and_go_on_in_the_middle():
    data = open_data("adding:length=10,n=100")
    batches = Batches(data, "train", 8, seed=1, shuffle=True)
    whole = [b.y for b in batches.epoch(3)]
    again = [b.y for b in Batches(data, "train", 8, seed=1, shuffle=True).epoch(3, start=4)]
    assert len(whole) == len(batches) == 10
    for a, b in zip(whole[4:], again, strict=True):
        assert (a == b).all()
    assert any((a != b.y).any() for a, b in zip(whole, batches.epoch(4)))


def good(tmp_path, **changes):
    arrays = {"X": rng.normal(size=(20, 6, 2)), "y": np.arange(20) % 3, **changes}
    path = tmp_path / "mine.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_npz_takes_a_small_x_too(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((40, 12, 2)), np.arange(40) % 2
    for name in ("X", "x"):
        np.savez(tmp_path / f"{name}_.npz", **{name: x, "y": y})
    found = [open_data(str(tmp_path / f"{name}_.npz")) for name in ("X", "x")]
    np.testing.assert_array_equal(found[0].x, found[1].x)


def test_npz_round_trip_and_standardisation(tmp_path):
    data = open_data(good(tmp_path))
    train = data.x[data.split["train"]].reshape(-1, 2)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)


def test_ragged_forms_agree(tmp_path):
    lengths = np.array([3, 5, 2, 4] * 5)
    pieces = [rng.normal(size=(n, 2)) for n in lengths]
    y = np.arange(20) % 2
    flat = tmp_path / "flat.npz"
    np.savez(flat, X=np.concatenate(pieces), y=y, lengths=lengths)
    lines = ["id,time,a,b,label"]
    lines += [f"s{i:02d},{t},{r[0]!r},{r[1]!r},{y[i]}" for i, p in enumerate(pieces) for t, r in enumerate(p.tolist())]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    a, b = open_data(flat), open_data(table)
    np.testing.assert_allclose(a.x, b.x, atol=1e-6)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    wide = tmp_path / "wide.csv"
    lines = [",".join(["id", *map(str, range(max(lengths))), "label"])]
    lines += [
        ",".join([f"s{i}", *map(repr, p[:, 0].tolist()), *[""] * (max(lengths) - len(p)), str(y[i])])
        for i, p in enumerate(pieces)
    ]
    wide.write_text("\n".join(lines))
    np.testing.assert_allclose(open_data(wide).x[..., 0], a.x[..., 0], atol=1e-6)
    np.testing.assert_array_equal(open_data(wide).lengths, a.lengths)
    wide.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert open_data(wide, answers=False).x.shape == (20, max(lengths), 1)
    ts = tmp_path / "one.ts"
    ts.write_text(
        "@problemName x\n@data\n"
        + "\n".join(",".join(map(repr, p[:, 0].tolist())) + f":{c}" for p, c in zip(pieces, y))
    )
    np.testing.assert_allclose(open_data(ts).x[..., 0], a.x[..., 0], atol=1e-6)


BAD = {
    "no y": ({"y": None}, "'y'"),
    "no X": ({"X": None}, "'X'"),
    "NaN": ({"X": np.full((20, 6, 2), np.nan)}, "nan in sequence 0, step 0"),
    "rank": ({"X": np.zeros((20, 6, 2, 2))}, "(N, T, F)"),
    "one class": ({"y": np.zeros(20, int)}, "two classes"),
    "mismatch": ({"y": np.arange(7) % 2}, "20 sequences"),
    "words in X": ({"X": np.array([["a"] * 6] * 20)}, "numbers"),
    "bad lengths": ({"lengths": np.full(20, 99)}, "lengths"),
    "objects": ({"X": np.array([[1], [1, 2]] * 10, dtype=object)}, "Python objects"),
    "shared rows": ({"train": np.arange(10), "valid": np.arange(9, 15), "test": np.arange(15, 20)}, "share rows"),
    "rows out of range": ({"train": np.arange(10), "valid": np.array([-50]), "test": np.array([15])}, "row numbers"),
    "words as rows": ({"train": np.array(["a"]), "valid": np.array([1]), "test": np.array([2])}, "row numbers"),
    "a scalar": ({"X": np.float64(3)}, "shape"),
    "no features": ({"X": np.zeros((20, 6, 0))}, "no features"),
    "half a split": ({"train": np.arange(5)}, "valid and test"),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD.keys())
def test_bad_npz(tmp_path, changes, words):
    with pytest.raises(DataError) as caught:
        open_data(good(tmp_path, **changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "header"),
        ("id,time,x,label\n1,0,abc,a\n", "line 2, column x"),
        ("id,time,x,label\n1,0,nan,a\n", "not finite"),
        ("id,time,x,label\n1,0,1,a\n1,0,2,a\n", "same time"),
        ("id,time,x,label\n1,0,1,a\n1,1,2,b\n", "labels"),
        ("id,time,x,label\n1,0,1\n", "fields"),
        ("id,time,x,label\n", "no rows"),
        ("0,1,label\n1,,a\n,2,b\n", "line 3, column 0: '' is not a number"),
        ("0,1,label\n,,a\n", "no numbers"),
        ("0,1,2\n1,2,3\n", "header"),
        ("label,0,target\na,1,2\n", "header"),
        ("", "empty"),
    ],
)
def test_bad_csv(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["digit", "digits:layout=9x9", "digits:color=red", "digits:layout", "missing.npz", "adding:length=-1"]
)
def test_bad_names(spec):
    with pytest.raises(DataError):
        open_data(spec)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2000))
def test_damaged_npz_only_raises_our_errors(tmp_path, position, byte, cut):
    raw = bytearray(good(tmp_path).read_bytes())
    raw[position % len(raw)] = byte
    path = tmp_path / "hurt.npz"
    path.write_bytes(bytes(raw[: len(raw) - (cut if cut < len(raw) and cut % 3 == 0 else 0)]))
    try:
        open_data(path)
    except GyrostatError:
        return


def test_idx_announcing_more_than_it_holds(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(b"\0\0\x08\x03" + (2**31).to_bytes(4, "big") * 3 + b"x")
    with pytest.raises(DataError, match="announces"):
        read_idx(path)


def test_a_zip_that_is_no_npz(tmp_path):
    path = tmp_path / "zip.npz"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("hello.txt", "hi")
    with pytest.raises(DataError):
        open_data(path)


def test_sequence_data_refuses_too_few():
    with pytest.raises(DataError, match="at least 4"):
        SequenceData("x", np.zeros((2, 3, 1)), np.array([0, 1]), "classify")


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_a_handful_of_sequences_is_split_in_three(n):
    data = SequenceData("few", np.zeros((n, 5, 1), "float32"), np.arange(n) % 2, "classify")
    assert all(len(rows) for rows in data.split.values())
    assert sorted(np.concatenate(list(data.split.values()))) == list(range(n))
