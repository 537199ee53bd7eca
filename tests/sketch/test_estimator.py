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
def test_partial_fit_does_not_depend_on_the_cut(kind):
    X = data()
    whole, parts = kind(3, sketch_size=600).partial_fit(X), kind(3, sketch_size=600)
    for a in range(0, 3000, 700):
        parts.partial_fit(X[a : a + 700])
    # the mean is summed in another order, hence not bitwise
    np.testing.assert_allclose(whole.components_, parts.components_, atol=1e-10)
    truth = np.linalg.svd(X - X.mean(0) * (kind is SketchedPCA), full_matrices=False)[2][:3]
    sine = np.sqrt(1 - np.minimum(1, np.sum(truth * parts.components_, axis=1) ** 2))
    # three 95 % bounds at one fixed seed; a factor 1.5 is beyond any of them
    assert np.all(sine <= 1.5 * parts.error_bounds_["right"])


def test_sparse_pca_is_centred():
    X = sp.random(4000, 30, density=0.2, random_state=0, format="csr")
    sparse = SketchedPCA(2, sketch_size=1500).fit(X)
    np.testing.assert_allclose(sparse.transform(X).mean(0), 0, atol=1e-10)


def test_set_output():
    pytest.importorskip("pandas")
    frame = SketchedSVD(2).set_output(transform="pandas").fit_transform(data())
    assert list(frame.columns) == ["sketchedsvd0", "sketchedsvd1"]
