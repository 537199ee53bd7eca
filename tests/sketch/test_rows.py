"""S9: the sketch depends on the matrix alone, not on where it lives or how it is cut; what cannot be read is refused."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat import bootstrap_error, sketched_svd, svd
from gyrostat._errors import ArgumentError, ArgumentTypeError, DataError, MemoryBudgetError, NonFiniteError
from gyrostat.sketch.npy import NpyFile
from gyrostat.sketch.rows import as_rows
from gyrostat.sketch.sketches import METHODS, sketch
from gyrostat.sketch.stream import accumulator
from tests.sketch.matrices import polynomial

STREAMS = ("gaussian", "countsketch", "sparse_sign", "srht", "uniform", "length")


@pytest.mark.parametrize("method", STREAMS)
def test_s9_chunks_do_not_matter(method):
    A = polynomial(3000, 20)[0]
    whole_rows = as_rows([A])[0]
    whole_rows.n = 3000
    whole = sketch(whole_rows, 200, method=method)
    for step in (3000, 1024, 700, 37):
        rows = as_rows([A[a : a + step] for a in range(0, 3000, step)])[0]
        rows.n = 3000
        np.testing.assert_array_equal(sketch(rows, 200, method=method).matrix, whole.matrix)


@pytest.mark.parametrize("method", METHODS)
def test_s9_sources_agree(method):
    import torch

    A = polynomial(2100, 12)[0]
    A[np.abs(A) < 0.01] = 0
    expected = sketch(A, 150, method=method).matrix
    sources = [sp.csr_matrix(A), torch.from_numpy(A), A.copy(order="F")]
    da = pytest.importorskip("dask.array")
    sources.append(da.from_array(A, chunks=(500, 12)))
    for source in sources:
        found = sketch(source, 150, method=method).matrix
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("method", STREAMS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 2600), max_size=6), kind=st.sampled_from([float, complex]))
def test_a_stream_may_be_looked_at_and_goes_on(method, cuts, kind):
    g = np.random.default_rng(0)
    A = (g.standard_normal((2600, 5)) + (1j * g.standard_normal((2600, 5)) if kind is complex else 0)).astype(kind)
    whole = accumulator(method, 60, 5, A.dtype, 3, 2600)
    parts = accumulator(method, 60, 5, A.dtype, 3, 2600)
    for block in as_rows([A])[0].blocks():
        whole.update(block)
    edges = [0, *sorted(cuts), 2600]
    for a, b in pairwise(edges):
        for block in as_rows([A[a:b]])[0].blocks():
            parts.update(block)
        if b:
            parts.finish()
            fresh = accumulator(method, 60, 5, A.dtype, 3, 2600)
            fresh.restore(parts.state())
            parts = fresh
    np.testing.assert_allclose(parts.finish(), whole.finish(), atol=1e-12)


@pytest.mark.parametrize("method", ["uniform", "length"])
def test_one_pass_sampling_has_the_right_law(method):
    # 1,100 rows, two key blocks of unequal weight; 40,000 draws in all
    weight = np.where(np.arange(1100) < 1024, 1.0, 4.0)
    A = np.sqrt(weight)[:, None]
    work = accumulator(method, 40_000, 1, np.float64, 0)
    for block in as_rows([A])[0].blocks():
        work.update(block)
    drawn = np.mean(work.closed().index >= 1024)
    expected = 76 / 1100 if method == "uniform" else 4 * 76 / (1024 + 4 * 76)
    # four standard deviations of a frequency over 40,000
    assert abs(drawn - expected) < 4 * np.sqrt(expected / 40_000)
    assert work.finish().T @ work.finish() == pytest.approx((A.T @ A).item(), rel=0.02)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("method", ["gaussian", "countsketch", "length"])
def test_dask_schedulers_agree(scheduler, method):
    da, dask = pytest.importorskip("dask.array"), pytest.importorskip("dask")
    A = polynomial(2100, 12)[0]
    expected = sketched_svd(A, 2, 60, method)
    with dask.config.set(scheduler=scheduler):
        # blocks of 500 rows are larger than the sketch, blocks of 50 smaller: done there, and done here
        for chunk in (500, 50) if scheduler != "processes" else (500,):
            found = sketched_svd(da.from_array(A, chunks=(chunk, 12)), 2, 60, method)
            np.testing.assert_allclose(found.sketch.matrix, expected.sketch.matrix, atol=1e-12)
            np.testing.assert_allclose(found.U, expected.U, atol=1e-10)
        A[1203, 7] = np.nan
        with pytest.raises(NonFiniteError, match="row 1203, column 7"):
            sketched_svd(da.from_array(A, chunks=(500, 12)), 2, 60, method)


@pytest.mark.slow
@pytest.mark.telling
def test_dask_cluster():
    distributed, da = pytest.importorskip("distributed"), pytest.importorskip("dask.array")
    A = polynomial(2100, 12)[0]
    expected = svd(A, 2, 0.5)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        found = svd(da.from_array(A, chunks=(500, 12)), 2, 0.5)
        np.testing.assert_allclose(found.s, expected.s, atol=1e-12)
        np.testing.assert_allclose(found.U, expected.U, atol=1e-10)


def test_dask_columns_in_chunks_are_warned_about():
    da = pytest.importorskip("dask.array")
    A = polynomial(600, 12)[0]
    with pytest.warns(UserWarning, match="rechunk"):
        found = sketch(da.from_array(A, chunks=(200, 5)), 50)
    np.testing.assert_allclose(found.matrix, sketch(A, 50).matrix, atol=1e-12)


def test_exact_path_of_dask_and_sparse_is_the_truth():
    A, _, s, _ = polynomial(9000, 40)
    found = [svd(A, 3, 1e-4), svd(sp.csr_matrix(A), 3, 1e-15)]
    da = pytest.importorskip("dask.array")
    found.append(svd(da.from_array(A, chunks=(3000, 40)), 3, 1e-4))
    for r in found:
        assert r.exact
        np.testing.assert_allclose(r.s, s[:3], rtol=1e-7)


def test_wide_sparse_goes_to_lanczos_and_never_dense(monkeypatch):
    A = sp.random(2500, 2000, density=0.002, random_state=np.random.default_rng(0), format="csr")
    for name in ("toarray", "todense"):
        monkeypatch.setattr(sp.csr_matrix, name, lambda *_: pytest.fail("made dense"))
        monkeypatch.setattr(sp.csr_array, name, lambda *_: pytest.fail("made dense"))
    r = svd(A, 3, 1e-3)
    assert "Lanczos" in r.note
    assert r.U.shape == (2500, 3)
    np.testing.assert_allclose(np.linalg.norm(A @ r.Vt.T, axis=0), r.s, rtol=1e-8)
    assert sketch(A, 50, method="countsketch").matrix.shape == (50, 2000)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("wide", [False, True])
def test_npy_files_in_windows(order, wide, tmp_path, monkeypatch):
    monkeypatch.setattr("gyrostat.sketch.npy.WINDOW_BYTES", 1000)
    A = polynomial(900, 12)[0].astype(np.float32)
    A = np.asarray(A.T if wide else A, order=order)
    np.save(tmp_path / "a.npy", A)
    file = NpyFile(tmp_path / "a.npy")
    for key in (slice(5, 9), np.array([3, 1, 3]), (slice(None), slice(2, 5)), (slice(None), np.array([4, 0]))):
        np.testing.assert_array_equal(file[key], A[key])
    for method in ("countsketch", "uniform"):
        found = sketched_svd(tmp_path / "a.npy", 2, 200, method)
        np.testing.assert_allclose(found.s, sketched_svd(A, 2, 200, method).s, rtol=1e-12)


def test_npy_files_that_are_not_matrices(tmp_path):
    np.save(tmp_path / "object.npy", np.array([[{}]]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(4))
    np.save(tmp_path / "short.npy", np.zeros((100, 4)))
    whole = (tmp_path / "short.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-8])
    (tmp_path / "text.npy").write_text("hello")
    for name, word in {"object": "objects", "line": "matrix", "short": "cut short", "text": "not a .npy"}.items():
        with pytest.raises(DataError, match=word):
            NpyFile(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.complex64, bool])
def test_other_numbers(dtype):
    A = (100 * polynomial(500, 10)[0] > 1 if dtype is bool else 100 * polynomial(500, 10)[0]).astype(dtype)
    found = sketched_svd(A, 2, 100)
    assert found.s.dtype == np.float64
    np.testing.assert_allclose(found.s, sketched_svd(A.astype(complex), 2, 100).s, rtol=1e-10)


def test_memory_is_planned_before_anything_is_read(tmp_path):
    def explode():
        raise AssertionError("read before planning")
        yield

    rows = as_rows(polynomial(500, 10)[0])[0]
    rows._raw = lambda *_: explode()
    for method in ("countsketch", "gaussian"):
        with pytest.raises(MemoryBudgetError, match="MiB"):
            sketched_svd(rows, 2, 50, method, memory_limit=1000)
    with pytest.raises(MemoryBudgetError, match="left vectors"):
        svd(rows, 2, memory_limit=1000)


def test_an_iterator_is_read_once_and_says_so():
    A = polynomial(500, 10)[0]
    found = sketched_svd(iter([A[:300], A[300:]]), 2, 100)
    assert found.U is None
    np.testing.assert_allclose(found.s, sketched_svd(A, 2, 100).s, atol=1e-12)
    for options in ({"power": 1}, {"refine": 5}, {"method": "leverage"}):
        with pytest.raises(ArgumentError, match="only once"):
            sketched_svd(iter([A]), 2, 100, **options)
    with pytest.raises(ArgumentError, match="only once"):
        svd(iter([A]), 2)
    with pytest.raises(DataError, match="empty"):
        sketched_svd(iter([]), 2, 100)


def test_bounds_of_complex_rows_hold():
    g, hits = np.random.default_rng(0), 0
    U = np.linalg.qr(g.standard_normal((1000, 12)) + 1j * g.standard_normal((1000, 12)))[0]
    V = np.linalg.qr(g.standard_normal((12, 12)) + 1j * g.standard_normal((12, 12)))[0]
    A = U / np.arange(1, 13) @ V.conj().T
    for method in ("gaussian", "countsketch"):
        hits = 0
        for seed in range(60):
            r = sketched_svd(A, 2, 300, method, seed=seed)
            dot = np.abs(np.sum(r.Vt * V[:, :2].T, axis=1))
            hits += np.sqrt(1 - dot**2).max() <= bootstrap_error(r, seed=seed, quiet=True).simultaneous["right"]
        # three binomial standard deviations below .95
        assert hits >= 52


@pytest.mark.parametrize("kind", ["zarr", "h5py"])
def test_arrays_on_disk(kind, tmp_path):
    A = polynomial(900, 12)[0]
    module = pytest.importorskip(kind)
    if kind == "zarr":
        array = module.open(str(tmp_path / "a.zarr"), mode="w", shape=A.shape, chunks=(100, 12), dtype="f8")
        array[:] = A
    else:
        array = module.File(tmp_path / "a.h5", "w").create_dataset("A", data=A, chunks=(100, 12))
    for method in ("countsketch", "uniform"):
        expected = sketched_svd(A, 2, 200, method)
        found = sketched_svd(array, 2, 200, method)
        np.testing.assert_allclose(found.s, expected.s, atol=1e-12)


def test_bad_input_names_the_place(tmp_path):
    A = polynomial(500, 10)[0]
    A[77, 3] = np.inf
    with pytest.raises(NonFiniteError, match="row 77, column 3"):
        sketched_svd(A, 2, 50)
    with pytest.raises(NonFiniteError, match="row 3, column 77"):
        sketched_svd(A.T, 2, 50)
    with pytest.raises(NonFiniteError, match="row 77, column 3"):
        sketched_svd(sp.csr_matrix(A), 2, 50)
    good = polynomial(500, 10)[0]
    with pytest.raises(ArgumentError, match="rank"):
        svd(good, 10)
    with pytest.raises(ValueError, match="sketch_size"):
        sketched_svd(good, 5, 4)
    with pytest.raises(ArgumentTypeError, match="numbers"):
        sketched_svd(good.astype(object), 2, 50)
    with pytest.raises(DataError, match="block 1"):
        sketched_svd(iter([good, good[:, :9]]), 2, 50)
    rows = as_rows([good[:100], good[100:300]])[0]
    rows.n = 500
    with pytest.raises(DataError, match="ended after 300"):
        sketched_svd(rows, 2, 50)
    with pytest.raises(MemoryBudgetError):
        sketched_svd(good, 2, 50, memory_limit=1000)
