"""Antisymmetric RNN: a residual recurrence whose matrix is skew but for a small damping.

    W = M - Mᵀ - γI
    h⁺ = h + dt tanh(W h + U x + b)                       gated:  h⁺ = h + dt tanh(W h + U x + b) ⊙ σ̂(W h + U_g x + b_g)

Source: Chang, Chen, Haber, Chi, AntisymmetricRNN, ICLR 2019, arXiv:1902.09689; baseline of arXiv:2006.12070.
Differs from the released code: column convention (there the rows are multiplied); the gate, absent there, is the paper's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Boolean, Real
from ._cell_module import CellModule
from .cell import Cell, State, Step, linear_reset
from .layer import Recurrent


class AntisymmetricRNNMath(Cell):
    """The antisymmetric step."""

    name = "antisymmetric"
    RULES = {"dt": Real(0, closed="neither"), "gamma": Real(0), "gated": Boolean(), "init_std": Real(0)}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 0.01,
        gamma: float = 0.01,
        gated: bool = False,
        init_std: float = 1.0,
    ) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)
        self.gamma, self.gated, self.init_std = gamma, gated, init_std

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H, F_in = self.hidden_size, self.input_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (H, F_in)}
        if self.bias:
            shapes["bias"] = (H,)
        shapes["m_w"] = (H, H)
        if self.gated:
            shapes["weight_gate"] = (H, F_in)
            if self.bias:
                shapes["bias_gate"] = (H,)
        return shapes

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        p = parameters
        linear_reset(p["weight_ih"], p.get("bias"), generator)
        if self.gated:
            linear_reset(p["weight_gate"], p.get("bias_gate"), generator)
        p["m_w"].normal_(0, self.init_std / self.hidden_size, generator=generator)

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """W, column convention."""
        M = parameters["m_w"]
        return M - M.T - self.gamma * torch.eye(M.shape[0], dtype=M.dtype, device=M.device)

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        return {**parameters, "W": self.matrix(parameters)}

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        (h,) = state
        Wh = F.linear(h, weights["W"])  # (B, H)
        slope = torch.tanh(Wh + F.linear(x, weights["weight_ih"], weights.get("bias")))  # (B, H)
        if self.gated:
            slope = slope * torch.sigmoid(Wh + F.linear(x, weights["weight_gate"], weights.get("bias_gate")))
        return (h + dt * slope,)


class AntisymmetricRNN(Recurrent):
    """Antisymmetric RNN with the contract of ``torch.nn.LSTM``; the state is one tensor.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``dt=0.01``, ``gamma=0.01`` (damping), ``gated=False``,
            ``init_std=1.0`` (M starts as N(0, (init_std / H)²)).

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: arXiv:1902.09689, baseline of arXiv:2006.12070.

    Example:
        >>> import torch
        >>> output, h_n = AntisymmetricRNN(3, 8, gated=True)(torch.randn(5, 2, 3))
        >>> output.shape
        torch.Size([5, 2, 8])
    """

    cell_class = AntisymmetricRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The recurrent matrix of layer ``k``, column convention."""
        return self.cells[k].matrix(self.parameters_of(k, reverse))  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def from_released(cls, state_dict: dict[str, Tensor], **options: Any) -> AntisymmetricRNN:
        """A one-layer model with the weights of the released cell (``E``, ``C``); the matrix is transposed."""
        weight = state_dict["E.weight"]
        layer = cls(weight.shape[1], weight.shape[0], dtype=weight.dtype, **options)
        own = {"weight_ih_l0": weight, "bias_l0": state_dict["E.bias"], "m_w_l0": state_dict["C"].T}
        layer.load_state_dict(own)
        return layer

    def to_released(self) -> dict[str, Tensor]:
        """The weights of a one-layer model under the released names, the matrix transposed."""
        self._only_one_layer("to_released")
        own = self.state_dict()
        return {"E.weight": own["weight_ih_l0"], "E.bias": own["bias_l0"], "C": own["m_w_l0"].T}


class AntisymmetricRNNCell(CellModule):
    """One antisymmetric step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`AntisymmetricRNN`, ``device``, ``dtype``.

    Source: arXiv:1902.09689.

    Example:
        >>> import torch
        >>> AntisymmetricRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = AntisymmetricRNNMath
