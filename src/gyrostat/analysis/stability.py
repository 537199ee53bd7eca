r"""When do all trajectories of ``h' = A h + σ(W h + u(t))`` forget where they started, how fast, and up to which step?

Two trajectories differ by e with ``e' = (A + D W) e``, D diagonal, ``0 ≤ D_ii ≤ L`` (σ monotone) or ``|D_ii| ≤ L``:

    mu_small_gain = λ_max(A^sym) + L σ_max(W)                        any L-Lipschitz σ
    mu_slope      = λ_max(A^sym + (L/2) W^sym) + (L/2) σ_max(W)      monotone σ; never larger
    mu < 0  ⇒  ‖e(t)‖ ≤ e^{mu t} ‖e(0)‖;    Euler: q² = 1 + 2 dt mu + dt² ℓ²,  ℓ = ‖A‖ + L σ_max(W),  dt_max = −2 mu / ℓ²
    Lur'e:  ΛW = (ΛW)ᵀ ≺ 0, Q = ΛWA + AᵀΛW ≻ 0, Λ > 0 diagonal, σ monotone  ⇒  rate λ_min(Q) / (2 λ_max(−ΛW))

Source: Lipschitz Recurrent Neural Networks, arXiv:2006.12070 (Theorem 1); Noisy Recurrent Neural Networks,
arXiv:2102.04877 (sample Lyapunov exponents). mu_slope, the step bound and the Lur'e form are this project's derivation.
Differs from the released code: the released code has no certificate. Theorem 1(b) as printed is reported as
``paper_thm1b_hypotheses`` and never certifies: it has counterexamples for W ≠ Wᵀ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import Boolean, OneOf, Real, check
from .._results import Result
from ._arguments import bottom, in_metric, matching, norm2, steps, sym, top

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class StabilityCertificate(Result):
    """What is proved about ``h' = A h + σ(W h + u)``; every number is a bound, not a measurement.

    Attributes:
        certified: Every pair of trajectories of the continuous system converges exponentially.
        reason: The verdict in words.
        method: ``"small_gain"``, ``"slope"``, ``"lure_symmetric"`` or None.
        rate: Certified exponential rate (positive), or None: ``‖e(t)‖ ≤ overshoot · e^{-rate t} ‖e(0)‖``.
        overshoot: The factor above, 1 except for the Lur'e case.
        mu_small_gain: Growth bound of an L-Lipschitz nonlinearity; negative certifies.
        mu_slope: Growth bound of a monotone nonlinearity with slopes in [0, L]; negative certifies.
        lure_symmetric_rate: Rate of the Lur'e case ``W = Wᵀ ≺ 0``, or None where it does not hold.
        dt_max: Explicit Euler contracts for every step below this; 0 when not certified.
        dt: The step asked about, or None.
        dt_certified: ``dt < dt_max``, or None without a step.
        ell: ``‖A‖ + L σ_max(W)``, Lipschitz constant of the drift.
        lam_max_A_sym: Largest eigenvalue of A's symmetric part.
        lam_min_A_sym: Smallest eigenvalue of A's symmetric part.
        sigma_max_W: Largest singular value of W.
        max_re_A: Largest real part of A's eigenvalues (information only).
        lipschitz: L.
        monotone: Whether slopes lie in [0, L].
        paper_thm1a: The hypotheses of Theorem 1(a) as printed.
        paper_thm1b_hypotheses: The hypotheses of Theorem 1(b) as recalled; information only, never a certificate.
    """

    certified: bool
    reason: str
    method: str | None
    rate: float | None
    overshoot: float
    mu_small_gain: float
    mu_slope: float
    lure_symmetric_rate: float | None
    dt_max: float
    dt: float | None
    dt_certified: bool | None
    ell: float
    lam_max_A_sym: float
    lam_min_A_sym: float
    sigma_max_W: float
    max_re_A: float
    lipschitz: float
    monotone: bool
    paper_thm1a: bool
    paper_thm1b_hypotheses: bool

    @property
    def mu(self) -> float:
        """The smaller growth bound that applies to this nonlinearity."""
        return min(self.mu_small_gain, self.mu_slope) if self.monotone else self.mu_small_gain

    def contraction_factor(self, dt: Any = None) -> float:
        """Bound q on the growth of distances in one explicit Euler step, ``q² = 1 + 2 dt mu + dt² ℓ²``; any sign of mu.

        Args:
            dt: Step, the certificate's own when left out; a sequence gives the product over its steps.
        """
        d = steps(self.dt if dt is None else dt, "StabilityCertificate.contraction_factor")
        return float((1 + 2 * d * self.mu + d**2 * self.ell**2).clamp_min(0).sqrt().prod())

    def gradient_bound(self, n_steps: int, dt: Any = None) -> float:
        """Bound on ``‖∂h_T/∂h_0‖`` over ``n_steps`` explicit Euler steps: ``q^T``."""
        return self.contraction_factor(dt) ** n_steps


def _lure(A: Tensor, W: Tensor) -> tuple[float, float, float] | None:
    """``(rate, overshoot, λ_min(Q)/λ_max(P))`` of the case ``W = Wᵀ ≺ 0, WA + AᵀW ≻ 0``, else None."""
    scale = max(norm2(W), 1e-300)
    if float((W - W.T).abs().max()) > 10 * _EPS * scale:
        return None
    W = sym(W)
    weakest, strongest = -top(W), -bottom(W)
    Q = W @ A + A.T @ W
    q = bottom(Q)
    n = W.shape[0]
    if weakest <= n * _EPS * scale or q <= n * _EPS * scale * norm2(A):
        return None
    return q / (2 * strongest), math.sqrt(strongest / weakest), q / strongest


def stability_certificate(
    A: Any,
    W: Any,
    lipschitz: float = 1.0,
    dt: float | None = None,
    metric: Any = None,
    *,
    monotone: bool = True,
) -> StabilityCertificate:
    """Certify that ``h' = A h + σ(W h + u)`` contracts, for every input, with a rate and a largest Euler step.

    Args:
        A: ``(N, N)`` real matrix, column convention (``A @ h``); tensor, array or lists.
        W: ``(N, N)`` real matrix, the same convention.
        lipschitz: L, the largest slope of σ: 1 for tanh, ReLU and softplus, 1/4 for the logistic function.
        dt: Step of explicit Euler to judge; ``dt_certified`` answers.
        metric: The norm in which all numbers are meant, Euclidean when left out: positive weights ``(N,)`` p with
            ``‖e‖² = Σ p_i e_i²``, or a symmetric positive definite ``(N, N)`` matrix P with ``‖e‖² = eᵀPe``, such as
            :func:`search_lmi` finds. There ``sigma_max_W`` is a bound on the gain of W behind slopes of at most one.
        monotone: σ has slopes in ``[0, L]``; with False only ``|slope| ≤ L`` is used.

    Returns:
        A :class:`StabilityCertificate`. ``certified=False`` means "not proved", not "unstable".

    Raises:
        ArgumentError: Not square, shapes that differ, not finite, ``lipschitz <= 0`` or ``dt <= 0``.
        ArgumentTypeError: Complex entries, or something that is no matrix.

    Source: arXiv:2006.12070; see the head of this file for what is this project's own.

    Example:
        >>> certificate = stability_certificate([[-2.0, 1.0], [-1.0, -2.0]], [[0.5, 0.0], [0.0, 0.5]], dt=0.1)
        >>> certificate.certified, round(certificate.rate, 3), certificate.dt_certified
        (True, 1.5, True)
    """
    where = "stability_certificate"
    positive = Real(low=0, closed="neither")
    check({"lipschitz": positive, "monotone": Boolean()}, locals(), where)
    Real(low=0, closed="neither", optional=True).check("dt", dt, where)
    A, W = matching(A, W, where)
    n, L = A.shape[0], float(lipschitz)
    sigma, mixed = norm2(W), False
    if metric is not None:
        A, W, sigma, mixed = in_metric(A, W, metric, where)
    lam_max, lam_min = top(A), bottom(A)
    small_gain = lam_max + L * sigma
    slope = top(A + 0.5 * L * W) + 0.5 * L * sigma
    ell = norm2(A) + L * sigma
    # in mixed coordinates the nonlinearity no longer acts unit by unit, and the case says nothing about their norm
    lure = _lure(A, W) if monotone and not mixed else None

    # strictly below zero by more than the rounding of the eigenvalues
    guard = n * _EPS * max(ell, 1e-300)
    found: list[tuple[float, str, float, float]] = []  # rate, method, overshoot, dt_max
    if monotone and slope < -guard:
        found.append((-slope, "slope", 1.0, -2 * slope / ell**2))
    if small_gain < -guard:
        found.append((-small_gain, "small_gain", 1.0, -2 * small_gain / ell**2))
    if lure is not None:
        found.append((lure[0], "lure_symmetric", lure[1], lure[2] / ell**2))
    best = max(found, key=lambda case: case[0], default=None)
    if best is not None and best[1] == "slope" and small_gain < -guard and small_gain <= slope + guard:
        best = next(case for case in found if case[1] == "small_gain")
    dt_max = max((case[3] for case in found), default=0.0)
    step = None if dt is None else float(dt)
    dt_certified = None if step is None else step < dt_max
    complex_eigenvalues = torch.linalg.eigvals(A)
    printed_a = lam_max < 0 and -lam_max > L * sigma
    printed_b = (
        lam_max < 0
        and top(W) < 0
        and bottom(A.T @ W + W.T @ A) > 0
        and float(torch.linalg.svdvals(W)[-1]) > n * _EPS * sigma
        and not mixed
    )
    return StabilityCertificate(
        certified=best is not None,
        reason=_words(best, small_gain, slope if monotone else None, step, dt_max, dt_certified, printed_b),
        method=best[1] if best else None,
        rate=best[0] if best else None,
        overshoot=best[2] if best else 1.0,
        mu_small_gain=small_gain,
        mu_slope=slope,
        lure_symmetric_rate=lure[0] if lure else None,
        dt_max=dt_max,
        dt=step,
        dt_certified=dt_certified,
        ell=ell,
        lam_max_A_sym=lam_max,
        lam_min_A_sym=lam_min,
        sigma_max_W=sigma,
        max_re_A=float(complex_eigenvalues.real.max()),
        lipschitz=L,
        monotone=monotone,
        paper_thm1a=printed_a,
        paper_thm1b_hypotheses=printed_b,
    )


def _words(
    best: tuple[float, str, float, float] | None,
    small_gain: float,
    slope: float | None,
    dt: float | None,
    dt_max: float,
    dt_certified: bool | None,
    printed_b: bool,
) -> str:
    if best is None:
        bounds = f"mu_small_gain = {small_gain:+.4g}" + ("" if slope is None else f", mu_slope = {slope:+.4g}")
        text = f"not certified: the growth bounds are not negative ({bounds}); this does not prove instability"
        if printed_b:
            text += "; the hypotheses of the printed Theorem 1(b) hold but do not suffice unless W is symmetric"
        return text
    name = {"small_gain": "small gain", "slope": "slope restriction", "lure_symmetric": "Lur'e function -eᵀWe"}[best[1]]
    text = f"certified by {name}: distances shrink at least like exp(-{best[0]:.4g} t)"
    text += f" times {best[2]:.3g}" if best[2] > 1 else ""
    if dt is None:
        return text + f"; explicit Euler contracts for dt < {dt_max:.4g}"
    if dt_certified:
        return text + f"; dt = {dt:.4g} is below the bound {dt_max:.4g} for explicit Euler"
    return (
        text + f"; but dt = {dt:.4g} is not below {dt_max:.4g}, and nothing is proved for explicit Euler at that step"
    )


@dataclass(frozen=True)
class StochasticStabilityCertificate(Result):
    """Bounds on the top sample Lyapunov exponent of ``dh = f dt + Σ(h) dB``: almost surely ``lower ≤ Λ ≤ upper``.

    ``certified`` is ``upper < 0``. ``upper_small_gain`` is the bound of the theorem, ``upper`` uses the slopes as well.
    """

    certified: bool
    reason: str
    lower: float
    upper: float
    upper_small_gain: float
    s1: float
    s2: float
    noise: str
    sigma: float


def stochastic_stability_certificate(
    A: Any, W: Any, *, noise: str = "scalar", sigma: float, lipschitz: float = 1.0, monotone: bool = True
) -> StochasticStabilityCertificate:
    """Bounds on the almost-sure exponent of two solutions driven by the same noise; additive noise cancels out of it.

    With ``‖eᵀΔΣ‖ ≥ s1‖e‖²`` and ``‖ΔΣ‖_F ≤ s2‖e‖``: ``λ_min(A^sym) − Lσ_max(W) + s1²/2 − s2² ≤ Λ ≤ mu − s1² + s2²/2``.

    Args:
        A: ``(N, N)`` real matrix.
        W: ``(N, N)`` real matrix.
        noise: ``"scalar"``: ``sigma h dB`` with one Brownian motion (s1 = s2 = sigma); ``"diagonal"``:
            ``sigma diag(h) dB``, independent per unit (only s1² = sigma²/N is guaranteed); ``"drift"``:
            ``sigma diag(f(h)) dB``, the multiplicative noise of the Noisy RNN (s1 = 0, s2 = sigma ℓ).
        sigma: Noise level, at least 0.
        lipschitz: L.
        monotone: Slopes in ``[0, L]``.

    Raises:
        ArgumentError: Bad matrices, ``sigma < 0``, ``lipschitz <= 0``, an unknown noise.

    Source: arXiv:2102.04877 (upper bound; the lower bound here keeps the term ``−L σ_max(W)``).

    Example:
        >>> import torch
        >>> stochastic_stability_certificate(torch.eye(2), torch.zeros(2, 2), sigma=2.0).upper
        -1.0
    """
    where = "stochastic_stability_certificate"
    rules = {
        "noise": OneOf(("scalar", "diagonal", "drift")),
        "sigma": Real(low=0, high=math.inf, closed="left"),
        "lipschitz": Real(low=0, closed="neither"),
        "monotone": Boolean(),
    }
    check(rules, locals(), where)
    base = stability_certificate(A, W, lipschitz, monotone=monotone)
    n = matching(A, W, where)[0].shape[0]
    s1, s2 = {
        "scalar": (sigma, sigma),
        "diagonal": (sigma / math.sqrt(n), sigma),
        "drift": (0.0, sigma * base.ell),
    }[noise]
    change = -(s1**2) + 0.5 * s2**2
    upper = base.mu + change
    lower = base.lam_min_A_sym - base.lipschitz * base.sigma_max_W + 0.5 * s1**2 - s2**2
    certified = upper < -n * _EPS * (base.ell + s2**2)
    effect = "lowers" if change < 0 else "raises" if change > 0 else "does not move"
    reason = (
        f"{'certified' if certified else 'not certified'}: the top exponent is bounded by {upper:+.4g} from above and "
        f"{lower:+.4g} from below, almost surely; this noise {effect} the upper bound"
    )
    return StochasticStabilityCertificate(
        certified, reason, lower, upper, base.mu_small_gain + change, float(s1), float(s2), noise, float(sigma)
    )
