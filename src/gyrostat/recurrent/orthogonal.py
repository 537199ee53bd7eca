"""Orthogonal RNN: the recurrent matrix is a point of SO(n), written by a skew matrix K.

    h⁺ = φ(W h + U x)            exp:  W = exp(K)       cayley:  W = (I - K/2)⁻¹ (I + K/2)       dtriv:  W = W₀ exp(K)
    φ(a) = sign(a) relu(|a| + b)  (modrelu), or tanh, relu, identity of a + b

Source: Lezcano-Casado, Martínez-Rubio, arXiv:1901.08428, and Lezcano-Casado, arXiv:1909.09501; the divergence-free case of
    Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589; the Cayley form is a baseline of arXiv:2006.12070.
Differs from the released code: column convention; K is stored as its upper triangle, K = 2(C - Cᵀ) of the Cayley baseline.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import OneOf
from ..numerics.operators import flow, skew_matrix, upper_triangle
from ._cell_module import CellModule
from .cell import Cell, State, Step
from .layer import Recurrent

ACTIVATIONS = ("modrelu", "tanh", "relu", "identity")


class FlowCell(Cell):
    """h⁺ = φ(E h + U x) with E the map of a flow; subclasses say which."""

    time_step = False
    RULES = {"nonlinearity": OneOf(ACTIVATIONS), "init": OneOf(("henaff", "cayley"))}

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool, dt: float, nonlinearity: str, init: str
    ) -> None:
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)
        self.nonlinearity, self.init = nonlinearity, init

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (self.hidden_size, self.input_size)}
        if self.bias:
            shapes["bias"] = (self.hidden_size,)
        return shapes

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        parameters["weight_ih"].normal_(0, math.sqrt(2 / self.input_size), generator=generator)
        if self.bias:
            parameters["bias"].uniform_(-0.01, 0.01, generator=generator)

    def draw_skew(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """A block-diagonal skew matrix (n, n): random rotations of pairs of axes."""
        angles = torch.empty(n // 2, dtype=like.dtype, device=like.device)
        if self.init == "henaff":
            angles.uniform_(-math.pi, math.pi, generator=generator)
        else:
            angles = -torch.tan(angles.uniform_(0, math.pi / 2, generator=generator) / 2)
        K = like.new_zeros(n, n)
        first = 2 * torch.arange(n // 2, device=like.device)
        K[first, first + 1], K[first + 1, first] = angles, -angles
        return K

    def activation(self, a: Tensor, bias: Tensor | None) -> Tensor:
        """φ of the pre-activation ``(B, H)``."""
        if self.nonlinearity == "modrelu":
            return a if bias is None else torch.sign(a) * torch.relu(a.abs() + bias)
        a = a if bias is None else a + bias
        if self.nonlinearity == "identity":
            return a
        return torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a)

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """E (H, H), column convention."""
        raise TypeError(f"{type(self).__name__} has no matrix of its own")

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        return {**parameters, "E": self.matrix(parameters)}

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        a = F.linear(state[0], weights["E"]) + F.linear(x, weights["weight_ih"])  # (B, H)
        return (self.activation(a, weights.get("bias")),)


class OrthogonalRNNMath(FlowCell):
    """The orthogonal step."""

    name = "orthogonal"
    RULES = {"parameterization": OneOf(("exp", "cayley", "dtriv"))}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 1.0,
        parameterization: str = "exp",
        nonlinearity: str = "modrelu",
        init: str = "henaff",
    ) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt, nonlinearity=nonlinearity, init=init)
        self.parameterization = parameterization

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        return {**super().parameter_shapes(), "skew": (H * (H - 1) // 2,)}

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"base": ((self.hidden_size,) * 2, None)} if self.parameterization == "dtriv" else {}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        super().reset(parameters, generator)
        K = self.draw_skew(self.hidden_size, parameters["skew"], generator)
        if self.parameterization == "dtriv":
            parameters["base"].copy_(flow(K))
            K = torch.zeros_like(K)
        parameters["skew"].copy_(upper_triangle(K))

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        K = skew_matrix(parameters["skew"], self.hidden_size)
        if self.parameterization == "cayley":
            return flow(K, "cayley")
        return parameters["base"] @ flow(K) if self.parameterization == "dtriv" else flow(K)


class OrthogonalRNN(Recurrent):
    """Orthogonal RNN with the contract of ``torch.nn.LSTM``; the state is one tensor.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``parameterization="exp"`` (or ``"cayley"``, ``"dtriv"``),
            ``nonlinearity="modrelu"`` (or ``"tanh"``, ``"relu"``, ``"identity"``), ``init="henaff"`` (or ``"cayley"``).
            With ``"dtriv"`` call :meth:`rebase` every hundred updates or so; ``base`` is saved but not trained.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: arXiv:1901.08428, arXiv:1909.09501, baseline of arXiv:2102.09589 and arXiv:2006.12070.

    Example:
        >>> import torch
        >>> layer = OrthogonalRNN(3, 8)
        >>> torch.allclose(layer.W() @ layer.W().T, torch.eye(8), atol=1e-5)
        True
    """

    cell_class = OrthogonalRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The orthogonal matrix of layer ``k``, column convention."""
        return self.cells[k].matrix(self.parameters_of(k, reverse))  # pyright: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def rebase(self) -> None:
        """Move the base point of ``"dtriv"`` to the current matrix, made orthogonal anew; W does not change."""
        for k in range(self.num_layers):
            for backward in range(self.num_directions):
                own = self.parameters_of(k, bool(backward))
                if "base" in own:
                    u, _, vh = torch.linalg.svd(self.W(k, bool(backward)))
                    own["base"].copy_(u @ vh)
                    own["skew"].zero_()

    @classmethod
    def from_released(cls, state_dict: dict[str, Tensor], **options: Any) -> OrthogonalRNN:
        """A one-layer tanh model with the weights of the Cayley baseline (``E``, ``C``) of arXiv:2006.12070."""
        weight, C = state_dict["E.weight"], state_dict["C"]
        options = {"parameterization": "cayley", "nonlinearity": "tanh", **options}
        layer = cls(weight.shape[1], weight.shape[0], dtype=weight.dtype, **options)
        own = {"weight_ih_l0": weight, "bias_l0": state_dict["E.bias"], "skew_l0": upper_triangle(2 * (C - C.T))}
        layer.load_state_dict(own)
        return layer


class OrthogonalRNNCell(CellModule):
    """One orthogonal step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`OrthogonalRNN`, ``device``, ``dtype``.

    Source: arXiv:1901.08428, arXiv:1909.09501.

    Example:
        >>> import torch
        >>> OrthogonalRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = OrthogonalRNNMath
