"""Matrices that a user hands in: real, finite, square, matching; as float64 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import Real
from .._errors import ArgumentError, ArgumentTypeError, NonFiniteError


def as_float64(value: Any, name: str, where: str) -> Tensor:
    """A real, finite float64 tensor without history, from a tensor, an array or nested lists."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{where}: {name} must be a matrix of numbers, got {type(value).__name__}") from error
    if tensor.is_complex():
        raise ArgumentTypeError(f"{where}: {name} must be real, got {tensor.dtype}; pass .real if that is meant")
    tensor = tensor.to(device="cpu", dtype=torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        first = tuple((~torch.isfinite(tensor)).nonzero()[0].tolist())
        raise NonFiniteError(f"{where}: {name} has NaN or Inf, the first at index {first}; training has diverged there")
    return tensor


def square(value: Any, name: str, where: str) -> Tensor:
    """A square matrix ``(N, N)``, N at least 1."""
    M = as_float64(value, name, where)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or M.shape[0] == 0:
        raise ArgumentError(f"{where}: {name} must be a square matrix (N, N), got shape {tuple(M.shape)}")
    return M


def matching(A: Any, W: Any, where: str) -> tuple[Tensor, Tensor]:
    """Two square matrices of the same size."""
    first, second = square(A, "A", where), square(W, "W", where)
    if first.shape != second.shape:
        raise ArgumentError(
            f"{where}: W must have the shape of A, {tuple(first.shape)}, got {tuple(second.shape)}; "
            "both act on the hidden state"
        )
    return first, second


def positive_weights(value: Any, n: int, name: str, where: str) -> Tensor:
    """Positive weights ``(n,)``, given as a vector or as a diagonal matrix."""
    P = as_float64(value, name, where)
    if P.ndim == 2 and P.shape[0] == P.shape[1] and torch.equal(P, torch.diag(P.diagonal())):
        P = P.diagonal()
    if P.shape != (n,) or not bool((P > 0).all()):
        raise ArgumentError(
            f"{where}: {name} must be {n} positive numbers or a positive diagonal matrix, got shape {tuple(P.shape)}"
        )
    return P


def in_metric(A: Tensor, W: Tensor, metric: Any, where: str) -> tuple[Tensor, Tensor, float, bool]:
    """A and W where ``eᵀPe`` is the squared length, a bound on ``‖D W‖`` there, ``|D_ii| ≤ 1``, and whether units mix.

    With P = CᵀC and ``Δ = diag P``, D commutes with Δ: ``‖C D W C⁻¹‖ ≤ ‖C Δ^{-½}‖ ‖Δ^{½} W C⁻¹‖``, which for diagonal P is
    ``‖C W C⁻¹‖`` itself.
    """
    n, P = A.shape[0], as_float64(metric, "metric", where)
    if P.ndim == 1 or torch.equal(P, torch.diag(P.diagonal())):
        root = positive_weights(P, n, "metric", where).sqrt()
        A, W = root[:, None] * A / root, root[:, None] * W / root
        return A, W, norm2(W), False
    values = torch.linalg.eigvalsh(sym(P)) if P.shape == (n, n) else -torch.ones(1)
    skew = float((P - P.mT).abs().max()) if P.shape == (n, n) else 0.0
    if skew > 1e-10 * float(P.abs().max()) or float(values[0]) <= n * 2.3e-16 * float(values[-1]):
        raise ArgumentError(
            f"{where}: metric must be {n} positive weights or a symmetric positive definite ({n}, {n}) matrix, "
            f"got shape {tuple(P.shape)}" + (f" with eigenvalue {float(values[0]):.3g}" if P.shape == (n, n) else "")
        )
    C = torch.linalg.cholesky(sym(P)).T
    root = P.diagonal().sqrt()
    there = torch.linalg.solve_triangular(C, torch.stack([C @ A, C @ W, root[:, None] * W]), upper=True, left=False)
    return there[0], there[1], norm2(C / root) * norm2(there[2]), True


def steps(dt: Any, where: str) -> Tensor:
    """Step sizes as a float64 vector; a number gives one entry."""
    if not isinstance(dt, (Tensor, list, tuple)) and not hasattr(dt, "__array__"):
        Real(low=0, closed="neither").check("dt", dt, where)
    values = as_float64(dt, "dt", where).reshape(-1)
    if values.numel() == 0 or not bool((values > 0).all()):
        raise ArgumentError(f"{where}: dt must be positive, got {dt!r}")
    return values


def sym(M: Tensor) -> Tensor:
    """Symmetric part."""
    return 0.5 * (M + M.T)


def top(M: Tensor) -> float:
    """Largest eigenvalue of the symmetric part."""
    return float(torch.linalg.eigvalsh(sym(M))[-1])


def bottom(M: Tensor) -> float:
    """Smallest eigenvalue of the symmetric part."""
    return float(torch.linalg.eigvalsh(sym(M))[0])


def norm2(M: Tensor) -> float:
    """Largest singular value."""
    return float(torch.linalg.matrix_norm(M, 2))
