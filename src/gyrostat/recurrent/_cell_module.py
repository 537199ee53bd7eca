"""One step of a cell as a module, for streaming by hand and for models that are not sequences."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._errors import ArgumentError, ShapeError
from ._loop import run_cell
from ._sequence import active_mask, check_dt
from .cell import Cell, State


def register_tensors(module: nn.Module, cell: Cell, suffix: str, device: Any, dtype: torch.dtype | None) -> None:
    """Give ``module`` the parameters and buffers of ``cell``, their names followed by ``suffix``."""
    for key, shape in cell.parameter_shapes().items():
        module.register_parameter(key + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
    for key, (shape, own) in cell.buffer_shapes().items():
        module.register_buffer(key + suffix, torch.empty(shape, device=device, dtype=own or dtype))


class CellModule(nn.Module):
    """One step of a cell as a module with plain parameter names; base of the public ``...Cell`` classes."""

    cell_class: ClassVar[type[Cell]]

    def __init__(
        self, input_size: int, hidden_size: int, *, device: Any = None, dtype: Any = None, **options: Any
    ) -> None:
        super().__init__()
        self.cell = self.cell_class(input_size, hidden_size, **options)
        self.input_size, self.hidden_size = input_size, hidden_size
        register_tensors(self, self.cell, "", device, dtype)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew, as the paper of the cell does."""
        with torch.no_grad():
            self.cell.reset({n: getattr(self, n).data for n in self.cell.tensor_names()}, generator)

    def forward(self, x: Tensor, state: Any = None, *, dt: Any = None, **options: Any) -> Any:
        """One step: ``(B, F)`` or ``(F,)`` and the state to the new state; several states come as a tuple."""
        name = type(self).__name__
        if x.ndim not in (1, 2):
            raise ArgumentError(f"{name}: Expected input to be 1D or 2D, got {x.ndim}D instead")
        if x.shape[-1] != self.input_size:
            raise ShapeError(f"{name}: input.size(-1) must be {self.input_size}, got {x.shape[-1]}")
        rows = x if x.ndim == 2 else x[None]
        names = self.cell.states
        if state is None:
            states: State = (rows.new_zeros(rows.shape[0], self.hidden_size),) * len(names)
        else:
            given = (state,) if isinstance(state, Tensor) else tuple(state)
            want = (*x.shape[:-1], self.hidden_size)
            if len(given) != len(names) or any(tuple(s.shape) != want for s in given):
                raise ShapeError(f"{name}: Expected {len(names)} state(s) of size {want}")
            states = given if x.ndim == 2 else tuple(s[None] for s in given)
        parameters = {k: getattr(self, k) for k in self.cell.tensor_names()}
        if dt is not None:
            dt = check_dt(dt[:, None] if isinstance(dt, Tensor) and dt.ndim == 1 else dt, 1, rows.shape[0], rows)
        size = self.cell.step_size(parameters) if dt is None else dt
        extras = self.cell.extras(1, states[0], self.training, **options)
        active = active_mask(1, rows.shape[0], None, 1.0 if dt is None else size, rows.device)
        _, new = run_cell(self.cell, parameters, rows[None], states, size, extras, active)
        new = new if x.ndim == 2 else tuple(s[0] for s in new)
        return new[0] if len(new) == 1 else new
