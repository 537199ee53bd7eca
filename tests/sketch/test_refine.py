"""Refined triplets are those of their slow twin, and their bounds hold: after every pass, whatever the spectrum."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat import SketchWarning, sketched_svd, svd
from gyrostat.sketch import native
from gyrostat.sketch.centred import centred_rows
from gyrostat.sketch.exact import rayleigh_ritz
from gyrostat.sketch.passes import Normal, Watch
from gyrostat.sketch.refine import Span
from gyrostat.sketch.rows import as_rows
from gyrostat.sketch.sketches import sketch
from tests.sketch.interrupted import until_done
from tests.sketch.matrices import blocks_of, polynomial, threads_for_any_size

needs_library = pytest.mark.skipif(native.LIBRARY is None, reason=native.REASON)


def sines(found, truth):
    """Without the root of a rounding error that 1 - cos² leaves."""
    return np.linalg.norm(found - truth * np.sum(truth.conj() * found, axis=0), axis=0)


def product(rows, V, threads=None):
    rows.threads = threads
    work = Normal(V)
    Watch().run(rows, work, "product")
    return work.finish()


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 2500),
    d=st.integers(1, 60),
    k=st.integers(1, 50),
    cut=st.integers(1, 2500),
    kind=st.sampled_from(["f4", "f8"]),
)
def test_product_does_not_depend_on_cut_or_threads(n, d, k, cut, kind):
    g = np.random.default_rng(0)
    A, V = g.standard_normal((n, d + 3)).astype(kind)[:, 1 : d + 1], g.standard_normal((d, k))
    with threads_for_any_size():
        found = [product(as_rows(A, transpose=False)[0], V, threads) for threads in (1, 2)]
        found.append(product(as_rows([A[a : a + cut] for a in range(0, n, cut)])[0], V))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    wide = A.astype(float)
    scale = np.linalg.norm(wide) ** 2 * np.linalg.norm(V, 2)
    np.testing.assert_allclose(found[0], wide.T @ (wide @ V), rtol=0, atol=1e-14 * scale)


@pytest.mark.parametrize("kind", [float, complex])
@pytest.mark.parametrize("m", [3, 10, 30])
def test_one_pass_finds_what_its_slow_twin_finds_in_two(kind, m):
    A = polynomial(3000, 30)[0] + (0.1j * polynomial(3000, 30, seed=1)[0] if kind is complex else 0)
    rows, _ = as_rows(A)
    found = sketch(rows, 200)
    U, s, V = rayleigh_ritz(rows, found.spectrum(3)[1][:, :m], 3, Watch())
    span = Span(found, 3, m)
    span.read(rows, Watch())
    left = span.left_vectors(rows, Watch())
    np.testing.assert_allclose(span.s[:3], s, rtol=1e-12)
    np.testing.assert_allclose(sines(span.V[:, :3], V), 0, atol=1e-11)
    np.testing.assert_allclose(sines(left, U), 0, atol=1e-11)
    np.testing.assert_allclose(left.conj().T @ left, np.eye(3), atol=1e-11)
    np.testing.assert_allclose(A.conj().T @ left, span.V[:, :3] * span.s[:3], atol=1e-11)


SPECTRA = {
    "1/j": lambda j: 1 / j,
    "slow": lambda j: j**-0.25,
    "0.7^j": lambda j: 0.7**j,
    "ties": lambda j: np.where(j <= 4, 1 - 0.001 * j, 1 / j),
    "flat": lambda j: np.where(j <= 5, 1 / j, 0.1),
}


@pytest.mark.parametrize("size", [104, 400])
@pytest.mark.parametrize("law", SPECTRA)
def test_bounds_hold_after_every_pass(law, size):
    k, columns = 5, 60
    A = polynomial(2500, columns, values=SPECTRA[law](np.arange(1.0, columns + 1)))[0]
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    rows, looseness = as_rows(A)[0], []
    for seed in range(4):
        found = sketch(rows, size, method=("countsketch", "gaussian")[seed % 2], seed=seed)
        span = Span(found, k, 8 * (1 + seed % 3))
        for _ in range(4):
            span.read(rows, Watch(), 8)
            errors = span.errors()
            left, right = sines(span.left_vectors(rows, Watch()), U[:, :k]), sines(span.V[:, :k], Vt[:k].T)
            assert np.all(np.abs(span.s[:k] - s[:k]) <= errors.values)
            assert np.all(left <= errors.left)
            assert np.all(right <= errors.right)
            tilt = np.linalg.norm(span.V[:, :k] - Vt[:k].T @ (Vt[:k] @ span.V[:, :k]), 2)
            assert tilt <= errors.subspace(k) + 1e-12
            looseness.append(errors.right.max() / right.max() if right.max() > 1e-9 else 1.0)
    if law == "1/j":
        assert np.median(looseness) < 30  # 4 after one pass over a sketch of 400 rows, 40 after three over one of 104


@pytest.mark.parametrize("target", ["right", "left", "values", "subspace"])
@pytest.mark.parametrize("wide", [False, True])
def test_svd_refines_where_that_is_cheap_and_keeps_the_tolerance(target, wide):
    A = polynomial(6000, 300, values=1 / np.arange(1.0, 301))[0]
    A = A.T if wide else A
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    r = svd(A, 4, 1e-3, target=target)
    assert "refined" in r.note
    assert not r.exact
    truth = {"values": np.abs(r.s - s[:4]), "left": sines(r.U, U[:, :4]), "right": sines(r.Vt.T, Vt[:4].T)}
    for metric, error in truth.items():
        assert np.all(error <= r.bounds.per_component[metric])
    if target == "subspace":
        assert r.bounds.subspace[4] <= 1e-3
    else:
        assert r.bounds.simultaneous[target] <= 1e-3
    assert [size for size, _ in r.history] == [r.sketch.size] * len(r.history)
    assert r.history[-1][1] <= 1e-3


def test_interrupted_refinement_goes_on(tmp_path):
    A = polynomial(6000, 300, values=1 / np.arange(1.0, 301))[0]
    expected = svd(blocks_of(A), 3, 1e-3)
    assert "refined" in expected.note
    found, stops = until_done(partial(svd, blocks_of(A), 3, 1e-3), tmp_path / "state", 5)
    assert stops >= 5
    np.testing.assert_array_equal(found.s, expected.s)
    np.testing.assert_array_equal(found.U, expected.U)
    assert not (tmp_path / "state").exists()


def test_every_source_is_refined_to_the_same():
    A = polynomial(6000, 300, values=1 / np.arange(1.0, 301))[0]
    da = pytest.importorskip("dask.array")
    expected = svd(A, 3, 1e-3)
    for other in (blocks_of(A, 1700), np.asfortranarray(A), da.from_array(A, chunks=(2000, 300)), sp.csr_matrix(A)):
        r = svd(other, 3, 1e-3)
        assert "refined" in r.note
        np.testing.assert_allclose(r.s, expected.s, rtol=1e-7)
        np.testing.assert_allclose(sines(r.Vt.T, expected.Vt.T), 0, atol=1e-3)


@pytest.mark.parametrize("wide", [False, True])
def test_centred_product_is_that_of_centred_rows(wide):
    g = np.random.default_rng(0)
    X = sp.random(200, 30, density=0.3, random_state=g, format="csr")
    X = X.T.tocsr() if wide else X
    mean = np.asarray(X.mean(axis=0)).ravel()
    rows, flip, centring = centred_rows(X, mean)
    dense = X.toarray() - mean
    dense = dense.T if flip else dense
    V = g.standard_normal((dense.shape[1], 4))
    found = centring.product(product(rows, centring.widen(V)), V)
    np.testing.assert_allclose(found, dense.T @ (dense @ V), atol=1e-11)


def test_refined_sketch_carries_its_bounds():
    A = polynomial(3000, 40)[0]
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    for M, turned in ((A, False), (A.T, True)):
        r = sketched_svd(M, 3, 300, refine=10)
        left, right = (Vt.T, U) if turned else (U, Vt.T)
        assert np.all(np.abs(r.s - s[:3]) <= r.bounds.per_component["values"])
        assert np.all(sines(r.U, left[:, :3]) <= r.bounds.per_component["left"])
        assert np.all(sines(r.Vt.T, right[:, :3]) <= r.bounds.per_component["right"])
        assert r.bounds.simultaneous["right"] < 0.1
    assert sketched_svd(A, 3, 300, refine=40).bounds.simultaneous["right"] < 1e-10
    # all 300 columns of a sketch of 300 rows: only the energy of the matrix tells what lies beyond
    wide, _, s, _ = polynomial(3000, 400)
    for method in ("gaussian", "uniform"):
        bounds = sketched_svd(wide, 3, 300, method, refine=300).bounds
        assert 0 < bounds.simultaneous["right"] < 1e-2
    assert sketched_svd(wide, 3, 300, refine=300, power=1).bounds is None


@pytest.mark.filterwarnings("ignore::gyrostat.SketchWarning")  # a bound above the gap is said
@pytest.mark.parametrize("method", ["length", "uniform"])
def test_rows_that_a_sketch_missed_widen_the_bounds(method):
    # a few rows make up whole directions: a sketch by length that did not draw them does not know of these
    g = np.random.default_rng(0)
    kept = 0
    for seed in range(12):
        A = g.standard_t(1, (3000, 20))
        _, s, Vt = np.linalg.svd(A, full_matrices=False)
        r = sketched_svd(A, 5, 104, method, refine=8, seed=seed)
        b = r.bounds.per_component
        kept += np.all(sines(r.Vt.T, Vt[:5].T) <= b["right"]) and np.all(np.abs(r.s - s[:5]) <= b["values"])
    assert kept == 12  # 3 of 10 by length and none uniform without the energy that is known to be missing


def test_what_a_refinement_cannot_do_goes_another_way():
    low = polynomial(6000, 300, values=np.where(np.arange(300) < 3, 1.0 / np.arange(1, 301), 0))[0]
    with pytest.warns(SketchWarning, match="rank 3"):
        r = svd(low, 5, 1e-3)
    assert r.exact
    faint = polynomial(6000, 300, values=np.where(np.arange(300) < 3, 1e-7, 1e-9) ** (np.arange(300) > 0))[0]
    r = svd(faint, 3, 1e-4)
    assert r.exact
    g = np.random.default_rng(0)
    coherent = polynomial(6000, 300, values=1 / np.arange(1.0, 301))[0] * (1 / np.abs(g.standard_normal(6000)))[:, None]
    # a uniform sketch that missed the rows that matter would also misjudge what is left
    assert svd(coherent, 3, 1e-3, sketch_method="uniform").exact
    assert "refined" in svd(coherent, 3, 1e-3).note
