"""Elman and residual baselines: the plain recurrence, and one small step of it.

    elman      h⁺ = φ(W h + U x + b)
    residual   h⁺ = h + dt φ(W h + U x + b)

Source: Elman, Finding structure in time, 1990; both are baselines of arXiv:2006.12070.
Differs from the released code: nowhere known.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import OneOf, Real
from ._cell_module import CellModule
from .cell import NONLINEARITIES, Cell, State, Step, linear_reset
from .layer import Recurrent


class ElmanRNNMath(Cell):
    """The Elman step."""

    name = "elman"
    time_step = False
    RULES = {"nonlinearity": OneOf(tuple(NONLINEARITIES))}

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, dt: float = 1.0, nonlinearity: str = "tanh"
    ) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)
        self.nonlinearity = nonlinearity

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (H, self.input_size)}
        if self.bias:
            shapes["bias"] = (H,)
        return {**shapes, "weight_hh": (H, H)}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        linear_reset(parameters["weight_ih"], parameters.get("bias"), generator)
        linear_reset(parameters["weight_hh"], None, generator)

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        return parameters

    def activation(self, weights: dict[str, Tensor], x: Tensor, h: Tensor) -> Tensor:
        """φ(W h + U x + b)."""
        total = F.linear(h, weights["weight_hh"]) + F.linear(x, weights["weight_ih"], weights.get("bias"))  # (B, H)
        return NONLINEARITIES[self.nonlinearity](total)

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        return (self.activation(weights, x, state[0]).to(state[0].dtype),)


class ResidualRNNMath(ElmanRNNMath):
    """The residual step."""

    name = "residual"
    time_step = True
    RULES = {"dt": Real(0, closed="neither")}

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        return (state[0] + dt * self.activation(weights, x, state[0]),)


class ElmanRNN(Recurrent):
    """The plain tanh recurrence with the contract of ``torch.nn.LSTM``: a baseline.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``nonlinearity="tanh"``.

    Source: baseline of arXiv:2006.12070.

    Example:
        >>> import torch
        >>> ElmanRNN(3, 8)(torch.randn(5, 2, 3))[0].shape
        torch.Size([5, 2, 8])
    """

    cell_class = ElmanRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)


class ResidualRNN(ElmanRNN):
    """The residual recurrence h + dt φ(W h + U x + b): a baseline.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``nonlinearity="tanh"``, ``dt=1.0``.

    Source: baseline of arXiv:2006.12070.

    Example:
        >>> import torch
        >>> ResidualRNN(3, 8, dt=0.1)(torch.randn(5, 2, 3))[0].shape
        torch.Size([5, 2, 8])
    """

    cell_class = ResidualRNNMath


class ElmanRNNCell(CellModule):
    """One Elman step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`ElmanRNN`, ``device``, ``dtype``.

    Source: baseline of arXiv:2006.12070.

    Example:
        >>> import torch
        >>> ElmanRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = ElmanRNNMath


class ResidualRNNCell(CellModule):
    """One residual step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`ResidualRNN`, ``device``, ``dtype``.

    Source: baseline of arXiv:2006.12070.

    Example:
        >>> import torch
        >>> ResidualRNNCell(3, 8, dt=0.1)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = ResidualRNNMath
