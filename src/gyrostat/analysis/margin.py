r"""How much every input may move before the predicted class can change: a bound, and an estimate called one.

    r = o / (2 ‖V‖ sup‖∂f/∂x‖ Σ_m δ_m sup‖Φ_{M−1,m+1}‖),      o = min_{j≠c} √2 (s_c − s_j),   s = V h_M
    data-free:  sup‖∂f/∂x‖ ≤ L‖U‖,   sup‖Φ_{M−1,m+1}‖ ≤ Π_{k>m} q_k,   q_k² = 1 + 2δ_k mu + δ_k² ℓ²

Source: Noisy Recurrent Neural Networks, arXiv:2102.04877 (margins); this form by the mean-value theorem is this
project's derivation, for explicit Euler steps of ``h' = A h + σ(W h + U x + b)``.
Differs from the released code: it was never released.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import Boolean, Real, check
from .._errors import ArgumentError
from .._results import Result
from ._arguments import as_float64, matching, norm2, steps
from .stability import stability_certificate


@dataclass(frozen=True)
class MarginBound(Result):
    """Radius of input perturbations that cannot change the class.

    Attributes:
        bound: ``(B,)``: no perturbation with ``‖η_m‖₂ ≤ bound`` at every step changes the prediction; 0 where the
            prediction is already wrong.
        estimate: ``(B,)``: the same with the Jacobians of the path itself; an estimate, not a bound; or None.
        score: ``(B,)``, o; negative where the prediction is wrong.
        gain: The bound's ``‖V‖ sup‖∂f/∂x‖ Σ δ sup‖Φ‖``.
    """

    bound: Tensor
    estimate: Tensor | None
    score: Tensor
    gain: float


def margin_lower_bound(
    A: Any,
    W: Any,
    U: Any,
    V: Any,
    logits: Any,
    labels: Any,
    *,
    dt: Any,
    n_steps: int | None = None,
    lipschitz: float = 1.0,
    monotone: bool = True,
    jacobians: Any = None,
) -> MarginBound:
    """Lower bound on the input perturbation that could change a prediction.

    Args:
        A: ``(N, N)``.
        W: ``(N, N)``.
        U: ``(N, F)`` input weights.
        V: ``(K, N)`` readout weights.
        logits: ``(B, K)`` or ``(K,)`` outputs for the unperturbed inputs.
        labels: ``(B,)`` or a number: the class to be kept.
        dt: Step, a number (then ``n_steps`` is needed) or ``(M,)``.
        n_steps: Number of steps M.
        lipschitz: L.
        monotone: Slopes in ``[0, L]``.
        jacobians: ``(M, B, N, N)`` or ``(M, N, N)`` from ``state_jacobians``: adds the estimate.

    Raises:
        ArgumentError: Shapes that do not fit, labels out of range, ``dt <= 0``.

    Source: arXiv:2102.04877.

    Example:
        >>> import torch
        >>> I = torch.eye(2)
        >>> margin_lower_bound(-I, 0 * I, I, I, [1.0, 0.0], 0, dt=[0.5]).bound  # 1/sqrt(2) over 0.5
        tensor([1.4142], dtype=torch.float64)
    """
    where = "margin_lower_bound"
    check({"lipschitz": Real(low=0, closed="neither"), "monotone": Boolean()}, locals(), where)
    A, W = matching(A, W, where)
    n = A.shape[0]
    U, V = as_float64(U, "U", where), as_float64(V, "V", where)
    if U.ndim != 2 or U.shape[0] != n:
        raise ArgumentError(f"{where}: U must have shape ({n}, F), got {tuple(U.shape)}")
    if V.ndim != 2 or V.shape[1] != n:
        raise ArgumentError(f"{where}: V must have shape (K, {n}), got {tuple(V.shape)}")
    s = torch.atleast_2d(as_float64(logits, "logits", where))
    c = torch.atleast_1d(torch.as_tensor(labels)).to(torch.int64)
    if s.shape[1] != V.shape[0] or s.shape[1] < 2:
        raise ArgumentError(f"{where}: logits must have {V.shape[0]} (at least 2) classes, got {tuple(s.shape)}")
    if c.shape != s.shape[:1] or not bool(((c >= 0) & (c < s.shape[1])).all()):
        raise ArgumentError(f"{where}: labels must be {s.shape[0]} classes in [0, {s.shape[1]})")
    delta = steps(dt, where)
    if delta.numel() == 1 and n_steps is not None:
        delta = delta.expand(n_steps)
    elif (n_steps is not None and delta.numel() != n_steps) or (delta.numel() == 1 and not _is_sequence(dt)):
        raise ArgumentError(f"{where}: n_steps must say how many steps there are when dt is one number")
    others = s.clone()
    others.scatter_(1, c[:, None], -math.inf)
    score = math.sqrt(2) * (s.gather(1, c[:, None])[:, 0] - others.max(1).values)

    certificate = stability_certificate(A, W, lipschitz, monotone=monotone)
    q = torch.tensor([certificate.contraction_factor(float(d)) for d in delta], dtype=torch.float64)
    later = torch.cat([q.flip(0).cumprod(0).flip(0)[1:], q.new_ones(1)])  # Π_{k>m} q_k
    into = lipschitz * norm2(U)
    gain = norm2(V) * into * float((delta * later).sum())
    bound = _radius(score, torch.tensor(gain, dtype=torch.float64))
    estimate = None
    if jacobians is not None:
        J = as_float64(jacobians, "jacobians", where)
        J = J[:, None] if J.ndim == 3 else J
        if J.ndim != 4 or J.shape[0] != len(delta) or J.shape[2:] != (n, n) or J.shape[1] not in (1, len(s)):
            raise ArgumentError(f"{where}: jacobians must be ({len(delta)}, B, {n}, {n}), got {tuple(J.shape)}")
        product = torch.eye(n, dtype=J.dtype).expand(J.shape[1], n, n)
        total = J.new_zeros(J.shape[1])
        for m in range(len(delta) - 1, -1, -1):
            total = total + delta[m] * torch.linalg.matrix_norm(product, 2)
            product = product @ J[m]
        estimate = _radius(score, norm2(V) * into * total)
    return MarginBound(bound, estimate, score, gain)


def _is_sequence(dt: Any) -> bool:
    return isinstance(dt, (list, tuple)) or getattr(dt, "ndim", 0) > 0


def _radius(score: Tensor, gain: Tensor) -> Tensor:
    # V may be zero: then nothing can change the class
    return torch.where(score > 0, score / (2 * gain), torch.zeros_like(score))
