"""The kernel of the scattered sketches equals its slow twin, whatever the threads, cut, type and instruction set."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat import _native, bootstrap_error
from gyrostat._errors import NonFiniteError
from gyrostat._rng import numpy_stream
from gyrostat.sketch import native
from gyrostat.sketch.replicates import Fresh, eigen, excess, replicate, spread
from gyrostat.sketch.rows import Block, as_rows, row_energy
from gyrostat.sketch.scatter import KEY_ROWS, Scatter
from gyrostat.sketch.sketches import sketch
from tests.sketch.matrices import polynomial, threads_for_any_size

needs_library = pytest.mark.skipif(native.LIBRARY is None, reason=native.REASON)


def matrix(n, d, kind, seed=0):
    g = np.random.default_rng(seed)
    A = g.standard_normal((n, d))
    return (A + 1j * g.standard_normal((n, d)) if np.dtype(kind).kind == "c" else A).astype(kind)


def twin(A, method, size, start=0):
    found = Scatter(method, size, A.shape[1], np.complex128 if A.dtype.kind == "c" else np.float64, 5, start)
    found._scatter(A.astype(found._sums.dtype))
    return found._sums


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5000),
    d=st.integers(1, 70),
    size=st.integers(1, 400),
    start=st.integers(0, 3000),
    kind=st.sampled_from(["f4", "f8", "c8", "c16"]),
    method=st.sampled_from(["countsketch", "sparse_sign"]),
    threads=st.sampled_from([1, 2]),
)
def test_kernel_equals_its_twin(n, d, size, start, kind, method, threads):
    A = matrix(n, d + 3, kind)[:, 1 : d + 1]  # rows that do not touch each other
    found = Scatter(method, size, d, np.complex128 if kind[0] == "c" else np.float64, 5, start)
    with threads_for_any_size():
        total = found.take(A, threads)
    expected = twin(A, method, size, start)
    if method == "countsketch":
        np.testing.assert_array_equal(found._sums, expected)
    else:  # 1/√8 is rounded, and one side rounds product and sum at once
        np.testing.assert_allclose(found._sums, expected, rtol=0, atol=1e-14 * np.sqrt(n))
    assert found.rows == start + n
    np.testing.assert_allclose(total, (np.abs(A.astype(complex)) ** 2).sum(), rtol=1e-12)


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3000),
    d=st.integers(1, 70),
    size=st.integers(1, 400),
    start=st.integers(0, 3000),
    index=st.sampled_from([np.int32, np.int64]),
    method=st.sampled_from(["countsketch", "sparse_sign"]),
)
def test_sparse_kernel_equals_its_twin(n, d, size, start, index, method):
    A = sp.random(n, d, density=0.2, random_state=np.random.default_rng(0), format="csr")
    A.indptr, A.indices = A.indptr.astype(index), A.indices.astype(index)
    assert native.sparse(A)
    found = Scatter(method, size, d, np.float64, 5, start)
    found.update(Block(start, A, np.asarray(A.multiply(A).sum(1)).ravel()))
    expected = Scatter(method, size, d, np.float64, 5, start)
    expected._scatter(A)
    if method == "countsketch":
        np.testing.assert_array_equal(found._sums, expected._sums)
    else:  # eight places are summed in another order
        np.testing.assert_allclose(found._sums, expected._sums, rtol=0, atol=1e-14 * np.sqrt(n))
    assert found.rows == start + n


@needs_library
def test_draws_are_numpys_with_refused_words_too():
    # of 283,011 places one word in 18,000 is refused, and moves all that follow in its key block
    size, n = 283_011, 100 * KEY_ROWS
    assert 2**32 % size / 2**32 * n > 5
    A = np.ones((n, 1))
    found = Scatter("countsketch", size, 1, np.float64, 5)
    found.take(A)
    np.testing.assert_array_equal(found._sums, twin(A, "countsketch", size))


@needs_library
def test_threads_do_not_change_a_bit():
    A = polynomial(9000, 64)[0]
    for method in ("countsketch", "sparse_sign"):
        found = []
        for threads in (1, 2):
            rows = as_rows(A)[0]
            rows.threads = threads
            found.append(sketch(rows, 100, method=method).matrix)
        np.testing.assert_array_equal(*found)


@needs_library
@pytest.mark.parametrize("kind", ["f4", "f8", "c8", "c16"])
def test_norms_and_layouts(kind):
    A = matrix(700, 33, kind)
    expected = (np.abs(A.astype(complex)) ** 2).sum(1)
    np.testing.assert_allclose(row_energy(A), expected, rtol=1e-5 if kind in ("f4", "c8") else 1e-13)
    one = sketch(A, 90).matrix
    big = A.astype(A.dtype.newbyteorder())
    for other in (A.copy(order="F"), A[:, ::-1][:, ::-1], np.repeat(A, 2, axis=0)[::2], big):
        np.testing.assert_array_equal(sketch(other, 90).matrix, one)


@needs_library
def test_overlapping_windows_are_read_where_they_lie():
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(5000.0), 40)
    assert native.readable(windows)
    np.testing.assert_array_equal(sketch(windows, 100).matrix, sketch(windows.copy(), 100).matrix)


@pytest.mark.parametrize("kind", ["f4", "f8", "c16"])
def test_bad_numbers_are_named(kind):
    A = matrix(9000, 30, kind)
    A[8123, 17] = np.nan
    with pytest.raises(NonFiniteError, match="row 8123, column 17"):
        sketch(A, 50)
    A[8123, 17] = np.inf
    with pytest.raises(NonFiniteError, match="row 17, column 8123"):
        sketch(as_rows(A.T)[0], 50)


LAWS = {
    "1/j": lambda j: 1 / j,
    "slow": lambda j: j**-0.25,
    "0.5^j": lambda j: 0.5**j,
    "0.01^j": lambda j: 0.01**j,
    "ties": lambda j: np.where(j > 2, 0.3, 1.0),
    "flat": lambda j: 1.0 + 0 * j,
    "rank 2": lambda j: 1.0 * (j < 3),
    "reversed": lambda j: 1.0 * j,
    "tiny": lambda j: 1e-120 / j,
    "huge": lambda j: 1e120 / j,
    "zero": lambda j: 0.0 * j,
}


@needs_library
@settings(max_examples=150, deadline=None)
@given(
    t=st.integers(1, 70),
    r=st.integers(1, 45),
    k=st.integers(1, 45),
    count=st.integers(1, 37),
    law=st.sampled_from(sorted(LAWS)),
    factor=st.sampled_from([1.0, 0.7, 0.0, None]),
    repeated=st.booleans(),
)
def test_replicates_equal_lapack(t, r, k, count, law, factor, repeated):
    # of two or three rows the spread is a difference of nearly equal numbers
    t = t + 8 if factor is None else t
    g, k = np.random.default_rng(r), min(k, r)
    X = g.standard_normal((t, r)) * LAWS[law](np.arange(1.0, r + 1))
    if repeated:  # the same column again: the same eigenvalues twice or zero ones
        X[:, r // 2 :] = X[:, : r - r // 2]
    draws, weights = g.integers(0, t, (count, t)), g.random(r)
    found = replicate(X, draws, k, factor, weights)
    W = np.stack([np.bincount(row, minlength=t) for row in draws]).astype(float)
    unit = max(float(np.abs(X).max()), 1e-300)
    X = X / unit
    scaled = spread(X) if factor is None else factor
    top = eigen(X, W, scaled)[0]
    scale = max(float(np.abs(top).max()), 1e-300)
    values, Q = found.values / unit / unit, found.vectors
    np.testing.assert_allclose(values, top[:, :k], rtol=0, atol=1e-13 * scale)
    middle = X.T @ X
    G = middle + scaled * (np.einsum("bt,ti,tj->bij", W, X, X) - middle)
    # eigenvectors where they are not unique too: small residual, unit length
    np.testing.assert_allclose(G @ Q, Q * values[:, None, :], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(np.swapaxes(Q, 1, 2) @ Q, np.broadcast_to(np.eye(k), (count, k, k)), atol=1e-12)
    np.testing.assert_allclose(found.overlap, np.diagonal(Q, axis1=1, axis2=2) ** 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.length, np.einsum("l,blj->bj", weights, Q**2), rtol=1e-13)
    np.testing.assert_allclose(found.excess, excess(X, factor, k), rtol=1e-10)
    mass = g.random(k)
    outside = Q[:, k:]
    square = (np.swapaxes(outside, 1, 2) @ outside + np.diag(mass)) / np.sqrt(np.outer(1 + mass, 1 + mass))
    # the square root turns the rounding of zero, 1e-16, into 1e-8
    np.testing.assert_allclose(found.tilt(mass) ** 2, np.linalg.eigvalsh(square)[:, -1], rtol=0, atol=1e-13)


@needs_library
def test_what_is_not_a_number_goes_to_the_twin():
    X = np.full((20, 3), np.nan)
    assert native.replicates(X, np.zeros((9, 20), int), None, 9, 2, 1.0, np.ones(3)) is None


@needs_library
@pytest.mark.parametrize("t", [1, 2, 3, 500, 512, 69_921])
def test_replicates_are_drawn_as_numpy_draws_them(t):
    if t > 10_000:  # one word in 61,000 is refused, and moves all that follow
        assert 2**32 % t / 2**32 * 20 * t > 10
    X = np.random.default_rng(0).standard_normal((t, 2))
    drawn = replicate(X, Fresh(20, 3), 2)
    given = replicate(X, numpy_stream(3, "bootstrap").integers(0, t, (20, t)), 2)
    np.testing.assert_array_equal(drawn.values, given.values)
    np.testing.assert_array_equal(drawn.vectors, given.vectors)


@needs_library
@pytest.mark.parametrize(
    ("method", "size", "columns", "power"),
    [
        ("gaussian", 300, 60, 0),
        ("uniform", 300, 60, 1),
        ("countsketch", 300, 60, 0),
        ("srht", 300, 60, 2),
        # of a sketch as large only the leading part of the spectrum is computed
        ("uniform", 1030, 1030, 0),
    ],
)
def test_bounds_equal_those_of_the_twin(monkeypatch, method, size, columns, power):
    A = np.random.default_rng(0).standard_normal((3000, columns)) / np.arange(1, columns + 1)
    found = sketch(A, size, method=method, power=power)
    fast = bootstrap_error(found, 4, subspace=(3,), quiet=True)
    monkeypatch.setattr(native, "LIBRARY", None)
    monkeypatch.setattr(native, "REFERENCE", True)
    slow = bootstrap_error(found, 4, subspace=(3,), quiet=True)
    for metric, errors in fast.replicates.items():
        np.testing.assert_allclose(errors, slow.replicates[metric], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fast.subspace[3], slow.subspace[3], atol=1e-10)


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 50),
    k=st.integers(1, 12),
    kind=st.sampled_from(["f4", "f8"]),
    threads=st.sampled_from([1, 2]),
)
def test_products_equal_blas(n, d, k, kind, threads):
    A, V = matrix(n, d + 3, kind)[:, 1 : d + 1], matrix(d, k, "f8", 1)
    with threads_for_any_size():
        found = native.times(A, V, threads)
    np.testing.assert_allclose(found, A.astype(float) @ V, atol=1e-13 * d)


def test_draws_outside_the_sketch_are_refused():
    found = sketch(polynomial(500, 6)[0], 50)
    with pytest.raises(ValueError, match="0 to 49"):
        bootstrap_error(found, 2, boot_idx=np.full((20, 50), 50), quiet=True)


@pytest.mark.parametrize("asked", [False, True])
def test_slow_sketches_say_so_once(monkeypatch, caplog, asked):
    monkeypatch.setattr(_native, "_SAID", set())
    monkeypatch.setattr(native, "LIBRARY", None)
    monkeypatch.setattr(native, "REFERENCE", asked)
    # of another version: what an old build beside new sources is
    monkeypatch.setattr(native, "REASON", _native.load(native.HERE, 10**6)[1])
    for _ in range(2):
        bootstrap_error(sketch(polynomial(500, 6)[0], 150), 2, quiet=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (0 if asked else 1)
    assert all(s.startswith("sketches take the slow path: the native library is") and "install" in s for s in said)


BUILDS = _native.builds(native.HERE)


@needs_library
@pytest.mark.parametrize("isa", [*BUILDS, "reference"])
def test_every_build_computes_the_same_sketch(isa):
    if isa in BUILDS and _native.LEVELS.index(isa) > max(1, _native.cpu_level(native.HERE, native.ABI)):
        pytest.skip(f"this processor cannot run {isa}")
    code = (
        "import numpy as np, hashlib; from gyrostat.sketch.sketches import sketch; from gyrostat.sketch import native\n"
        "A = np.random.default_rng(0).standard_normal((3000, 37))\n"
        "print(native.REASON); print(hashlib.sha256(sketch(A, 100).matrix.tobytes()).hexdigest())"
    )
    key = {"GYROSTAT_BACKEND": "reference"} if isa == "reference" else {"GYROSTAT_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **key}
    )
    reason, digest = done.stdout.split("\n")[:2]
    assert isa in reason or isa == "generic"
    A = np.random.default_rng(0).standard_normal((3000, 37))
    assert digest == hashlib.sha256(sketch(A, 100).matrix.tobytes()).hexdigest()
