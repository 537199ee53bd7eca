"""Rates of a system h' = A h + φ(W h + u): how fast two trajectories approach each other, or part.

    mu_small_gain = λ_max(A^sym) + L σ_max(W)
    mu_slope      = λ_max(A^sym + (L/2) W^sym) + (L/2) σ_max(W)   ≤ mu_small_gain
    ‖h(t) - k(t)‖ ≤ e^{mu t} ‖h(0) - k(0)‖      for every pair of trajectories under the same input

Source: Theorem 1(a) of arXiv:2006.12070; the second rate is ours, for slopes of φ in [0, L] (write D = (L/2)(I + E), ‖E‖ ≤ 1).
Differs from the released code: the code has no certificates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def symmetric_part(matrix: Tensor) -> Tensor:
    """(M + Mᵀ)/2."""
    return (matrix + matrix.transpose(-1, -2)) / 2


def small_gain_rate(A: Tensor, W: Tensor, lipschitz: float = 1.0) -> Tensor:
    """λ_max(A^sym) + L σ_max(W), differentiable; a bound on the rate for any L-Lipschitz nonlinearity."""
    return torch.linalg.eigvalsh(symmetric_part(A))[-1] + lipschitz * torch.linalg.matrix_norm(W, 2)


def slope_rate(A: Tensor, W: Tensor, lipschitz: float = 1.0) -> Tensor:
    """The sharper bound on the rate for a nonlinearity with slopes in [0, L] (tanh, ReLU, sigmoid), differentiable."""
    half = lipschitz / 2
    return torch.linalg.eigvalsh(symmetric_part(A + half * W))[-1] + half * torch.linalg.matrix_norm(W, 2)
