import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.utils.estimator_checks import parametrize_with_checks

from gyrostat import SketchedPCA, SketchedSVD


@parametrize_with_checks([SketchedSVD(), SketchedPCA()])
def test_sklearn_checks(estimator, check):
    check(estimator)


def data(n=3000, d=60):
    return np.random.default_rng(0).standard_normal((n, d)) / np.arange(1, d + 1) + 0.3


@pytest.mark.parametrize("kind", [SketchedSVD, SketchedPCA])
def test_fit_transform_is_fit_then_transform(kind):
    X = data()
    np.testing.assert_array_equal(kind(3).fit_transform(X), kind(3).fit(X).transform(X))


@pytest.mark.parametrize("kind", [SketchedSVD, SketchedPCA])
@pytest.mark.parametrize("method", ["auto", "gaussian", "sparse_sign", "uniform", "length"])
def test_partial_fit_does_not_depend_on_the_cut(kind, method):
    X = data()
    whole = kind(3, sketch_size=600, method=method).partial_fit(X)
    parts = kind(3, sketch_size=600, method=method)
    for a in range(0, 3000, 700):
        parts.partial_fit(X[a : a + 700])
    # the mean is summed in another order, hence not bitwise
    np.testing.assert_allclose(whole.components_, parts.components_, atol=1e-10)
    truth = np.linalg.svd(X - X.mean(0) * (kind is SketchedPCA), full_matrices=False)[2][:3]
    sine = np.sqrt(1 - np.minimum(1, np.sum(truth * parts.components_, axis=1) ** 2))
    # three 95 % bounds at one fixed seed; a factor 1.5 is beyond any of them
    assert np.all(sine <= 1.5 * parts.error_bounds_["right"])


@pytest.mark.parametrize("kind", [SketchedSVD, SketchedPCA])
@pytest.mark.parametrize("method", ["leverage", "srht"])
def test_partial_fit_refuses_what_needs_all_rows(kind, method):
    with pytest.raises(ValueError, match=f"{method}.*needs all rows at once"):
        kind(3, method=method).partial_fit(data())


def sines(estimator, X):
    truth = np.linalg.svd(X - X.mean(0) * isinstance(estimator, SketchedPCA), full_matrices=False)[2]
    return np.sqrt(1 - np.minimum(1, np.sum(truth[: len(estimator.components_)] * estimator.components_, axis=1) ** 2))


@pytest.mark.parametrize("method", ["auto", "gaussian", "length", "leverage", "srht", "uniform", "sparse_sign"])
def test_sparse_pca_is_centred_and_keeps_the_tolerance(method):
    X = data(n=12000, d=50) * (np.random.default_rng(1).random((12000, 50)) < 0.3)
    estimator = SketchedPCA(2, tol=0.2, method=method).fit(sp.csr_matrix(X))
    assert estimator.sketch_size_ > 0
    # the tolerance is kept with 95 %; a factor 1.3 is beyond that at one fixed seed
    assert np.all(sines(estimator, X) <= 0.2 * 1.3)
    assert np.all(sines(estimator, X) <= 1.5 * estimator.error_bounds_["right"])
    np.testing.assert_allclose(estimator.transform(sp.csr_matrix(X)).mean(0), 0, atol=1e-10)


def test_sparse_pca_is_refined_exact_and_wide():
    X = sp.random(4000, 90, density=0.2, random_state=np.random.default_rng(0), format="csr")
    X.data *= 1 + 3 * (X.indices % 7 == 0)
    for matrix in (X, X.T.tocsr()):
        estimator = SketchedPCA(2, tol=1e-3).fit(matrix)
        assert estimator.sketch_size_ > 0
        # sines here are square roots of 1 - c², rounding of 1e-8
        assert np.all(sines(estimator, matrix.toarray()) < estimator.error_bounds_["right"] + 1e-7)
        assert np.all(estimator.error_bounds_["right"] <= 1e-3)
        estimator = SketchedPCA(2, tol=1e-15).fit(matrix)  # below the rounding of any refinement
        assert estimator.sketch_size_ == 0
        assert np.all(sines(estimator, matrix.toarray()) < 1e-5)
    wide = sp.random(40, 6000, density=0.1, random_state=np.random.default_rng(0), format="csr").multiply(
        1.0 / np.sqrt(np.arange(1, 41))[:, None]
    )
    estimator = SketchedPCA(2, tol=0.5, sketch_size=2000).fit(wide.tocsr())
    assert np.all(sines(estimator, wide.toarray()) <= 1.5 * estimator.error_bounds_["right"])


def test_set_output():
    pytest.importorskip("pandas")
    frame = SketchedSVD(2).set_output(transform="pandas").fit_transform(data())
    assert list(frame.columns) == ["sketchedsvd0", "sketchedsvd1"]
