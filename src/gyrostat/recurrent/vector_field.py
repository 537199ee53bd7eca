"""Vector-field RNN: the recurrent matrix is the flow of a learned vector field, orthogonal where its divergence is zero.

    h⁺ = φ(E h + U x),     E = exp(D),     D = ½ M⁻¹ (S - diag(S 1)),     div = M⁻¹ S 1,     M = diag(n softmax θ)
    e^{-½ max div} ≤ singular values of E in the M-norm ≤ e^{-½ min div}

Source: vector-field RNN, after Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589.
Differs from the released code: none was released; recurrence, latent geometry (complete graph) and start are derived here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Boolean, Integer, OneOf
from .._errors import ArgumentError
from ..numerics.operators import flow, flow_action, flux_to_operator, hodge, skew_matrix, upper_triangle
from ._cell_module import CellModule
from .cell import State, Step
from .layer import Recurrent
from .orthogonal import FlowCell


def _complement(mu: Tensor) -> Tensor:
    # Householder: smooth in mu, since the first entry of the unit vector is positive
    w = mu.sqrt() / mu.sum().sqrt()
    one = torch.eye(len(mu), dtype=mu.dtype, device=mu.device)
    v = w + one[0]
    return (one - 2 * torch.outer(v, v) / v.dot(v))[:, 1:]


class VectorFieldRNNMath(FlowCell):
    """The vector-field step."""

    name = "vector_field"
    RULES = {
        "parameterization": OneOf(("flux", "pairs", "hodge")),
        "divergence": OneOf(("free", "zero", "penalty", "none")),
        "learn_mass": Boolean(),
        "flow": OneOf(("expm", "cayley", "expmv")),
        "n_pairs": Integer(1, optional=True),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 1.0,
        nonlinearity: str = "modrelu",
        parameterization: str = "flux",
        divergence: str = "free",
        learn_mass: bool = False,
        flow: str = "expm",
        n_pairs: int | None = None,
        init: str = "henaff",
    ) -> None:
        self.check(locals())
        if divergence == "none" and parameterization != "flux":
            raise ArgumentError("VectorFieldRNN: parameterization must be 'flux' when divergence='none'")
        super().__init__(input_size, hidden_size, bias=bias, dt=dt, nonlinearity=nonlinearity, init=init)
        self.parameterization, self.divergence, self.learn_mass = parameterization, divergence, learn_mass
        self.flow = flow
        self.n_pairs = hidden_size // 2 + 1 if n_pairs is None else n_pairs

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        shapes = super().parameter_shapes()
        if self.parameterization == "flux":
            shapes["flux"] = (H * (H - 1) // 2,)
        elif self.parameterization == "pairs":
            shapes["pairs_a"] = shapes["pairs_b"] = (self.n_pairs, H)
        else:
            shapes["skew"] = ((H - 1) * (H - 2) // 2,)
            if self.divergence != "zero":
                shapes["potential"] = (H,)
        if self.learn_mass:
            shapes["theta_mu"] = (H,)
        return shapes

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        p, H = parameters, self.hidden_size
        super().reset(p, generator)
        for key in ("potential", "theta_mu"):
            if key in p:
                p[key].zero_()
        if self.parameterization == "pairs":
            for key in ("pairs_a", "pairs_b"):
                p[key].normal_(0, H**-0.5, generator=generator)
        elif self.parameterization == "hodge":
            p["skew"].copy_(upper_triangle(self.draw_skew(H - 1, p["skew"], generator)))
        elif self.divergence == "none":
            p["flux"].copy_(2 * upper_triangle(self.draw_skew(H, p["flux"], generator)))
        else:
            Q = _complement(p["flux"].new_ones(H))
            B = self.draw_skew(H - 1, p["flux"], generator)
            p["flux"].copy_(2 * upper_triangle(Q @ B @ Q.T))

    def mass(self, parameters: dict[str, Tensor]) -> Tensor:
        """μ (H), positive, of mean 1."""
        if self.learn_mass:
            return self.hidden_size * torch.softmax(parameters["theta_mu"], 0)
        return torch.ones_like(parameters["weight_ih"][:, 0])

    def skew_flux(self, parameters: dict[str, Tensor]) -> Tensor:
        """S (H, H), skew, from whichever parameters there are."""
        p, H = parameters, self.hidden_size
        if self.parameterization == "flux":
            S = skew_matrix(p["flux"], H)
        elif self.parameterization == "pairs":
            a, b = p["pairs_a"], p["pairs_b"]
            cross = a.T @ b  # (H, H), [i, j] = Σ a_i b_j
            own = (a * b).sum(0)
            S = 0.5 * (cross - cross.T + own[None, :] - own[:, None])
        else:
            mu = self.mass(p)
            Q = mu.sqrt()[:, None] * _complement(mu)  # (H, H-1)
            S = 2 * Q @ skew_matrix(p["skew"], H - 1) @ Q.T
            if "potential" in p:
                S = S + p["potential"][None, :] - p["potential"][:, None]
        return hodge(S)[0] if self.divergence == "zero" else S

    def generator_matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """D (H, H)."""
        S, mu = self.skew_flux(parameters), self.mass(parameters)
        return 0.5 * S / mu[:, None] if self.divergence == "none" else flux_to_operator(S, mu)

    def field_divergence(self, parameters: dict[str, Tensor]) -> Tensor:
        """Divergence of the field at each point, (H,)."""
        S, mu = self.skew_flux(parameters), self.mass(parameters)
        return torch.zeros_like(mu) if self.divergence == "none" else S.sum(1) / mu

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        return flow(self.generator_matrix(parameters), "cayley" if self.flow == "cayley" else "expm")

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        if self.flow == "expmv":
            return {**parameters, "D": self.generator_matrix(parameters)}
        return super().prepare(parameters, dt)

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        if self.flow != "expmv":
            return super().step(weights, x, state, dt, extras)
        a = flow_action(weights["D"], state[0]) + F.linear(x, weights["weight_ih"])  # (B, H)
        return (self.activation(a, weights.get("bias")),)


class VectorFieldRNN(Recurrent):
    """Vector-field RNN with the contract of ``torch.nn.LSTM``; the state is one tensor.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H, the latent points.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``nonlinearity="modrelu"`` (``"tanh"``, ``"relu"``, ``"identity"``);
            ``parameterization="flux"`` (``"pairs"`` with ``n_pairs``, ``"hodge"``); ``divergence="free"`` (``"zero"``:
            projected; ``"penalty"``: free, and you add :meth:`divergence_penalty` to the loss; ``"none"``: any M-skew D);
            ``learn_mass=False``; ``flow="expm"`` (``"cayley"``, ``"expmv"``: the action only); ``init="henaff"``
            (``"cayley"``). The start is divergence-free except for ``"pairs"``.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: after arXiv:2102.09589; the construction is derived, not released code.

    Example:
        >>> import torch
        >>> layer = VectorFieldRNN(3, 8, divergence="zero")
        >>> low, high = layer.gain_bounds()
        >>> round(low.item(), 4), round(high.item(), 4)
        (1.0, 1.0)
    """

    cell_class = VectorFieldRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)

    def _of(self, k: int, reverse: bool) -> tuple[VectorFieldRNNMath, dict[str, Tensor]]:
        own = self.parameters_of(k, reverse)
        return self.cells[k], own  # pyright: ignore[reportReturnType]

    def operator(self, k: int = 0, reverse: bool = False) -> Tensor:
        """D (H, H) of layer ``k``, column convention."""
        cell, own = self._of(k, reverse)
        return cell.generator_matrix(own)

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The recurrent matrix E (H, H) of layer ``k``, column convention."""
        cell, own = self._of(k, reverse)
        return cell.matrix(own)

    def mass(self, k: int = 0, reverse: bool = False) -> Tensor:
        """μ (H) of layer ``k``."""
        cell, own = self._of(k, reverse)
        return cell.mass(own)

    def divergence(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The divergence (H) of the field of layer ``k``."""
        cell, own = self._of(k, reverse)
        return cell.field_divergence(own)

    def divergence_penalty(self) -> Tensor:
        """Σ μ div² over all layers and directions; add a multiple of it to the loss."""
        pairs = [(k, bool(d)) for k in range(self.num_layers) for d in range(self.num_directions)]
        return torch.stack([(self.mass(*at) * self.divergence(*at).square()).sum() for at in pairs]).sum()

    def gain_bounds(self, k: int = 0, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """Bounds on the singular values of exp(D) in the M-norm: e^{-½ max div} and e^{-½ min div}."""
        div = self.divergence(k, reverse)
        return torch.exp(-0.5 * div.max()), torch.exp(-0.5 * div.min())


class VectorFieldRNNCell(CellModule):
    """One vector-field step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`VectorFieldRNN`, ``device``, ``dtype``.

    Source: after arXiv:2102.09589.

    Example:
        >>> import torch
        >>> VectorFieldRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = VectorFieldRNNMath
