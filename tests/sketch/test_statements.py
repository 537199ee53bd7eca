"""The statements S2-S12 of the specification."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from gyrostat import SketchWarning, bootstrap_error, certify, sketched_svd, svd
from gyrostat._errors import ArgumentError, ArgumentTypeError, DataError, MemoryBudgetError, NonFiniteError
from gyrostat.sketch.rows import as_rows
from gyrostat.sketch.sketches import METHODS, sketch


def polynomial(n=2000, d=30, seed=0, values=None):
    g = np.random.default_rng(seed)
    U, V = np.linalg.qr(g.standard_normal((n, d)))[0], np.linalg.qr(g.standard_normal((d, d)))[0]
    s = 1.0 / np.arange(1, d + 1) if values is None else np.asarray(values)
    return U * s @ V.T, U, s, V


def sine(a, b):
    return np.sqrt(np.maximum(0, 1 - np.abs(np.sum(a.conj() * b, axis=0)) ** 2))


def index_loop(Y, k, boot_idx):
    """The slow twin: one SVD per replicate."""
    _, s, Vh = np.linalg.svd(Y, full_matrices=False)
    out = {m: [] for m in ("values", "left", "right")}
    for row in boot_idx:
        _, s2, Vh2 = np.linalg.svd(Y[row], full_matrices=False)
        dot = np.abs(np.sum(Vh[:k].conj() * Vh2[:k], axis=1))
        length = np.linalg.norm(Y @ Vh2[:k].conj().T, axis=0)
        out["values"].append(np.abs(s[:k] - s2[:k]))
        out["right"].append(np.sqrt(np.maximum(0, 1 - dot**2)))
        out["left"].append(np.sqrt(np.maximum(0, 1 - (s[:k] / length * dot) ** 2)))
    return {m: np.array(e) for m, e in out.items()}


@pytest.mark.parametrize("kind", [float, complex])
@pytest.mark.parametrize("shape", [(150, 20), (40, 90)])
def test_s2_multinomial_form_is_the_index_loop(kind, shape):
    g = np.random.default_rng(0)
    Y = g.standard_normal(shape) / np.arange(1, shape[1] + 1) + (
        1j * g.standard_normal(shape) if kind is complex else 0
    )
    boot_idx = g.integers(0, shape[0], (12, shape[0]))
    found = sketch(Y, shape[0], draws=np.arange(shape[0]), method="uniform")
    bounds = bootstrap_error(found, 3, boot_idx=boot_idx, projection=None, quiet=True)
    for metric, errors in index_loop(found.matrix, 3, boot_idx).items():
        # sqrt(1 - c²) near 0 turns 1e-16 into 1e-8; these errors are of order 0.1
        np.testing.assert_allclose(bounds.replicates[metric], errors, atol=1e-10)


@pytest.mark.parametrize("method", ["uniform", "length", "gaussian", "countsketch", "srht", "sparse_sign", "leverage"])
def test_s3_coverage(method):
    A, U, s, V = polynomial(1000, 20)
    hits = np.zeros(3)
    for seed in range(150):
        r = sketched_svd(A, 3, 300, method, seed=seed)
        q = bootstrap_error(r, seed=seed, quiet=True).simultaneous
        worst = [np.abs(r.s - s[:3]).max(), sine(r.U, U[:, :3]).max(), sine(r.Vt.T, V[:, :3]).max()]
        hits += [e <= q[m] for e, m in zip(worst, ("values", "left", "right"))]
    # 100 replicates cover about .925; three binomial standard deviations below that with 150 sketches
    assert np.all(hits / 150 >= 0.86), hits / 150


def test_coherent_rows_warn():
    A = np.random.default_rng(0).standard_t(1, (2000, 20))
    result = sketched_svd(A, 2, 300, "uniform")
    assert any("coherence" in w for w in bootstrap_error(result, quiet=True).warnings)
    assert not any("coherence" in w for w in bootstrap_error(sketched_svd(A, 2, 300, "length"), quiet=True).warnings)


def test_s7_near_ties_warn_and_the_pair_is_bounded_as_a_space():
    A, _, _, V = polynomial(values=[1, 0.98, 0.5, 0.49, *(0.1 / np.arange(1, 27))])
    hits = told = 0
    for seed in range(40):
        r = sketched_svd(A, 2, 300, "gaussian", seed=seed)
        b = bootstrap_error(r, subspace=(2,), seed=seed, quiet=True)
        told += any("not told apart" in w for w in b.warnings)
        angle = np.sqrt(1 - np.linalg.svd(r.Vt @ V[:, :2], compute_uv=False)[-1] ** 2)
        hits += angle <= b.subspace[2]
    assert told >= 36  # now and then the sketch itself pushes the pair further apart than twice its error
    assert hits >= 0.84 * 40  # 3 standard deviations below .95


def test_small_sketch_and_few_replicates_warn():
    A = polynomial()[0]
    with pytest.warns(SketchWarning, match="small"):
        bootstrap_error(sketched_svd(A, 2, 90))
    with pytest.warns(SketchWarning, match="replicates"):
        bootstrap_error(sketched_svd(A, 2, 300), replicates=20)


def test_s8_two_stage_reaches_the_tolerance_or_goes_exact():
    A, _, _, V = polynomial(6000, 100, values=1.0 / np.arange(1, 101))
    met = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SketchWarning)
        for seed in range(20):
            r = svd(A, 2, 0.2, seed=seed)
            assert not r.exact
            met += sine(r.Vt.T, V[:, :2]).max() <= 0.2
    assert met >= 17
    r = svd(A, 2, 1e-3)
    assert r.exact
    assert "exact" in r.note
    assert sine(r.Vt.T, V[:, :2]).max() < 1e-7  # sqrt of the rounding of 1 - c²


@pytest.mark.parametrize("method", ["gaussian", "countsketch", "sparse_sign", "srht"])
def test_s9_chunks_do_not_matter(method):
    A = polynomial(3000, 20)[0]
    whole = sketch(lambda: iter([A]), 200, method=method) if method != "srht" else sketch(A, 200, method=method)
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
        if method != "length":  # a stream is sampled in distribution only
            np.testing.assert_allclose(found, expected, atol=1e-10)
        assert found.shape == expected.shape


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


def test_s10_power_sketch():
    A, _, _, V = polynomial(1500, 20)
    hits = 0
    for seed in range(25):
        r = sketched_svd(A, 3, 150, power=1, seed=seed)
        q = bootstrap_error(r, seed=seed, quiet=True).simultaneous["right"]
        hits += sine(r.Vt.T, V[:, :3]).max() <= q
    plain = bootstrap_error(sketched_svd(A, 3, 150, seed=24), quiet=True).simultaneous["right"]
    assert q < plain / 2
    assert hits >= 0.82 * 25  # three standard deviations below .95
    np.testing.assert_allclose(r.s, 1 / np.arange(1, 4), rtol=0.1)


def test_refine_and_certify():
    A, _, s, _ = polynomial()
    r = sketched_svd(A, 3, 300, refine=10)
    c = certify(A, r.U, r.s, r.Vt)
    assert np.all(np.abs(r.s - s[:3]) <= c.residual + 1e-12)
    assert np.all(c.residual < certify(A, *(lambda x: (x.U, x.s, x.Vt))(sketched_svd(A, 3, 300))).residual)


@pytest.mark.parametrize("kind", [float, complex])
def test_wide_matrices_are_turned(kind):
    A = polynomial(1500, 12)[0] * (1 + 2j if kind is complex else 1)
    if kind is complex:
        A = A * np.exp(1j * np.arange(12))
    r = sketched_svd(A.T, 3, 400)
    assert r.U.shape == (12, 3)
    assert r.Vt.shape == (3, 1500)
    U, _, Vt = np.linalg.svd(A.T, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(U[:, :3].conj() * r.U, axis=0)), 1, atol=0.1)
    np.testing.assert_allclose(np.abs(np.sum(Vt[:3].conj() * r.Vt, axis=1)), 1, atol=0.1)
    assert bootstrap_error(r, quiet=True).simultaneous["left"] > 0


def test_s12_never_nan():
    A = polynomial(400, 8, values=[1, 0.5, 0.2, 0.1, 0, 0, 0, 0])[0]
    A[::3] = 0
    A = np.hstack([A, np.ones((400, 1))])
    for method in METHODS:
        b = bootstrap_error(sketched_svd(A, 8, 120, method), quiet=True)
        assert all(np.all(np.isfinite(e)) for e in b.replicates.values()), method


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
