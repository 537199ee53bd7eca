"""Lipschitz recurrent neural network: a linear part whose spectrum is placed, beside a Lipschitz nonlinearity.

    h' = α A h + φ(W h + U x + b),      S_{β,γ}(M) = (1-β)(M + Mᵀ) + β(M - Mᵀ) - γI,      A = S(M_A),  W = S(M_W)
    euler     h⁺ = h + dt (α A h + φ(W h + u)),  u = U x + b;      midpoint, heun, rk4_38: Runge-Kutta with u held
    gated     h⁺ = h + dt (α A h + φ(W h + u)) ⊙ σ̂(W h + U_g x + b_g)
    imex      h⁺ = (I - dt αA)⁻¹ (h + dt φ)                                            cn, etd1: see ``linear_flow``

Source: Erichson, Azencot, Queiruga, Hodgkinson, Mahoney, Lipschitz Recurrent Neural Networks, ICLR 2021, arXiv:2006.12070.
Here: column convention, A = ``A(k)``; the released code multiplies rows, so its matrices are the transposes.
Differs from the released code: β and γ for A and W separately; the step is never rounded to float32; α acts in every
solver; implicit solvers and ``stable`` are ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Boolean, OneOf, Real
from .._errors import ArgumentError
from ..analysis.rates import slope_rate
from ..analysis.stability import StabilityCertificate, stability_certificate
from ..numerics.operators import widen
from ..numerics.tableau import rk_step, tableau
from ._cell_module import CellModule
from .cell import LIPSCHITZ_CONSTANTS, NONLINEARITIES, Cell, State, Step, linear_reset
from .layer import Recurrent

EXPLICIT = ("euler", "midpoint", "heun", "rk4_38")
IMPLICIT = ("imex", "cn", "etd1")


def split_matrix(M: Tensor, beta: float, gamma: float) -> Tensor:
    """S(M) = (1-β)(M + Mᵀ) + β(M - Mᵀ) - γI; there is no factor 1/2."""
    S = torch.add(M, M.T, alpha=1 - 2 * beta)  # the same, in one pass
    return torch.sub(S, torch.eye(M.shape[0], dtype=M.dtype, device=M.device), alpha=gamma) if gamma else S


def linear_flow(solver: str, M: Tensor) -> tuple[Tensor, Tensor]:
    """P - I and Q of  h⁺ = P h + Q dt φ  for the linear part M = dt αA; I is kept apart to save digits.

    imex: P = Q = (I-M)⁻¹.   cn: P = (I-M/2)⁻¹(I+M/2), Q = (I-M/2)⁻¹.   etd1: P = e^M, Q = φ₁(M) = M⁻¹(e^M - I).
    """
    H, kind, M = M.shape[-1], M.dtype, widen(M)
    eye = torch.eye(H, dtype=M.dtype, device=M.device).expand(M.shape)
    if solver == "etd1":
        top = torch.cat([M, eye], -1)
        augmented = torch.cat([top, torch.zeros_like(top)], -2)  # exp of [[M, I], [0, 0]] holds φ₁ without an inverse
        Q = torch.linalg.matrix_exp(augmented)[..., :H, H:]
    else:
        Q = torch.linalg.inv(eye - (M if solver == "imex" else M / 2))
    return (Q @ M).to(kind), Q.to(kind)


class LipschitzRNNMath(Cell):
    """The Lipschitz RNN step."""

    name = "lipschitz"
    RULES = {
        "dt": Real(0, closed="neither"),
        "beta_a": Real(0, 1),
        "beta_w": Real(0, 1),
        "gamma_a": Real(0),
        "gamma_w": Real(0),
        "alpha": Real(),
        "solver": OneOf(EXPLICIT + IMPLICIT),
        "nonlinearity": OneOf(tuple(NONLINEARITIES)),
        "gated": Boolean(),
        "learn_dt": Boolean(),
        "init_std": Real(0),
        "stable": Real(0, optional=True),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 0.03,
        beta_a: float = 0.75,
        beta_w: float = 0.75,
        gamma_a: float = 1e-3,
        gamma_w: float = 1e-3,
        alpha: float = 1.0,
        solver: str = "euler",
        nonlinearity: str = "tanh",
        gated: bool = False,
        learn_dt: bool = False,
        init_std: float = 0.1,
        stable: float | None = None,
    ) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)
        if gated and solver not in EXPLICIT:
            raise ArgumentError(
                f"{type(self).__name__.removesuffix('Math')}: gated=True needs an explicit solver, got {solver!r}"
            )
        self.beta_a, self.beta_w, self.gamma_a, self.gamma_w = beta_a, beta_w, gamma_a, gamma_w
        self.alpha, self.solver, self.nonlinearity = alpha, solver, nonlinearity
        self.gated, self.learn_dt, self.init_std, self.stable = gated, learn_dt, init_std, stable

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H, F_in = self.hidden_size, self.input_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (H, F_in)}
        if self.bias:
            shapes["bias"] = (H,)
        shapes |= {"m_a": (H, H), "m_w": (H, H)}
        if self.gated:
            shapes["weight_gate"] = (H, F_in)
            if self.bias:
                shapes["bias_gate"] = (H,)
        return {**shapes, "dt": (H,)} if self.learn_dt else shapes

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        p = parameters
        linear_reset(p["weight_ih"], p.get("bias"), generator)
        if self.gated:
            linear_reset(p["weight_gate"], p.get("bias_gate"), generator)
        for name in ("m_a", "m_w"):
            p[name].normal_(0, self.init_std / self.hidden_size, generator=generator)
        if self.learn_dt:
            p["dt"].fill_(self.dt)

    def matrices(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A (with α and the ``stable`` shift) and W, column convention."""
        A = split_matrix(parameters["m_a"], self.beta_a, self.gamma_a)
        A = A if self.alpha == 1 else self.alpha * A
        W = split_matrix(parameters["m_w"], self.beta_w, self.gamma_w)
        if self.stable is not None:
            excess = F.relu(slope_rate(widen(A), widen(W), LIPSCHITZ_CONSTANTS[self.nonlinearity]) + self.stable)
            A = A - excess.to(A.dtype) * torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
        return A, W

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Any]:
        A, W = self.matrices(parameters)
        weights: dict[str, Any] = {**parameters, "A": A, "W": W}
        if self.solver in EXPLICIT:
            weights["both"] = torch.cat([A, W])  # (2H, H): one product for both
        elif dt is not None:
            weights["flow"] = linear_flow(self.solver, self._times(dt, A))
        return weights

    def _times(self, dt: Step, A: Tensor) -> Tensor:
        if isinstance(dt, Tensor) and dt.ndim:
            return dt[..., None] * A  # diag(dt) A: one step per unit (H,), or per row (B, 1)
        return dt * A

    def drift(self, weights: dict[str, Any], x: Tensor) -> Any:
        """The right-hand side as a function of h, with the input held."""
        phi = NONLINEARITIES[self.nonlinearity]
        u = F.linear(x, weights["weight_ih"], weights.get("bias"))  # (B, H)
        v = F.linear(x, weights["weight_gate"], weights.get("bias_gate")) if self.gated else None

        def f(h: Tensor) -> Tensor:
            Ah, Wh = F.linear(h, weights["both"]).chunk(2, -1)  # (B, H) each
            slope = Ah + phi(Wh + u)
            return slope if v is None else slope * torch.sigmoid(Wh + v)

        return f

    def step(self, weights: dict[str, Any], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        (h,) = state
        if self.solver in EXPLICIT:
            return (rk_step(tableau(self.solver), self.drift(weights, x), h, dt),)
        flow = weights.get("flow") or linear_flow(self.solver, self._times(dt, weights["A"]))
        u = F.linear(x, weights["weight_ih"], weights.get("bias"))  # (B, H)
        push = dt * NONLINEARITIES[self.nonlinearity](F.linear(h, weights["W"]) + u)  # (B, H)
        P, Q = flow
        moved = torch.cat([P, Q], -1) @ torch.cat([h, push], -1)[..., None] if P.ndim == 3 else None
        return (h + (F.linear(h, P) + F.linear(push, Q) if moved is None else moved[..., 0]),)


def certificates(layer: Recurrent) -> dict[str, StabilityCertificate]:
    """See :meth:`LipschitzRNN.certificate`; for any :class:`Recurrent` around this cell or the noisy one."""
    found = {}
    for k, cell in enumerate(layer.cells):
        if not isinstance(cell, LipschitzRNNMath) or cell.gated:
            raise ArgumentError(
                f"{type(layer).__name__}.certificate: nothing is proved for this cell, or for gated=True"
            )
        for backward in range(layer.num_directions):
            parameters = layer.parameters_of(k, bool(backward))
            A, W = cell.matrices(parameters)
            dt = cell.dt
            if cell.learn_dt:
                d = parameters["dt"][:, None]
                A, W, dt = d * A, d * W, 1.0
            name = f"l{k}_reverse" if backward else f"l{k}"
            slope = LIPSCHITZ_CONSTANTS[cell.nonlinearity]
            found[name] = stability_certificate(A, W, slope, dt if cell.solver == "euler" else None)
    return found


class LipschitzRNN(Recurrent):
    """Lipschitz RNN with the contract of ``torch.nn.LSTM``; the state is one tensor ``h_n``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: ``bias``, ``batch_first``, ``dropout``, ``bidirectional``, ``backend``, ``device``, ``dtype`` as in
            :class:`Recurrent`, and

            * ``dt=0.03`` time step; ``learn_dt=False`` makes it a parameter per unit;
            * ``beta_a=0.75, beta_w=0.75`` in [0, 1]: 1 is skew, 1/2 unconstrained, 0 symmetric;
              ``gamma_a=1e-3, gamma_w=1e-3`` shift the spectrum to the left;
            * ``alpha=1.0`` weight of the linear part; ``gated=False``;
            * ``solver="euler"``: also ``midpoint heun rk4_38 imex cn etd1``; ``nonlinearity="tanh"``;
            * ``init_std=0.1``: the matrices start as N(0, (init_std / H)²);
            * ``stable=None``: a rate ρ ≥ 0 shifts A so that the slope bound on the rate is at most -ρ. The layer is
              *parameterised with stability in mind*; only this option makes it stable by construction.

    Shapes:
        As :class:`Recurrent`.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: arXiv:2006.12070.

    Example:
        >>> import torch
        >>> layer = LipschitzRNN(3, 8, solver="midpoint", batch_first=True)
        >>> output, h_n = layer(torch.randn(2, 5, 3))
        >>> output.shape, layer.A().shape
        (torch.Size([2, 5, 8]), torch.Size([8, 8]))
    """

    cell_class = LipschitzRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)

    def A(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The linear part of layer ``k``, column convention, α and the stability shift included."""
        return self.cells[k].matrices(self.parameters_of(k, reverse))[0]  # pyright: ignore[reportAttributeAccessIssue]

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The matrix inside the nonlinearity of layer ``k``, column convention."""
        return self.cells[k].matrices(self.parameters_of(k, reverse))[1]  # pyright: ignore[reportAttributeAccessIssue]

    def certificate(self) -> dict[str, StabilityCertificate]:
        """What is proved about the stability of each layer and direction: ``{"l0": ..., "l0_reverse": ...}``.

        With one learned step per unit, time is counted in steps (A and W carry the steps, ``dt`` is 1). The certified
        step is explicit Euler's; for other solvers only the continuous statement is made.

        Raises:
            ArgumentError: The layer is gated: no certificate is known for the gated drift.
        """
        return certificates(self)

    @classmethod
    def from_released(cls, state_dict: dict[str, Tensor], **options: Any) -> LipschitzRNN:
        """A one-layer model with the weights of a released cell (``E``, ``B``, ``C``, with or without ``func.``).

        The released matrices act on rows, so they are transposed; ``options`` carries dt, β, γ, which are not stored.
        """
        found = {key.removeprefix("func."): value for key, value in state_dict.items()}
        weight = found["E.weight"]
        options.setdefault("gated", "E_gate.weight" in found)
        options.setdefault("learn_dt", "d" in found)
        layer = cls(weight.shape[1], weight.shape[0], dtype=weight.dtype, **options)
        names = {n: found[t].T if t in ("B", "C") else found[t] for n, t in _RELEASED.items() if t in found}
        layer.load_state_dict(names)
        return layer

    def to_released(self) -> dict[str, Tensor]:
        """The weights of a one-layer model under the released names, matrices transposed."""
        self._only_one_layer("to_released")
        own = self.state_dict()
        return {t: own[n].T if t in ("B", "C") else own[n] for n, t in _RELEASED.items() if n in own}


_RELEASED = {
    "weight_ih_l0": "E.weight",
    "bias_l0": "E.bias",
    "m_a_l0": "B",
    "m_w_l0": "C",
    "weight_gate_l0": "E_gate.weight",
    "bias_gate_l0": "E_gate.bias",
    "dt_l0": "d",
}


class LipschitzRNNCell(CellModule):
    """One Lipschitz RNN step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`LipschitzRNN`, ``device``, ``dtype``.

    Source: arXiv:2006.12070.

    Example:
        >>> import torch
        >>> LipschitzRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = LipschitzRNNMath
