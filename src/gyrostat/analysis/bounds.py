r"""What LEM and the vector-field RNN guarantee, as functions of their weights. Every number here is a bound.

LEM, η = max row sum of |W_1|, |W_2|, |W_z|, |W_y|, C = (3/2) η (1 + η Δt), states in [−1, 1], Δt ≤ 1:

    G1  |y_n|, |z_n| ≤ 1 − (1 − Δt)^n              from zero
    G2  ‖∂X_n/∂X_{n−1}‖_∞ ≤ 1 + Δt C,    ‖∂X_n/∂X_{n−1} − I‖_∞ ≤ Δt (1 + C)
    G3  (1 − Δt(1 + C))^n ≤ ‖gᵀP‖₁ / ‖g‖₁ ≤ (1 + Δt C)^n                       P a product of n Jacobians
    G4  |∂ℓ_N/∂θ| ≤ g max(1, |u|_∞) max(1, ηΔt) Δt Σ_{j<N} (1 + Δt C)^j

Vector field, D + D* = −diag(div V):  e^{−max div/2} ≤ singular values of exp(D) ≤ e^{−min div/2}  in the M-norm.

Source: Long Expressive Memory, arXiv:2110.04744; differential geometry of orthogonal RNNs, arXiv:2102.09589.
Differs from the released code: it has none of these; G1 to G4 are this project's derivation and sharper than the
paper's form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from .._checks import Integer, Real, check
from .._errors import ArgumentError
from .._results import Result
from ..numerics.operators import divergence, flow, flow_gain
from ._arguments import as_float64, positive_weights, square


@dataclass(frozen=True)
class LEMBounds(Result):
    """Bounds G1 to G4 for one LEM layer.

    Attributes:
        eta: Largest row sum of the recurrent matrices.
        C: Growth constant of G2.
        dt: Step.
        jacobian: G2, bound on the one-step Jacobian's ∞-norm.
        distance_from_identity: G2, bound on its distance from the identity.
    """

    eta: float
    C: float
    dt: float
    jacobian: float
    distance_from_identity: float

    def state(self, n_steps: int) -> float:
        """G1: bound on every state entry after ``n_steps`` steps from zero."""
        check({"n_steps": Integer(low=0)}, locals(), "LEMBounds.state")
        return 1.0 - (1.0 - self.dt) ** n_steps

    def gradient(self, n_steps: int) -> tuple[float, float]:
        """G3: lower and upper bound on ``‖gᵀP‖₁/‖g‖₁`` over ``n_steps``; the lower one is 0 when it says nothing."""
        check({"n_steps": Integer(low=0)}, locals(), "LEMBounds.gradient")
        low = max(0.0, 1.0 - self.distance_from_identity)
        return low**n_steps, math.exp(min(700.0, n_steps * math.log(self.jacobian)))

    def parameter_gradient(self, n_steps: int, *, input_bound: float, loss_gradient: float = 1.0) -> float:
        """G4: bound on ``|∂ℓ_N/∂θ|`` for any one parameter, inputs at most ``input_bound`` in absolute value."""
        rules = {"n_steps": Integer(low=0), "input_bound": Real(low=0), "loss_gradient": Real(low=0)}
        check(rules, locals(), "LEMBounds.parameter_gradient")
        growth = self.dt * self.C
        total = math.expm1(min(700.0, n_steps * math.log1p(growth))) / growth if growth > 0 else float(n_steps)
        return loss_gradient * max(1.0, input_bound) * max(1.0, self.eta * self.dt) * self.dt * total


def lem_bounds(weight_hh: Any, weight_zy: Any, dt: float = 1.0) -> LEMBounds:
    """Guarantees of one LEM layer from its recurrent weights.

    Args:
        weight_hh: ``(3H, H)``: the three blocks that act on y, in any order.
        weight_zy: ``(H, H)``: the block that acts on z.
        dt: Step, in (0, 1].

    Raises:
        ArgumentError: Shapes that do not fit, entries that are not finite, ``dt`` outside (0, 1].

    Source: arXiv:2110.04744.

    Example:
        >>> import torch
        >>> bounds = lem_bounds(torch.full((6, 2), 0.1), torch.full((2, 2), 0.1), dt=0.5)
        >>> round(bounds.eta, 3), round(bounds.C, 3), bounds.state(1)
        (0.2, 0.33, 0.5)
    """
    check({"dt": Real(low=0, high=1, closed="right")}, locals(), "lem_bounds")
    zy = square(weight_zy, "weight_zy", "lem_bounds")
    hh = as_float64(weight_hh, "weight_hh", "lem_bounds")
    H = zy.shape[0]
    if hh.shape != (3 * H, H):
        raise ArgumentError(f"lem_bounds: weight_hh must have shape ({3 * H}, {H}), got {tuple(hh.shape)}")
    eta = float(torch.cat([hh, zy]).abs().sum(1).max())
    C = 1.5 * eta * (1 + eta * dt)
    return LEMBounds(eta, C, float(dt), 1 + dt * C, dt * (1 + C))


@dataclass(frozen=True)
class GainBounds(Result):
    """Bounds on the singular values of the flow in the M-norm, and the divergence they come from."""

    low: float
    high: float
    log_determinant: float
    divergence: torch.Tensor


def gain_bounds(D: Any, mass: Any = None, *, method: str = "expm") -> GainBounds:
    """Gain of the flow of a directional derivative, ``exp(D)``, bounded by the divergence of its field.

    For any D the M-symmetric part decides: ``e^{λ_min} ≤ singular values ≤ e^{λ_max}``; for a skew-split operator it is
    ``−½ diag(div V)``, and the bounds become ``e^{−max div/2}`` and ``e^{−min div/2}``.

    Args:
        D: ``(n, n)`` operator with ``D 1 = 0``.
        mass: ``(n,)`` positive weights μ of the inner product; ones when left out.
        method: ``"expm"``; ``"cayley"``: with d = max div and min div, ``(1 − d/4)/(1 + d/4)``, 0 or infinite beyond 4 and -4;
            ``"taylor:k"``: those of ``"expm"`` give or take the rest of the series.

    Returns:
        Bounds, ``log |det|`` of the flow (``tr D`` for the exponential), and ``div V = −M^{-1} Dᵀ M 1``.

    Raises:
        ArgumentError: Not square, not finite, or weights that are not positive.

    Source: arXiv:2102.09589.

    Example:
        >>> gain_bounds([[0.0, 1.0], [-1.0, 0.0]]).high
        1.0
    """
    operator = square(D, "D", "gain_bounds")
    n = operator.shape[0]
    mu = torch.ones(n, dtype=torch.float64) if mass is None else positive_weights(mass, n, "mass", "gain_bounds")
    low, high = flow_gain(operator, mu, method)
    log_det = operator.trace() if method == "expm" else torch.linalg.slogdet(flow(operator, method)).logabsdet
    return GainBounds(float(low), float(high), float(log_det), divergence(operator, mu))
