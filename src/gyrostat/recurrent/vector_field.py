"""Vector-field RNN: the recurrent matrix is the flow of a learned vector field, orthogonal where its divergence is zero.

    h⁺ = φ(E h + U x),     E = exp(D),     D = ½ M⁻¹ (S - diag(S 1)),     div = M⁻¹ S 1,     M = diag(n softmax θ)
    e^{-½ max div} ≤ singular values of E in the M-norm ≤ e^{-½ min div}

Source: vector-field RNN, after Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589.
Differs from the released code: none was released; recurrence, latent geometries and start are derived here.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Boolean, Integer, OneOf
from .._errors import ArgumentError
from ..numerics.operators import (
    action_steps,
    autocast_on,
    flow,
    flow_action,
    flow_gain,
    flow_terms,
    flux_to_operator,
    hodge,
    skew_matrix,
    upper_triangle,
)
from ._cell_module import CellModule
from ._geometry import choose
from .cell import State, Step
from .layer import Recurrent
from .orthogonal import FlowCell, opaque


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
        "n_pairs": Integer(1, optional=True),
        "n_cells": Integer(1, optional=True),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 1.0,
        nonlinearity: str = "modrelu",
        geometry: Any = "complete",
        parameterization: str = "flux",
        divergence: str = "free",
        learn_mass: bool = False,
        flow: str = "expm",
        n_pairs: int | None = None,
        n_cells: int | None = None,
        init: str = "henaff",
    ) -> None:
        self.check(locals())
        if divergence == "none" and parameterization != "flux":
            raise ArgumentError("VectorFieldRNN: parameterization must be 'flux' when divergence='none'")
        try:
            flow_terms("expm" if flow == "expmv" else flow)
        except ArgumentError:
            raise ArgumentError(
                f"VectorFieldRNN: flow must be one of 'expm', 'cayley', 'expmv' or 'taylor:k' with k >= 1, got {flow!r}"
            ) from None
        super().__init__(input_size, hidden_size, bias=bias, dt=dt, nonlinearity=nonlinearity, init=init)
        self.parameterization, self.divergence, self.learn_mass = parameterization, divergence, learn_mass
        self.flow = flow
        self.n_pairs = hidden_size // 2 + 1 if n_pairs is None else n_pairs
        self.geometry = choose(geometry, hidden_size, n_cells)
        self.projected = divergence == "zero" or (parameterization == "hodge" and not self.geometry.complete)
        self.geometry.check(learn_mass=learn_mass, projected=self.projected)

    @property
    def _skew(self) -> bool:
        return self.parameterization == "hodge" and self.geometry.complete

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        shapes = super().parameter_shapes()
        if self.parameterization == "pairs":
            shapes["pairs_a"] = shapes["pairs_b"] = (self.n_pairs, H)
        elif self._skew:
            shapes["skew"] = ((H - 1) * (H - 2) // 2,)
        else:
            shapes["flux"] = self.geometry.field_shape
        if self.parameterization == "hodge" and self.divergence != "zero":
            shapes["potential"] = (H,)
        if self.learn_mass:
            shapes["theta_mu"] = (H,)
        return {**shapes, **self.geometry.parameter_shapes()}

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return self.geometry.buffer_shapes()

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        p, H = parameters, self.hidden_size
        super().reset(p, generator)
        self.geometry.reset(p, generator)
        for key in ("potential", "theta_mu"):
            if key in p:
                p[key].zero_()
        if self.parameterization == "pairs":
            for key in ("pairs_a", "pairs_b"):
                p[key].normal_(0, H**-0.5, generator=generator)
        elif self._skew:
            p["skew"].copy_(upper_triangle(self.draw_skew(H - 1, p["skew"], generator)))
        elif not self.geometry.complete:
            self._reset_field(p, generator)
        elif self.divergence == "none":
            p["flux"].copy_(2 * upper_triangle(self.draw_skew(H, p["flux"], generator)))
        else:
            Q = _complement(p["flux"].new_ones(H))
            B = self.draw_skew(H - 1, p["flux"], generator)
            p["flux"].copy_(2 * upper_triangle(Q @ B @ Q.T))

    def _reset_field(self, p: dict[str, Tensor], generator: torch.Generator | None) -> None:
        wide = self.wide({**p, "flux": p["flux"].normal_(generator=generator)})
        place = self.geometry.of(wide)
        field = place.project(wide["flux"])
        root = self.mass(wide).sqrt()
        size = torch.linalg.matrix_norm(0.5 * place.flux(field) / root / root[:, None], 2)
        # a tree has no circulation at all, and what is left of the draw is rounding
        scale = torch.where(size > 1e-4, (math.pi if self.init == "henaff" else 1.0) / size, 0.0)
        p["flux"].copy_(scale * field)

    def mass(self, parameters: dict[str, Tensor]) -> Tensor:
        """μ (H), positive; of mean 1 unless the geometry says otherwise."""
        if self.learn_mass:
            return self.hidden_size * torch.softmax(parameters["theta_mu"], 0)
        return self.geometry.mass(parameters)

    def field(self, parameters: dict[str, Tensor]) -> Tensor:
        """The vector field on the cells of the geometry, from whichever parameters there are."""
        p, place = parameters, self.geometry.of(parameters)
        if self.parameterization == "pairs":
            field = place.pairs(p["pairs_a"], p["pairs_b"])
        else:
            field = p["flux"]
        if self.projected:
            field = place.project(field)
        return field + place.grad(p["potential"]) if "potential" in p else field

    def skew_flux(self, parameters: dict[str, Tensor]) -> Tensor:
        """S (H, H), skew."""
        p = parameters
        if not self._skew:
            return self.geometry.of(p).flux(self.field(p))
        mu = self.mass(p)
        Q = mu.sqrt()[:, None] * _complement(mu)  # (H, H-1)
        S = 2 * Q @ skew_matrix(p["skew"], self.hidden_size - 1) @ Q.T
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
        return flow(self.generator_matrix(parameters), "expm" if self.flow == "expmv" else self.flow)

    def gain(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`VectorFieldRNN.gain_bounds`."""
        own, method = self.wide(parameters), "expm" if self.flow == "expmv" else self.flow
        return flow_gain(self.generator_matrix(own), self.mass(own), method)

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Any]:
        p, weight = parameters, parameters["weight_ih"]
        # the number of substeps is read from the values: where those may not be read, the matrix stands in
        if self.flow != "expmv" or opaque(p) or weight.dtype.itemsize < 4 or autocast_on(weight):
            return super().prepare(p, dt)
        if self.geometry.sparse:
            graph, field, mu = self.geometry.of(p), self.field(p), self.mass(p)
            apply = partial(graph.apply, field, mu, transport=self.divergence != "none")
            bound = (graph.row_sums(field.abs()) / mu).max()
        else:
            D = self.generator_matrix(p)
            apply, bound = partial(F.linear, weight=D), D.abs().sum(1).max()
        return {**p, "apply": apply, "steps": action_steps(bound)}

    def step(self, weights: dict[str, Any], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        if "apply" not in weights:
            return super().step(weights, x, state, dt, extras)
        moved = flow_action(weights["apply"], state[0], weights["steps"])  # (B, H)
        return (self.activation(moved + F.linear(x, weights["weight_ih"]), weights.get("bias")),)


class VectorFieldRNN(Recurrent):
    """Vector-field RNN with the contract of ``torch.nn.LSTM``; the state is one tensor.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H, the latent points.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``nonlinearity="modrelu"`` (``"tanh"``, ``"relu"``, ``"identity"``);
            ``geometry="complete"`` (``"ring"``, ``"torus"``, integer pairs ``(E, 2)`` of a graph, a
            :class:`LatentGeometry` that stays as it is, or ``"free"``: gradient, means and weights of ``n_cells`` cells
            are learned); ``parameterization="flux"`` (``"pairs"`` with ``n_pairs``, ``"hodge"``);
            ``divergence="free"`` (``"zero"``: projected; ``"penalty"``: free, and you add :meth:`divergence_penalty` to
            the loss; ``"none"``: any M-skew D); ``learn_mass=False``; ``flow="expm"`` (``"cayley"``; ``"taylor:k"``;
            ``"expmv"``: the action only, edge by edge on a graph; under ``torch.compile`` and ``torch.func`` the matrix
            stands in); ``init="henaff"`` (``"cayley"``). The start is divergence-free except for ``"pairs"``.
            While gradients are off the recurrent matrix is kept until a parameter changes.

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
        cell: VectorFieldRNNMath = self.cells[k]  # pyright: ignore[reportAssignmentType]
        return cell, cell.wide(self.parameters_of(k, reverse))

    def operator(self, k: int = 0, reverse: bool = False) -> Tensor:
        """D (H, H) of layer ``k``, column convention."""
        cell, own = self._of(k, reverse)
        return cell.generator_matrix(own)

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The recurrent matrix E (H, H) of layer ``k``, column convention."""
        cell, own = self._of(k, reverse)
        return cell.whole_matrix(own)

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
        """Bounds on the singular values of the recurrent matrix in the M-norm, for the flow in use.

        ``"expm"``: e^{-½ max div} and e^{-½ min div}; ``"cayley"``: (1 - d/4)/(1 + d/4) at d = max div, 0 from d = 4 on, and at
        d = min div, infinite from d = -4 on; ``"taylor:k"``: those of ``"expm"`` give or take the rest of the series.
        """
        cell, own = self._of(k, reverse)
        return cell.gain(own)


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
