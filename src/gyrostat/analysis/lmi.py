r"""The Lur'e linear matrix inequality: contraction in a norm of its own, ``‖e‖²_P = eᵀPe``.

    [[AᵀP + PA, P + WᵀΛ], [P + ΛW, −(2/L)Λ]] ≺ 0,   P ≻ 0,  Λ > 0 diagonal
        ⇒  h' = A h + σ(W h + u), slopes of σ in [0, L], contracts:  ‖e(t)‖_P ≤ e^{−rate t} ‖e(0)‖_P

The rate is exact for the given pair: ½ λ_min(P^{-½} S P^{-½}) with the Schur complement
``S = −(AᵀP + PA) − (L/2)(P + WᵀΛ) Λ^{-1} (P + ΛW)``.

Source: classical (Lur'e, Yakubovich); used here for the stability question of arXiv:2006.12070.
Differs from the released code: the released code has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer, Real, check
from .._errors import ArgumentError
from .._results import Result
from ._arguments import bottom, matching, norm2, positive_weights, square, sym, top

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class LMICertificate(Result):
    """Verdict on one pair (P, Λ). ``certified=False`` says that this pair proves nothing, not that the system is unstable.

    Attributes:
        certified: The inequality holds by more than rounding.
        rate: Certified exponential rate in the P-norm; not positive when not certified.
        overshoot: ``sqrt(cond P)``, the factor that the Euclidean norm pays.
        margin: ``−λ_max`` of the block matrix, for P and Λ as given.
        residual: ``max(0, λ_max)`` of the block matrix: by how much it fails.
        P: ``(N, N)``.
        Lambda: ``(N,)``.
        steps: Iterations of the search, 0 for a plain check.
    """

    certified: bool
    rate: float
    overshoot: float
    margin: float
    residual: float
    steps: int
    P: Tensor = field(repr=False)
    Lambda: Tensor = field(repr=False)


def _block(A: Tensor, W: Tensor, P: Tensor, lam: Tensor, L: float) -> Tensor:
    PA, off = P @ A, P + W.T * lam
    return torch.cat([torch.cat([PA + PA.T, off], 1), torch.cat([off.T, torch.diag(-2 / L * lam)], 1)])


def verify_lmi(A: Any, W: Any, P: Any, Lambda: Any, lipschitz: float = 1.0) -> LMICertificate:
    """Check one pair (P, Λ) of the Lur'e inequality by eigenvalues.

    Args:
        A: ``(N, N)``.
        W: ``(N, N)``.
        P: ``(N, N)`` symmetric.
        Lambda: ``(N,)`` positive, or a positive diagonal matrix.
        lipschitz: L, the largest slope of the monotone nonlinearity.

    Raises:
        ArgumentError: Shapes, entries, P not symmetric, Lambda not positive.

    Example:
        >>> import torch
        >>> I = torch.eye(2)
        >>> result = verify_lmi(-2 * I, 0.5 * I, I, torch.ones(2))
        >>> result.certified, round(result.rate, 3)
        (True, 1.438)
    """
    where = "verify_lmi"
    check({"lipschitz": Real(low=0, closed="neither")}, locals(), where)
    A, W = matching(A, W, where)
    n = A.shape[0]
    P = square(P, "P", where)
    if P.shape != A.shape or float((P - P.T).abs().max()) > 1e-10 * float(P.abs().max().clamp_min(1e-300)):
        raise ArgumentError(f"{where}: P must be a symmetric ({n}, {n}) matrix, got shape {tuple(P.shape)}")
    return _verdict(A, W, sym(P), positive_weights(Lambda, n, "Lambda", where), float(lipschitz), 0)


def _verdict(A: Tensor, W: Tensor, P: Tensor, lam: Tensor, L: float, iterations: int) -> LMICertificate:
    block = _block(A, W, P, lam, L)
    worst = top(block)
    values = torch.linalg.eigvalsh(P)
    n, low, high = P.shape[0], float(values[0]), float(values[-1])
    rate, overshoot = -float("inf"), float("inf")
    if low > n * _EPS * high:
        off = P + W.T * lam
        S = -(P @ A + A.T @ P) - 0.5 * L * (off / lam) @ off.T
        C = torch.linalg.cholesky(P)
        half = torch.linalg.solve_triangular(C, S, upper=False)
        rate = 0.5 * bottom(torch.linalg.solve_triangular(C, half.T, upper=False))
        overshoot = (high / low) ** 0.5
    certified = low > n * _EPS * high and worst < -4 * n * _EPS * float(block.abs().max()) and rate > 0
    return LMICertificate(certified, rate, overshoot, -worst, max(0.0, worst), iterations, P, lam)


def search_lmi(A: Any, W: Any, lipschitz: float = 1.0, *, max_steps: int = 300) -> LMICertificate:
    """Look for (P, Λ); what is returned has been checked by :func:`verify_lmi`, however it was found.

    Minimises the largest eigenvalue of the block matrix, smoothed as ``t log tr exp(·/t)`` with falling t, over
    ``P = CCᵀ + δI`` of unit trace and ``Λ = exp(λ)`` with L-BFGS. Sound, and not complete: a failure returns the best
    pair with its residual and ``certified=False``, and proves nothing. N up to about 100.

    Args:
        A: ``(N, N)``.
        W: ``(N, N)``.
        lipschitz: L.
        max_steps: L-BFGS steps in all.

    Raises:
        ArgumentError: Bad matrices, ``lipschitz <= 0``.

    Example:
        >>> search_lmi([[-1.0, 8.0], [0.0, -1.0]], [[0.1, 0.0], [0.0, 0.1]]).certified
        True
    """
    where = "search_lmi"
    check({"lipschitz": Real(low=0, closed="neither"), "max_steps": Integer(low=1)}, locals(), where)
    A, W = matching(A, W, where)
    n, L = A.shape[0], float(lipschitz)
    from scipy.linalg import solve_continuous_lyapunov

    # the mean slope L/2 gives the natural first metric; shifted until it is stable
    M = A + 0.5 * L * W
    shift = max(0.0, float(torch.linalg.eigvals(M).real.max()) + 1e-3)
    M = M - shift * torch.eye(n, dtype=M.dtype)
    P0 = sym(torch.as_tensor(solve_continuous_lyapunov(M.T.numpy(), -torch.eye(n, dtype=M.dtype).numpy())))
    P0 = P0 / P0.trace() * n
    C = torch.linalg.cholesky(P0 + 1e-9 * torch.eye(n, dtype=M.dtype)).contiguous().requires_grad_()
    log_lam = P0.diagonal().log().clone().requires_grad_()

    def pair() -> tuple[Tensor, Tensor]:
        P = C @ C.T + 1e-8 * torch.eye(n, dtype=M.dtype)
        scale = n / P.trace()
        return P * scale, log_lam.clamp(-40, 40).exp() * scale

    best, taken = None, 0
    size = norm2(A) + L * norm2(W) + 1.0
    for temperature in (0.3, 0.1, 0.03, 0.01, 0.003):
        budget = max(1, max_steps // 5)
        optimiser = torch.optim.LBFGS([C, log_lam], max_iter=budget, line_search_fn="strong_wolfe")

        def closure(t: float = temperature * size, optimiser: torch.optim.LBFGS = optimiser) -> float:
            optimiser.zero_grad()
            P, lam = pair()
            loss = t * torch.logsumexp(torch.linalg.eigvalsh(_block(A, W, P, lam, L)) / t, 0)
            loss.backward()
            return loss.item()

        try:
            optimiser.step(closure)
        except RuntimeError:  # the line search left for infinity; what was found before it stands
            break
        taken += budget
        with torch.no_grad():
            P, lam = pair()
            if not bool(torch.isfinite(P).all() & torch.isfinite(lam).all() & (lam > 0).all()):
                break
            found = _verdict(A, W, sym(P), lam, L, taken)
        if best is None or (found.certified, found.rate) > (best.certified, best.rate):
            best = found
    return best if best is not None else _verdict(A, W, P0, P0.diagonal(), L, taken)
