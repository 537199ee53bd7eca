"""Vector fields on n points as linear operators, their divergence, and their flow.

    D = ½ M⁻¹ (S - diag(S 1)),     div = M⁻¹ S 1,     M = diag(μ),     Sᵀ = -S
    D 1 = 0,     D + M⁻¹ Dᵀ M = -diag(div)            so exp(D) is M-orthogonal exactly when div = 0

Source: discrete form of the operators of Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589.
Differs from the released code: none was released; the discrete form is derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ArgumentError, ShapeError

FLOWS = ("expm", "cayley")
# Taylor terms for a step of norm at most 1: 1/19! is below the rounding of float64
_TERMS = 18


def skew_matrix(flux: Tensor, n: int) -> Tensor:
    """The skew matrix whose upper triangle, row by row, is ``flux`` (n(n-1)/2)."""
    rows, columns = torch.triu_indices(n, n, 1, device=flux.device)
    upper = torch.zeros(n, n, dtype=flux.dtype, device=flux.device).index_put((rows, columns), flux)
    return upper - upper.T


def upper_triangle(S: Tensor) -> Tensor:
    """The entries above the diagonal, row by row."""
    rows, columns = torch.triu_indices(S.shape[0], S.shape[0], 1, device=S.device)
    return S[rows, columns]


def flux_to_operator(S: Tensor, mu: Tensor) -> Tensor:
    """The operator D (n, n) of the skew flux ``S`` under the masses ``mu`` (n)."""
    return 0.5 * (S - torch.diag(S.sum(1))) / mu[:, None]


def operator_to_flux(L: Tensor, mu: Tensor) -> Tensor:
    """The flux S of an operator: M L - (M L)ᵀ."""
    W = mu[:, None] * L
    return W - W.T


def adjoint(L: Tensor, mu: Tensor) -> Tensor:
    """The adjoint M⁻¹ Lᵀ M in the inner product of ``mu``."""
    return L.T * mu[None, :] / mu[:, None]


def split(L: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """The M-skew and the M-symmetric part of ``L``."""
    other = adjoint(L, mu)
    return 0.5 * (L - other), 0.5 * (L + other)


def divergence(L: Tensor, mu: Tensor) -> Tensor:
    """The divergence (n) of the field of an operator with L 1 = 0: -M⁻¹ Lᵀ M 1."""
    return -(L.T @ mu) / mu


def hodge(S: Tensor) -> tuple[Tensor, Tensor]:
    """Helmholtz-Hodge: S = S_0 + (1 uᵀ - u 1ᵀ) with S_0 1 = 0; returns ``(S_0, u)``."""
    u = -S.sum(1) / S.shape[0]
    return S - (u[None, :] - u[:, None]), u


def flow(D: Tensor, method: str = "expm") -> Tensor:
    """The map of the flow over unit time: exp(D), or its Cayley form (I - D/2)⁻¹ (I + D/2).

    Raises:
        ArgumentError: ``method`` is none of ``FLOWS``.
    """
    if method == "expm":
        return torch.linalg.matrix_exp(D)
    if method == "cayley":
        one = torch.eye(D.shape[0], dtype=D.dtype, device=D.device)
        return torch.linalg.solve(one - 0.5 * D, one + 0.5 * D)
    raise ArgumentError(f"flow: method must be one of {', '.join(map(repr, FLOWS))}, got {method!r}")


def flow_action(D: Tensor, rows: Tensor) -> Tensor:
    """exp(D) applied to each row of ``rows`` (B, n) without forming exp(D)."""
    steps = max(1, math.ceil(float(D.detach().abs().sum(1).max())))
    for _ in range(steps):
        term = rows
        for k in range(1, _TERMS + 1):
            term = term @ D.T / (steps * k)  # (B, n)
            rows = rows + term
    return rows


@dataclass(frozen=True)
class LatentGeometry:
    """Inner product, gradient and averaging on n points and m cells.

    Args:
        G: Gradient (m·δ, n), row e·δ+k, with G 1 = 0.
        P: Averaging (m, n), with P 1 = 1.
        alpha: Weights of the cells (m), positive.

    Raises:
        ShapeError: The sizes do not fit.
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

    def grad(self, f: Tensor) -> Tensor:
        """Gradient (m, δ) of the values ``f`` (n)."""
        return (self.G @ f).reshape(self.P.shape[0], -1)

    def div(self, V: Tensor) -> Tensor:
        """Divergence (n) of the field ``V`` (m, δ)."""
        return -(self.G.T @ (self.alpha[:, None] * V).reshape(-1)) / self.mu

    def operator(self, V: Tensor, form: str = "split") -> Tensor:
        """The operator (n, n) of ``V``; only ``"split"`` is skew exactly when the divergence vanishes.

        Raises:
            ArgumentError: ``form`` is neither ``"split"`` nor ``"galerkin"``.
        """
        m, n = self.P.shape
        along = (V[:, :, None] * self.G.reshape(m, -1, n)).sum(1)  # (m, n), the derivative along V
        W = self.P.T @ (self.alpha[:, None] * along)
        mu = self.mu
        if form == "galerkin":
            return W / mu[:, None]
        if form != "split":
            raise ArgumentError(f"LatentGeometry: form must be 'split' or 'galerkin', got {form!r}")
        return 0.5 * (W - W.T - torch.diag(mu * self.div(V))) / mu[:, None]
