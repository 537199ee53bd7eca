"""X ≈ U diag(s) Vᵀ as scikit-learn estimators that know their error: ``SketchedSVD`` and, centred, ``SketchedPCA``.

Source: Lopes, Erichson, Mahoney, arXiv:2003.04937. Differs from the released code: the released code has no estimator.
"""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from .bootstrap import METRICS, bootstrap_error
from .centred import centred_rows
from .exact import exact_svd
from .result import SketchedSVDResult
from .rows import as_rows
from .sketches import METHODS, Sketch
from .stream import accumulator
from .tolerance import to_tolerance
from .warning import SketchWarning


class SketchedSVD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Truncated SVD by sketching, with error bounds.

    Args:
        n_components: Components, at most min(n_samples, n_features).
        tol: Largest error (sine of the angle) of a right singular vector, with confidence 1 - alpha.
        sketch_size: Rows of the sketch that ``partial_fit`` keeps, and the largest that ``fit`` may use; None lets
            ``tol`` decide (``partial_fit``: 10 n_components + 200).
        method: Sketch; "auto" is countsketch.
        alpha: 1 - confidence of the bounds.
        random_state: Seed.

    Attributes:
        components_: Right singular vectors (n_components, n_features), largest entry positive.
        singular_values_: (n_components,).
        error_bounds_: Metric to (n_components,) bounds; zero where the exact path was taken.
        sketch_size_: Rows of the sketch, 0 if exact.
        n_samples_seen_: Rows seen.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import SketchedSVD
        >>> X = np.random.default_rng(0).standard_normal((300, 10))
        >>> SketchedSVD(3).fit_transform(X).shape
        (300, 3)
    """

    _centred = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "sketch_size": [Interval(Integral, 1, None, closed="left"), None],
        "method": [StrOptions({"auto", *METHODS})],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        tol: float = 0.05,
        sketch_size: int | None = None,
        method: str = "auto",
        alpha: float = 0.05,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.sketch_size = sketch_size
        self.method = method
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SketchedSVD:
        """Fit on X (n_samples, n_features), dense or sparse."""
        self._validate_params()
        X = self._checked(X, reset=True)
        n, d = X.shape
        if self.n_components > min(n, d):
            raise ValueError(
                f"n_components must be at most min(n_samples, n_features), got {self.n_components} with "
                f"n_samples = {n} and n_features = {d}"
            )
        self.mean_ = np.asarray(X.mean(axis=0)).ravel() if self._centred else np.zeros(d)
        self.n_samples_seen_ = n
        if hasattr(self, "_stream"):
            del self._stream
        if self.n_components == min(n, d):
            dense = X.toarray() if sp.issparse(X) else X
            result = exact_svd(dense - self.mean_, self.n_components)
        else:
            with warnings.catch_warnings():
                # bounds and warnings stay readable on the estimator; near ties are no news for every fit of a pipeline
                warnings.simplefilter("ignore", SketchWarning)
                result = self._decompose(X)
        self.sketch_size_ = 0 if result.sketch is None else result.sketch.size
        bounds = {} if result.bounds is None else result.bounds.per_component
        self.error_bounds_ = {m: np.asarray(bounds[m]) for m in METRICS}
        self._finish(result.s, result.Vt, X.dtype)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> SketchedSVD:
        """Add rows; the sketch, not the data, is kept. Needs as many rows in all as there are components.

        Raises:
            ValueError: ``method`` is "leverage" or "srht", which need all rows before the first is sketched.
        """
        self._validate_params()
        if self.method in ("leverage", "srht"):
            raise ValueError(
                f"partial_fit: method {self.method!r} needs all rows at once; use 'auto', 'countsketch', 'gaussian', "
                "'sparse_sign', 'uniform' or 'length', or fit"
            )
        first = not hasattr(self, "_stream")
        X = self._checked(X, reset=first)
        if first:
            self._start(X.shape[1])
        self._fit_more(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Scores X Vᵀ (n_samples, n_components), centred for PCA."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        offset = self.mean_ @ self.components_.T
        scores = np.asarray(X @ self.components_.T) - offset
        return scores.astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Back from scores to features (n_samples, n_features)."""
        check_is_fitted(self)
        return np.asarray(X) @ self.components_ + self.mean_

    def _decompose(self, X: Any) -> SketchedSVDResult:
        centring = None
        if self._centred and sp.issparse(X):
            rows, flip, centring = centred_rows(X, self.mean_)
        else:
            rows, flip = as_rows(X - self.mean_ if self._centred else X)
        return to_tolerance(
            rows,
            flip,
            self.n_components,
            self.tol,
            target="right",
            alpha=self.alpha,
            sketch_method=self.method,
            method="two_stage",
            replicates=100,
            max_size=self.sketch_size,
            left=False,
            seed=int(self.random_state),
            memory_limit=None,
            progress=None,
            resume=None,
            centring=centring,
        )

    def _start(self, d: int) -> None:
        size = self.sketch_size or 10 * self.n_components + 200
        method = "countsketch" if self.method == "auto" else self.method
        # one column more, of ones: its sketch is what centring subtracts, so a stream can be centred at any time
        self._stream = accumulator(method, size, d + 1, np.float64, int(self.random_state))
        self._sum = np.zeros(d)
        self.n_samples_seen_ = 0

    def _fit_more(self, X: Any) -> None:
        ones = np.ones((X.shape[0], 1))
        wide = sp.hstack([X.astype(float), ones], format="csr") if sp.issparse(X) else np.hstack([X, ones])
        for block in as_rows(wide, transpose=False)[0].blocks():
            self._stream.update(block)
        self._sum = self._sum + np.asarray(X.sum(axis=0)).ravel()
        self.n_samples_seen_ += X.shape[0]
        if self.n_components > min(self.n_samples_seen_, X.shape[1], self._stream.size):
            raise ValueError(
                f"n_components must be at most min(n_samples, n_features, sketch_size), got {self.n_components} "
                f"with n_samples = {self.n_samples_seen_} and n_features = {X.shape[1]}"
            )
        Y = self._stream.finish()
        mean = self._sum / self.n_samples_seen_
        self.mean_ = mean if self._centred else np.zeros_like(mean)
        matrix = Y[:, :-1] - Y[:, -1:] * self.mean_
        self.sketch_size_ = self._stream.size
        found = Sketch(matrix, self._stream.method, self.n_samples_seen_, int(self.random_state), 0, self._coherence())
        s, V = found.spectrum(self.n_components)
        bounds = bootstrap_error(found, self.n_components, alpha=self.alpha, quiet=True)
        self.error_bounds_ = dict(bounds.per_component)
        k = self.n_components
        self._finish(s[:k], V[:, :k].T, X.dtype)

    def _coherence(self) -> float:
        seen = self._stream
        return seen.rows * seen.largest / seen.energy if seen.energy > 0 else 1.0

    def _finish(self, s: np.ndarray, Vt: np.ndarray, dtype: Any) -> None:
        largest = Vt[np.arange(len(Vt)), np.abs(Vt).argmax(axis=1)]
        self.components_ = (Vt * np.where(largest < 0, -1.0, 1.0)[:, None]).astype(dtype, copy=False)
        self.singular_values_ = s.astype(dtype, copy=False)
        self.mean_ = self.mean_.astype(dtype, copy=False)
        self.explained_variance_ = s**2 / max(1, self.n_samples_seen_ - 1)
        self._n_features_out = len(s)

    def _checked(self, X: Any, *, reset: bool) -> Any:
        return validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SketchedPCA(SketchedSVD):
    """Principal components by sketching: :class:`SketchedSVD` of the centred data; sparse data stay sparse.

    Args:
        n_components: Components, at most min(n_samples, n_features).
        tol: Largest error (sine of the angle) of a principal axis, with confidence 1 - alpha.
        sketch_size: As for :class:`SketchedSVD`.
        method: Sketch; "auto" is countsketch.
        alpha: 1 - confidence of the bounds.
        random_state: Seed.

    Source: arXiv:2003.04937.

    Example:
        >>> import numpy as np
        >>> from gyrostat import SketchedPCA
        >>> X = np.random.default_rng(0).standard_normal((300, 10)) + 5
        >>> bool(abs(SketchedPCA(3).fit_transform(X).mean()) < 1e-9)
        True
    """

    _centred = True
