"""Vector fields on n points as linear operators, their divergence, and their flow.

    D = ½ M⁻¹ (S - diag(S 1)),     div = M⁻¹ S 1,     M = diag(μ),     Sᵀ = -S
    D 1 = 0,     D + M⁻¹ Dᵀ M = -diag(div)            so exp(D) is M-orthogonal exactly when div = 0

Source: discrete form of the operators of Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589.
Differs from the released code: none was released; the discrete form is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import ArgumentError

FLOWS = ("expm", "cayley")


def widen(tensor: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: there is no solve and no exponential in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def autocast_on(tensor: Tensor) -> bool:
    """Whether autocast would change products of this tensor; the meta device knows no autocast."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


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
    """The map of the flow over unit time: exp(D), its Cayley form (I - D/2)⁻¹ (I + D/2), or ``"taylor:k"``, Σ_{j≤k} Dʲ/j!.

    Half precision is computed in float32.

    Raises:
        ArgumentError: ``method`` is none of these.
    """
    terms = flow_terms(method)
    wide = widen(D)
    one = torch.eye(D.shape[0], dtype=wide.dtype, device=D.device)
    if method == "expm":
        E = torch.linalg.matrix_exp(wide)
    elif method == "cayley":
        E = torch.linalg.solve(one - 0.5 * wide, one + 0.5 * wide)
    else:
        E = one
        for k in range(terms, 0, -1):
            E = one + wide @ E / k
    return E.to(D.dtype)


def flow_terms(method: str) -> int:
    """The k of ``"taylor:k"``, 0 for the other methods.

    Raises:
        ArgumentError: ``method`` is none that :func:`flow` knows.
    """
    if method in FLOWS:
        return 0
    word, _, k = str(method).partition(":")
    if word != "taylor" or not k.isdecimal() or int(k) < 1:
        words = ", ".join(map(repr, FLOWS))
        raise ArgumentError(f"flow: method must be one of {words} or 'taylor:k' with k >= 1, got {method!r}")
    return int(k)


def flow_gain(D: Tensor, mu: Tensor, method: str = "expm") -> tuple[Tensor, Tensor]:
    """Bounds on the singular values of ``flow(D, method)`` in the M-norm.

    The M-symmetric part of D lies between a and b (-½ max div and -½ min div for a vector field). Then exp(D) lies between
    eᵃ and eᵇ; the Cayley form, by von Neumann's inequality for a half-plane, between (1 + a/2)/(1 - a/2), or 0, and
    (1 + b/2)/(1 - b/2), or infinity, with a ≤ 0 ≤ b; a polynomial as exp(D) give or take the rest of its series.
    """
    root = mu.sqrt()
    flat = root[:, None] * D / root  # the Euclidean twin of D
    low, high = torch.linalg.eigvalsh(0.5 * (flat + flat.T))[[0, -1]]
    terms = flow_terms(method)
    if method == "cayley":
        a, b = 0.5 * low.clamp(-2, 0), 0.5 * high.clamp(0, 2)
        return (1 + a) / (1 - a), (1 + b) / (1 - b)
    if terms:
        x = torch.linalg.matrix_norm(flat, 2)
        rest = torch.exp(x) * torch.special.gammainc(torch.full_like(x, terms + 1), x)
        return (torch.exp(low) - rest).clamp(min=0), torch.exp(high) + rest
    return torch.exp(low), torch.exp(high)


def action_steps(bound: Tensor) -> int:
    """Substeps that :func:`flow_action` needs for an operator of at most this norm."""
    return max(1, math.ceil(float(bound.detach())))


def flow_action(apply: Callable[[Tensor], Tensor], rows: Tensor, steps: int) -> Tensor:
    """exp(D) applied to each row of ``rows`` (B, n) by its series; ``apply`` is D on rows, ``steps`` at least its norm."""
    # Taylor terms for a step of norm at most 1, up to the rounding of the type
    terms = 18 if rows.dtype == torch.float64 else 10
    for _ in range(steps):
        term = rows
        for k in range(1, terms + 1):
            term = apply(term) / (steps * k)  # (B, n)
            rows = rows + term
    return rows
