"""Latent geometries: where a hidden vector holds the values of a scalar function, and what its gradient is.

    grad f (per cell),     P f (mean per cell),     ⟨U,V⟩ = Σ α U·V,     div = -M⁻¹ gradᵀ α,     M = diag(Pᵀ α)
    W = Pᵀ α V·grad,       flux S = W - Wᵀ,         S 1 = M div V,       field without divergence: V - grad u

Source: discrete form of the operators of Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589.
Differs from the released code: none was released; the discrete form is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ArgumentError, ShapeError
from .operators import flux_to_operator, skew_matrix, upper_triangle


def _potential(laplacian: Tensor, source: Tensor) -> Tensor:
    n = laplacian.shape[0]
    if n == 1:
        return torch.zeros_like(source)
    # constants are the kernel of the Laplacian of one piece, and no source has a share in them
    whole = laplacian + laplacian.trace() / n**2
    inverse = torch.linalg.inv(whole)
    u = inverse @ source
    return u + inverse @ (source - whole @ u)


@dataclass(frozen=True)
class Graph:
    """Points joined by edges; a field is one number for each edge, the flux from its first to its second end.

    Args:
        n: Points.
        edges: The two ends of each edge, ``(2, E)``, integers.
    """

    n: int
    edges: Tensor

    def grad(self, f: Tensor) -> Tensor:
        """Differences along the edges, ``(..., E)``, of values ``(..., n)``."""
        return f[..., self.edges[1]] - f[..., self.edges[0]]

    def average(self, f: Tensor) -> Tensor:
        """Values at the midpoints, ``(..., E)``."""
        return 0.5 * (f[..., self.edges[1]] + f[..., self.edges[0]])

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """The field Σ a grad b (E) of pairs of functions, ``(r, n)`` each."""
        return (self.average(a) * self.grad(b)).sum(0)

    def flux(self, field: Tensor) -> Tensor:
        """The skew matrix S (n, n) of a field (E)."""
        i, j = self.edges
        upper = torch.zeros(self.n, self.n, dtype=field.dtype, device=field.device).index_put((i, j), field)
        return upper - upper.T

    def project(self, field: Tensor) -> Tensor:
        """The part of a field (E) without divergence: what is left beside the gradient of a potential."""
        one = torch.ones_like(field)
        joined = self.flux(one).abs()
        laplacian = torch.diag(joined.sum(1)) - joined
        return field - self.grad(_potential(laplacian, -self.flux(field).sum(1)))

    def row_sums(self, size: Tensor) -> Tensor:
        """Sum over the edges at each point (n) of a number for each edge (E)."""
        zero = torch.zeros(self.n, dtype=size.dtype, device=size.device)
        return zero.index_add(0, self.edges[0], size).index_add(0, self.edges[1], size)

    def apply(self, field: Tensor, mu: Tensor, rows: Tensor, transport: bool = True) -> Tensor:
        """The operator of a field on each row of ``rows`` (B, n), edge by edge; without ``transport``, ½ M⁻¹ S alone."""
        i, j = self.edges
        ahead, behind = rows[:, j], rows[:, i]  # (B, E)
        to_i, to_j = (ahead - behind, ahead - behind) if transport else (ahead, -behind)
        out = torch.zeros_like(rows).index_add(1, i, field * to_i).index_add(1, j, field * to_j)
        return 0.5 * out / mu


class CompleteGraph(Graph):
    """Every two points joined; the edges in the order of the upper triangle of S, row by row."""

    def __init__(self, n: int, device: Any = None) -> None:
        super().__init__(n, torch.triu_indices(n, n, 1, device=device))

    def flux(self, field: Tensor) -> Tensor:
        """The skew matrix S (n, n) of a field (n(n-1)/2)."""
        return skew_matrix(field, self.n)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """The field Σ a grad b (n(n-1)/2) of pairs of functions, ``(r, n)`` each, without r numbers for each edge."""
        cross, own = a.T @ b, (a * b).sum(0)
        return upper_triangle(0.5 * (cross - cross.T + own[None, :] - own[:, None]))

    def project(self, field: Tensor) -> Tensor:
        """The part of a field without divergence, in closed form: the potential is -S 1 / n."""
        return field + self.grad(self.flux(field).sum(1) / self.n)


@dataclass(frozen=True)
class LatentGeometry:
    """Inner product, gradient and averaging on n points and m cells.

    Args:
        G: Gradient (m·δ, n), row e·δ+k, with G 1 = 0.
        P: Averaging (m, n), with P 1 = 1.
        alpha: Weights of the cells (m), positive.

    Raises:
        ShapeError: The sizes do not fit.

    Source: after arXiv:2102.09589.

    Example:
        >>> import torch
        >>> G, P = torch.tensor([[-1.0, 1, 0], [0, -1, 1]]), torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]])
        >>> line = LatentGeometry(G, P, torch.ones(2))
        >>> line.mu
        tensor([0.5000, 1.0000, 0.5000])
    """

    G: Tensor
    P: Tensor
    alpha: Tensor

    def __post_init__(self) -> None:
        m, n = self.P.shape
        if self.alpha.shape != (m,) or self.G.shape[1] != n or self.G.shape[0] % m:
            raise ShapeError(
                f"LatentGeometry: P is {tuple(self.P.shape)}, so alpha must be ({m},) and G (multiple of {m}, {n}); "
                f"got {tuple(self.alpha.shape)} and {tuple(self.G.shape)}"
            )

    @property
    def mu(self) -> Tensor:
        """Masses of the points (n): Pᵀ α."""
        return self.P.T @ self.alpha

    @property
    def components(self) -> int:
        """Components δ of a field in each cell."""
        return self.G.shape[0] // self.P.shape[0]

    def grad(self, f: Tensor) -> Tensor:
        """Gradient (..., m, δ) of the values ``f`` (..., n)."""
        return (f @ self.G.T).unflatten(-1, (self.P.shape[0], self.components))

    def average(self, f: Tensor) -> Tensor:
        """Means over the cells, (..., m, 1), of the values ``f`` (..., n)."""
        return (f @ self.P.T).unsqueeze(-1)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """The field Σ a grad b (m, δ) of pairs of functions, ``(r, n)`` each."""
        return (self.average(a) * self.grad(b)).sum(0)

    def div(self, V: Tensor) -> Tensor:
        """Divergence (n) of the field ``V`` (m, δ)."""
        return -(self.G.T @ (self.alpha[:, None] * V).reshape(-1)) / self.mu

    def galerkin(self, V: Tensor) -> Tensor:
        """W (n, n): f to the integral of V·grad f against each averaged basis function."""
        m, n = self.P.shape
        along = (V[:, :, None] * self.G.reshape(m, -1, n)).sum(1)  # (m, n), the derivative along V
        return self.P.T @ (self.alpha[:, None] * along)

    def flux(self, V: Tensor) -> Tensor:
        """The skew matrix S = W - Wᵀ (n, n) of the field ``V`` (m, δ)."""
        W = self.galerkin(V)
        return W - W.T

    def project(self, V: Tensor) -> Tensor:
        """The part of the field ``V`` without divergence: what is left beside the gradient of a potential."""
        weighted = self.alpha.repeat_interleave(self.components)[:, None] * self.G
        return V - self.grad(_potential(self.G.T @ weighted, weighted.T @ V.reshape(-1)))

    def operator(self, V: Tensor, form: str = "split") -> Tensor:
        """The operator (n, n) of ``V``; only ``"split"`` is skew exactly when the divergence vanishes.

        Raises:
            ArgumentError: ``form`` is neither ``"split"`` nor ``"galerkin"``.
        """
        if form == "galerkin":
            return self.galerkin(V) / self.mu[:, None]
        if form != "split":
            raise ArgumentError(f"LatentGeometry: form must be 'split' or 'galerkin', got {form!r}")
        return flux_to_operator(self.flux(V), self.mu)


def named_edges(name: str, n: int) -> Tensor:
    """Edges (2, E) of a ``"ring"`` or of a ``"torus"`` (the grid nearest to a square) of n points.

    Raises:
        ArgumentError: ``n`` is no product of two sides.
    """
    point, width = torch.arange(n), n
    if name == "torus":
        rows = next((b for b in range(int(n**0.5), 1, -1) if n % b == 0), 0)
        if not rows:
            raise ArgumentError(f"geometry 'torus' needs a hidden_size that is a product, such as 64 = 8 x 8; got {n}")
        width = n // rows
    ends = [torch.stack([point, point - point % width + (point + 1) % width])]
    if name == "torus":
        ends.append(torch.stack([point, (point + width) % n]))
    return clean_edges(torch.cat(ends, 1), n)


def clean_edges(edges: Tensor, n: int) -> Tensor:
    """Each edge once, smaller end first, in order; loops are dropped."""
    first, last = edges.min(0).values, edges.max(0).values
    keep = first != last
    code = torch.unique(first[keep] * n + last[keep])
    return torch.stack([code // n, code % n])


def check_edges(edges: Any, n: int) -> Tensor:
    """The edges (2, E) of a graph given as pairs of points ``(E, 2)``.

    Raises:
        ArgumentError: They are not pairs of points 0..n-1, or the graph falls into pieces.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    try:
        pairs = torch.as_tensor(edges)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"geometry must be pairs of points (E, 2), got {type(edges).__name__}") from None
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.is_complex():
        raise ArgumentError(
            f"geometry must be integer pairs of points (E, 2), got {tuple(pairs.shape)} of {pairs.dtype}; "
            "an adjacency matrix A becomes A.triu(1).nonzero()"
        )
    if pairs.numel() and not (int(pairs.min()) >= 0 and int(pairs.max()) < n):
        raise ArgumentError(f"geometry must name points 0..{n - 1}, got {int(pairs.min())}..{int(pairs.max())}")
    found = clean_edges(pairs.long().T.cpu(), n)
    i, j = found.numpy()
    pieces = connected_components(coo_array(([1] * len(i), (i, j)), shape=(n, n)), directed=False)[0]
    if pieces != 1:
        raise ArgumentError(f"geometry must be one connected graph, this one falls into {pieces} pieces")
    return found
