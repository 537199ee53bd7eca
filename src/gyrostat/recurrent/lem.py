"""Long expressive memory: two states, each unit with learned, input-dependent time steps.

    Δt_n  = Δt σ̂(W₁ y_{n-1} + V₁ u_n + b₁)
    Δt̄_n  = Δt σ̂(W₂ y_{n-1} + V₂ u_n + b₂)                                σ̂ logistic
    z_n   = (1 - Δt_n) z_{n-1} + Δt_n tanh(W_z y_{n-1} + V_z u_n + b_z)
    y_n   = (1 - Δt̄_n) y_{n-1} + Δt̄_n tanh(W_y z_n + V_y u_n + b_y)       uses the new z

Source: Rusch, Mishra, Erichson, Mahoney, Long Expressive Memory for Sequence Modeling, ICLR 2022, arXiv:2110.04744.
Here: rows of ``weight_ih`` are V₂, V₁, V_y, V_z; rows of ``weight_hh`` are W₂, W₁, W_z; ``weight_zy`` is W_y.
Differs from the released code: nowhere in the mathematics; stacking, directions, lengths and initial states are added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Real
from ._cell_module import CellModule
from .cell import Cell, State, Step
from .layer import Recurrent


class LEMMath(Cell):
    """The LEM step; states ``y`` (the output) and ``z``."""

    name = "lem"
    states = ("y", "z")
    RULES = {"dt": Real(0, closed="neither", high=math.inf)}

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True, dt: float = 1.0) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H, F_in = self.hidden_size, self.input_size
        shapes = {"weight_ih": (4 * H, F_in), "weight_hh": (3 * H, H), "weight_zy": (H, H)}
        biases = {"bias_ih": (4 * H,), "bias_hh": (3 * H,), "bias_zy": (H,)}
        return {**shapes, **biases} if self.bias else {**shapes}

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        return parameters

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        p = weights
        y, z = state
        i2, i1, iy, iz = F.linear(x, p["weight_ih"], p.get("bias_ih")).chunk(4, -1)  # (B, H) each
        h2, h1, hz = F.linear(y, p["weight_hh"], p.get("bias_hh")).chunk(3, -1)  # (B, H) each
        dt_z = dt * torch.sigmoid(i1 + h1)  # (B, H)
        dt_y = dt * torch.sigmoid(i2 + h2)  # (B, H)
        z = z + dt_z * (torch.tanh(iz + hz) - z)
        y = y + dt_y * (torch.tanh(F.linear(z, p["weight_zy"], p.get("bias_zy")) + iy) - y)
        return y, z


class LEM(Recurrent):
    """Long expressive memory as a layer: replace ``nn.LSTM(`` by ``gyrostat.LEM(``; the state is ``(y_n, z_n)``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H of each state.
        num_layers: Stacked layers; a layer reads ``y`` of the one below.
        bias: Whether the products have biases (twice, as in ``nn.LSTM``).
        batch_first: Input and output are ``(B, T, F)`` instead of ``(T, B, F)``; the state never is.
        dropout: Probability of dropout on ``y`` between layers.
        bidirectional: Run a second cell from the end of each sequence and concatenate.
        dt: Largest step Δt, a number or one per layer. The guarantees of the paper want 0 < Δt ≤ 1; about c/T keeps
            gradients from vanishing over T steps.
        backend: ``"auto"``, ``"reference"`` or ``"fused"``.
        memory: ``"auto"``, ``"full"`` or ``"low"``: what a fused training pass keeps.
        device: Where the parameters live.
        dtype: Their type.

    Shapes:
        input ``(T, B, F)``, ``(B, T, F)``, ``(T, F)`` or a ``PackedSequence``; output ``(T, B, D*H)`` alike; states
        ``(num_layers * D, B, H)`` with D = 2 when bidirectional. Parameter count equals ``torch.nn.LSTM``.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).
        ShapeError: Sizes of input or state do not fit (also a ``RuntimeError``).

    Source: arXiv:2110.04744.

    Example:
        >>> import torch
        >>> layer = LEM(3, 8, num_layers=2)
        >>> output, (y_n, z_n) = layer(torch.randn(5, 4, 3))
        >>> output.shape, y_n.shape
        (torch.Size([5, 4, 8]), torch.Size([2, 4, 8]))
    """

    cell_class = LEMMath

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dt: float | tuple[float, ...] | list[float] = 1.0,
        backend: str = "auto",
        memory: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, backend=backend, memory=memory, device=device, dtype=dtype, dt=dt,
        )  # fmt: skip

    @classmethod
    def from_released(cls, state_dict: dict[str, Tensor], *, dt: float = 1.0, **options: Any) -> LEM:
        """A one-layer LEM with the weights of the released cell (``inp2hid``, ``hid2hid``, ``transform_z``)."""
        weight = state_dict["inp2hid.weight"]
        layer = cls(weight.shape[1], weight.shape[0] // 4, dt=dt, dtype=weight.dtype, **options)
        layer.load_state_dict({ours: state_dict[theirs] for ours, theirs in _RELEASED.items()})
        return layer

    def to_released(self) -> dict[str, Tensor]:
        """The weights of a one-layer LEM under the released names."""
        self._only_one_layer("to_released")
        own = self.state_dict()
        return {theirs: own[ours] for ours, theirs in _RELEASED.items()}

    @classmethod
    def from_lem_cuda(cls, weights: dict[str, Tensor], *, dt: float = 1.0, **options: Any) -> LEM:
        """A one-layer LEM from the packing of the CUDA extension.

        Args:
            weights: ``weights`` (3H, H+F) with rows Δt, z-candidate, Δt̄; ``weights_lin_z`` (H, H+F); ``bias``;
                ``bias_lin_z``. Columns are hidden, then input. The single biases go to ``bias_ih``.
            dt: The step, which the extension does not store.
            **options: Further constructor arguments.
        """
        w, lin, b, b_lin = (weights[k] for k in ("weights", "weights_lin_z", "bias", "bias_lin_z"))
        H = lin.shape[0]
        step_z, z, step_y = w.split(H)
        bz1, bz, by2 = b.split(H)
        layer = cls(w.shape[1] - H, H, dt=dt, dtype=w.dtype, **options)
        packed = {
            "weight_ih_l0": torch.cat([step_y[:, H:], step_z[:, H:], lin[:, H:], z[:, H:]]),
            "weight_hh_l0": torch.cat([step_y[:, :H], step_z[:, :H], z[:, :H]]),
            "weight_zy_l0": lin[:, :H],
            "bias_ih_l0": torch.cat([by2, bz1, b_lin, bz]),
            "bias_hh_l0": b.new_zeros(3 * H),
            "bias_zy_l0": b.new_zeros(H),
        }
        layer.load_state_dict(packed)
        return layer

    def to_lem_cuda(self) -> dict[str, Tensor]:
        """The weights of a one-layer LEM in the packing of the CUDA extension; the double biases are summed."""
        self._only_one_layer("to_lem_cuda")
        p = {k.removesuffix("_l0"): v for k, v in self.state_dict().items()}
        v2, v1, vy, vz = p["weight_ih"].chunk(4)
        w2, w1, wz = p["weight_hh"].chunk(3)
        b2, b1, by, bz = p["bias_ih"].chunk(4)
        c2, c1, cz = p["bias_hh"].chunk(3)
        rows = [torch.cat(pair, 1) for pair in ((w1, v1), (wz, vz), (w2, v2))]
        return {
            "weights": torch.cat(rows),
            "weights_lin_z": torch.cat([p["weight_zy"], vy], 1),
            "bias": torch.cat([b1 + c1, bz + cz, b2 + c2]),
            "bias_lin_z": by + p["bias_zy"],
        }


_RELEASED = {
    "weight_ih_l0": "inp2hid.weight",
    "bias_ih_l0": "inp2hid.bias",
    "weight_hh_l0": "hid2hid.weight",
    "bias_hh_l0": "hid2hid.bias",
    "weight_zy_l0": "transform_z.weight",
    "bias_zy_l0": "transform_z.bias",
}


class LEMCell(CellModule):
    """One LEM step as a module, with plain parameter names: ``(x, (y, z)) -> (y, z)``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: ``bias``, ``dt``, ``device``, ``dtype`` as in :class:`LEM`.

    Source: arXiv:2110.04744.

    Example:
        >>> import torch
        >>> cell = LEMCell(3, 8)
        >>> y, z = cell(torch.randn(4, 3))
        >>> y.shape
        torch.Size([4, 8])
    """

    cell_class = LEMMath
