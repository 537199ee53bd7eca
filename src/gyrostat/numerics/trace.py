"""Estimates of the trace and of the spectral density of a symmetric operator known by its products.

Hutchinson: ``tr H = E zᵀHz`` with Rademacher z. Hutch++: ``tr H = tr QᵀHQ + tr (I − QQᵀ)H(I − QQᵀ)``, Q an orthonormal
basis of a sketch of the range; the first term is exact, the second one is estimated. The density is the mean over
probes of the Gauss quadrature ``Σ s²_{1i} δ(θ_i)`` of Lanczos. All of them are estimates and carry a standard error.

Source: Hutchinson (1990); Meyer et al., arXiv:2010.09649 (Hutch++); Ghorbani et al., arXiv:1901.10159 (density).
Differs from the released code: nowhere known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._checks import Integer, Real, check
from .._results import Result
from .krylov import COUNT, KrylovSpace, Matvec, apply, default_generator, random_vector


@dataclass(frozen=True)
class TraceEstimate(Result):
    """An estimate of a trace; ``standard_error`` is NaN for a single probe."""

    value: float
    standard_error: float
    probes: int
    samples: Tensor = field(repr=False)


@dataclass(frozen=True)
class SpectralDensity(Result):
    """An estimate of the density of eigenvalues: Gauss nodes and weights, and the smoothed density on a grid.

    Attributes:
        grid: ``(G,)`` abscissae.
        density: ``(G,)``, integrates to 1 over the real line.
        nodes: ``(probes, m)`` Ritz values.
        weights: ``(probes, m)``, each row sums to 1.
        width: Standard deviation of the smoothing Gaussian.
    """

    grid: Tensor
    density: Tensor
    nodes: Tensor
    weights: Tensor
    width: float


def hutchinson(
    matvec: Matvec, n: int, probes: int = 32, *, like: Tensor | None = None, generator: torch.Generator | None = None
) -> TraceEstimate:
    """Unbiased estimate of the trace, ``mean of zᵀHz`` over Rademacher vectors, with its standard error."""
    check({"n": COUNT, "probes": COUNT}, locals(), "hutchinson")
    draw = default_generator(generator)
    samples = []
    for _ in range(probes):
        z = random_vector(n, like, generator=draw, law="rademacher")
        samples.append(float(z @ apply(matvec, z, "hutchinson")))
    return _trace(torch.tensor(samples, dtype=torch.float64), probes)


def _trace(samples: Tensor, probes: int, offset: float = 0.0) -> TraceEstimate:
    error = float(samples.std() / math.sqrt(samples.numel())) if samples.numel() > 1 else math.nan
    return TraceEstimate(offset + float(samples.mean()), error, probes, samples + offset)


def hutchpp(
    matvec: Matvec, n: int, probes: int = 33, *, like: Tensor | None = None, generator: torch.Generator | None = None
) -> TraceEstimate:
    """Hutch++: a third of the products finds the range, a third its exact trace, a third estimates the rest.

    Far smaller variance than :func:`hutchinson` where few eigenvalues carry the trace; exact for rank up to
    ``probes // 3``.
    """
    check({"n": COUNT, "probes": Integer(low=3)}, locals(), "hutchpp")
    draw = default_generator(generator)
    k = min(probes // 3, n)
    sketch = [apply(matvec, random_vector(n, like, generator=draw, law="rademacher"), "hutchpp") for _ in range(k)]
    Q = torch.linalg.qr(torch.stack(sketch, dim=1)).Q  # (n, k)
    exact = sum(float(q @ apply(matvec, q.contiguous(), "hutchpp")) for q in Q.T)
    samples = []
    for _ in range(max(probes - 2 * k, 1)):
        z = random_vector(n, like, generator=draw, law="rademacher").to(Q)
        z = z - Q @ (Q.T @ z)
        samples.append(float(z @ apply(matvec, z, "hutchpp")))
    return _trace(torch.tensor(samples, dtype=torch.float64), probes, exact)


def lanczos_density(
    matvec: Matvec,
    n: int,
    *,
    probes: int = 4,
    steps: int = 50,
    points: int = 512,
    width: float | None = None,
    like: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Estimate of the spectral density by stochastic Lanczos quadrature.

    Args:
        matvec: Product with a symmetric operator.
        n: Size.
        probes: Random start vectors.
        steps: Lanczos steps per probe, at most ``n``.
        points: Size of the grid.
        width: Standard deviation of the smoothing Gaussian; 1 % of the spectrum's range when left out.
        like: Tensor whose dtype and device the vectors take.
        generator: Start vectors; a fixed seed when left out.
    """
    rules = {"n": COUNT, "probes": COUNT, "steps": COUNT, "points": Integer(low=2)}
    check({**rules, "width": Real(low=0, closed="neither", optional=True)}, locals(), "lanczos_density")
    draw = default_generator(generator)
    m = min(steps, n)
    nodes, weights = [], []
    for _ in range(probes):
        space = KrylovSpace(matvec, random_vector(n, like, generator=draw, law="rademacher"), draw, "lanczos_density")
        for _ in range(m):
            space.grow()
        theta, S = space.ritz()
        nodes.append(theta)
        weights.append(S[0] ** 2)
    node, weight = torch.stack(nodes), torch.stack(weights)  # (probes, m)
    low, high = float(node.min()), float(node.max())
    span = max(high - low, 1e-12 * max(abs(low), abs(high), 1.0))
    sigma = width if width is not None else 0.01 * span
    grid = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    bells = torch.exp(-0.5 * ((grid[:, None, None] - node) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return SpectralDensity(grid, (bells * weight).sum(-1).mean(-1), node, weight, float(sigma))
