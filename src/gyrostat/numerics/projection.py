"""Between functions of depth: L2 projection P = M^-1 C with M = [int psi_i psi_j], C = [int psi_i phi_k].

Source: Stateful ODE-Nets using Basis Function Expansions, arXiv:2106.10820.
Differs from the released code: integrals are exact on the union of both meshes (the release integrates on a mesh that
fits neither, kept as ``method="legacy_l2"``), and the projection of samples keeps what the samples do not see, where
the release returns NaN.

All matrices are small numpy float64 arrays that act on stacked coefficients ``(K, ...)``.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .._checks import OneOf
from .._errors import ArgumentError
from .basis import Basis, Side

METHODS = ("l2", "interpolate", "legacy_l2")

_PANELS, _PANEL_POINTS = 32, 12


def _quadrature(first: Basis, second: Basis) -> tuple[list[float], np.ndarray]:
    """Gauss points and weights on the union of both meshes, exact for products of the two bases."""
    ends = sorted({*first.breakpoints(), *second.breakpoints()})
    # exact up to degree 2 n - 1: for squares of either basis too
    n_points = max(first.degree, second.degree) + 1
    if first.trigonometric or second.trigonometric:
        panels = max(_PANELS, 4 * max(first.K, second.K))
        ends = sorted({*ends, *(Fraction(i, panels) for i in range(panels + 1))})
        n_points = max(n_points, _PANEL_POINTS)
    x, w = np.polynomial.legendre.leggauss(n_points)
    points: list[float] = []
    weights: list[float] = []
    for a, b in pairwise(ends):
        half, middle = float(b - a) / 2, float(a + b) / 2
        points += [middle + half * float(v) for v in x]
        weights += [half * float(v) for v in w]
    return points, np.array(weights)


@lru_cache(maxsize=512)
def _gram(first: Basis, second: Basis) -> np.ndarray:
    points, weights = _quadrature(first, second)
    return first.rows(points).T @ (weights[:, None] * second.rows(points))


def gram_matrix(first: Basis, second: Basis | None = None) -> np.ndarray:
    """The integrals over [0, 1] of all products of two bases; the mass matrix for one basis.

    Args:
        first: Basis of the rows.
        second: Basis of the columns; ``first`` when left out.

    Returns:
        Array ``(K_first, K_second)``.
    """
    return _gram(first, second or first).copy()


def interpolation_matrix(source: Basis, target: Basis) -> np.ndarray:
    """The target function that agrees with the source at the target's nodes: ``(K_target, K_source)``."""
    values = np.array([source.row(t, side) for t, side in target.nodes()])
    at_nodes = np.array([target.row(t, side) for t, side in target.nodes()])
    return np.linalg.solve(at_nodes, values)


def _legacy_matrix(source: Basis, target: Basis) -> np.ndarray:
    """The released quadrature: 7 Gauss points in each of max(K) - 1 equal cells, whatever the meshes are."""
    n = max(source.K, target.K)
    if n < 2:
        raise ArgumentError("projection_matrix: method 'legacy_l2' is NaN for K = 1 on both sides; use method 'l2'")
    x, w = np.polynomial.legendre.leggauss(7)
    edges = np.linspace(0.0, 1.0, n)
    half = np.diff(edges) / 2
    points = (edges[:-1] + half)[:, None] + half[:, None] * x
    weights = (half[:, None] * w).ravel()[:, None]
    a, b = target.rows(points.ravel()), source.rows(points.ravel())
    return np.linalg.solve(a.T @ (weights * a), a.T @ (weights * b))


def projection_matrix(source: Basis, target: Basis, method: str = "l2") -> np.ndarray:
    """The matrix that takes coefficients of ``source`` to coefficients of ``target``.

    Args:
        source: Basis of the coefficients at hand.
        target: Basis wanted.
        method: ``"l2"`` (best approximation, exact integrals), ``"interpolate"`` (agreement at the target's nodes) or
            ``"legacy_l2"`` (the released quadrature, only to reproduce published numbers).

    Returns:
        Array ``(K_target, K_source)``, float64.

    Raises:
        ArgumentError: Unknown method.

    Source:
        arXiv:2106.10820.

    Example:
        >>> from gyrostat import Hat, PiecewiseConstant
        >>> projection_matrix(PiecewiseConstant(4), PiecewiseConstant(2)).round(12).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    OneOf(METHODS).check("method", method, "projection_matrix")
    if method == "interpolate":
        return interpolation_matrix(source, target)
    if method == "legacy_l2":
        return _legacy_matrix(source, target)
    if source == target:
        return np.eye(source.K)
    return np.linalg.solve(_gram(target, target), _gram(target, source))


def error_matrix(source: Basis, target: Basis) -> np.ndarray:
    """E with |theta - P theta|^2 = theta^T E theta in L2(0, 1), P the L2 projection: ``(K_source, K_source)``, PSD."""
    if source == target:
        return np.zeros((source.K, source.K))
    points, weights = _quadrature(source, target)
    # E = M_s - C^T M^-1 C loses the small errors to cancellation: integrate the residual functions instead
    residual = source.rows(points) - target.rows(points) @ projection_matrix(source, target)
    return residual.T @ (weights[:, None] * residual)


def fit_samples(rows: np.ndarray, old: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Coefficients that fit samples of a function of depth, s_new = s_old + A^+ (y - A s_old).

    Args:
        rows: A, the basis at the sample depths, ``(n_samples, K)``.
        old: Coefficients before, ``(K, ...)``; what the samples do not determine stays as it is.
        samples: y, ``(n_samples, ...)``.

    Returns:
        Array shaped like ``old``.
    """
    flat_old, flat = old.reshape(len(old), -1), samples.reshape(len(samples), -1)
    return (flat_old + np.linalg.pinv(rows) @ (flat - rows @ flat_old)).reshape(old.shape)


def squared_norm(basis: Basis, nodes: np.ndarray) -> np.ndarray:
    """The integral of theta(t)^2 for each entry of stacked coefficients ``(K, ...)``."""
    flat = nodes.reshape(basis.K, -1)
    return np.einsum("ip,ij,jp->p", flat, _gram(basis, basis), flat).reshape(nodes.shape[1:])


def sample_rows(basis: Basis, times: list[Fraction], sides: list[Side]) -> np.ndarray:
    """The basis at given depths and sides: ``(len(times), K)``."""
    return np.array([basis.row(t, side) for t, side in zip(times, sides, strict=True)]).reshape(len(times), basis.K)
