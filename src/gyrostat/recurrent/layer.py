"""The contract of ``torch.nn.LSTM`` around any cell.

    state_t = step(weights, x_t, state_{t-1}, dt_t),      output_t = first state,      t = 1..T

Source: the behaviour of ``torch.nn.LSTM``; the cells bring the methods.
Differs from the released code: there, a model read its input once, from zero, forward only, and gave the last output.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError, ShapeError
from . import kernels
from ._loop import run_cell
from ._sequence import active_mask, check_dt, check_lengths, pack_like, reverse, unpack
from .cell import Cell, State

BACKENDS = ("auto", "reference", "fused")
_RULES = {
    "num_layers": Integer(1),
    "batch_first": Boolean(),
    "bidirectional": Boolean(),
    "dropout": Real(0, 1),
    "backend": OneOf(BACKENDS),
}


class Recurrent(nn.Module):
    """A stack of recurrent layers with the contract of ``torch.nn.LSTM`` around one cell.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H of each state.
        num_layers: Stacked layers.
        cell: Registry name of the cell; subclasses fix it.
        bias: Whether the cell has biases.
        batch_first: Input and output are ``(B, T, F)``; the state never is.
        dropout: Probability of dropout between layers.
        bidirectional: Add a second direction that starts at each sequence's own end.
        backend: ``"auto"`` takes a fused kernel where one exists, ``"reference"`` never, ``"fused"`` insists.
        device: Where the parameters live.
        dtype: Their type.
        **cell_options: What the cell's constructor takes; ``dt`` may be a list, one per layer.

    Shapes:
        input ``(T, B, F)``, ``(B, T, F)``, ``(T, F)`` or a ``PackedSequence``; output ``(..., D*H)`` alike; state
        ``(num_layers * D, B, H)``, a tensor for cells of one state and a tuple for cells of several.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).
        ShapeError: Sizes of input or state do not fit (also a ``RuntimeError``).

    Example:
        >>> import torch
        >>> layer = Recurrent(3, 8, cell="lem", batch_first=True)
        >>> output, state = layer(torch.randn(2, 5, 3))
        >>> output.shape
        torch.Size([2, 5, 8])
    """

    cell_class: ClassVar[type[Cell] | None] = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str | None = None,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check(_RULES, locals(), name)
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{name}: dropout acts between layers and does nothing when num_layers=1", stacklevel=3)
        kind = self.cell_class
        if kind is None:
            from .cell import get_cell

            if cell is None:
                raise ArgumentError("Recurrent: cell must name a registered cell; cell_names() lists them")
            kind = get_cell(cell)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        self.num_directions = 2 if bidirectional else 1
        self.backend = backend
        steps = cell_options.pop("dt", None)
        self.cells: list[Cell] = []
        for k in range(num_layers):
            size = input_size if k == 0 else hidden_size * self.num_directions
            own = {} if steps is None else {"dt": _of_layer(steps, k, num_layers, name)}
            self.cells.append(kind(size, hidden_size, bias=bias, **own, **cell_options))
            for suffix in self._suffixes(k):
                _register(self, self.cells[k], suffix, device, dtype)
        self.reset_parameters()
        if backend == "fused" and self._runner()[0] is None:
            raise ArgumentError(f"{name}: backend 'fused' is not available: {self._runner()[1]}; use backend='auto'")

    def _suffixes(self, k: int) -> list[str]:
        return [f"_l{k}", f"_l{k}_reverse"][: self.num_directions]

    def parameters_of(self, k: int = 0, reverse: bool = False) -> dict[str, Tensor]:
        """Parameters and buffers of layer ``k`` and one direction, under the cell's own names."""
        if not 0 <= k < self.num_layers or (reverse and not self.bidirectional):
            raise ArgumentError(f"{type(self).__name__}: there is no layer {k}{' in reverse' if reverse else ''}")
        suffix = self._suffixes(k)[int(reverse)]
        return {key: getattr(self, key + suffix) for key in self.cells[k].tensor_names()}

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew, as the paper of the cell does."""
        with torch.no_grad():
            for k, cell in enumerate(self.cells):
                for backward in range(self.num_directions):
                    cell.reset({n: p.data for n, p in self.parameters_of(k, bool(backward)).items()}, generator)

    def flatten_parameters(self) -> None:
        """Nothing to do; here so that code written for ``nn.LSTM`` runs."""

    def _runner(self) -> tuple[Any, str]:
        return (
            (None, "backend='reference' was asked for") if self.backend == "reference" else kernels.find(self.cells[0])
        )

    @property
    def backend_in_use(self) -> str:
        """``"fused"`` or ``"reference: <why>"``."""
        runner, reason = self._runner()
        return "fused" if runner is not None else f"reference: {reason}"

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        *,
        lengths: Tensor | list[int] | None = None,
        dt: float | Tensor | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Run whole sequences.

        Args:
            x: ``(T, B, F)``, ``(B, T, F)`` when ``batch_first``, ``(T, F)``, or a ``PackedSequence``.
            state: Initial state ``(num_layers * D, B, H)``, a tuple of them for cells of several states; zero if absent.
            lengths: Length of each sequence of a padded batch; whatever stands in the padding is never seen.
            dt: Step instead of the constructor's: a number, ``(T,)`` or ``(B, T)``; 0 holds the state.
            **options: What the cell takes beside (noise).

        Returns:
            The output of the last layer, zero in padding, and the state after each sequence's last valid step.
        """
        sequences, final, packed, batched = self._run(x, state, lengths, dt, options)
        output = self._leave(sequences[0], batched, packed)
        return output, self._leave_state(final, batched)

    def forward_states(self, x: Any, state: Any = None, **options: Any) -> tuple[Any, ...]:
        """Like calling the layer, with the sequences of all states of the top layer before the final state."""
        lengths, dt = options.pop("lengths", None), options.pop("dt", None)
        sequences, final, packed, batched = self._run(x, state, lengths, dt, options)
        return (*(self._leave(s, batched, packed) for s in sequences), self._leave_state(final, batched))

    def step(
        self, x_t: Tensor, state: Any = None, *, dt: float | Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Any]:
        """One time step for streaming: ``(B, F)`` or ``(F,)`` to the output and the new state; equals the whole pass.

        Raises:
            ArgumentError: The layer is bidirectional: the backward direction would need the future.
        """
        if self.bidirectional:
            raise ArgumentError(f"{type(self).__name__}: step() needs bidirectional=False; the future is not known yet")
        if x_t.ndim not in (1, 2):
            raise ArgumentError(f"{type(self).__name__}: step() expects (B, F) or (F,), got {x_t.ndim} dimensions")
        if isinstance(dt, Tensor) and dt.ndim == 1 and x_t.ndim == 2:
            dt = dt[:, None]
        batch_first, self.batch_first = self.batch_first, False
        try:
            output, state = self(x_t[None], state, dt=dt, **options)
        finally:
            self.batch_first = batch_first
        return output[0], state

    def _run(self, x: Any, state: Any, lengths: Any, dt: Any, options: dict[str, Any]) -> tuple[Any, ...]:
        name = type(self).__name__
        packed = x if isinstance(x, PackedSequence) else None
        if packed is not None:
            if lengths is not None:
                raise ArgumentError(
                    f"{name}: lengths must be None when the input is a PackedSequence, which has its own"
                )
            self._check_input(packed.data, name)
            x, lengths = unpack(packed)
        elif not isinstance(x, Tensor):
            raise ArgumentTypeError(f"{name}: input must be a tensor or a PackedSequence, got {type(x).__name__}")
        elif x.ndim not in (2, 3):
            raise ArgumentError(f"{name}: Expected input to be 2D or 3D, got {x.ndim}D tensor instead")
        batched = x.ndim == 3
        if not batched:
            x = x[:, None]
        elif self.batch_first and packed is None:
            x = x.transpose(0, 1)
        self._check_input(x, name)
        x = x.contiguous()  # (T, B, F); steps of a pass and single steps then see the same strides
        T, B = x.shape[:2]
        states = self._enter_state(state, x, B, batched, name)
        if lengths is not None:
            lengths = check_lengths(lengths, T, B, x.device)
        if dt is not None:
            if not self.cells[0].time_step:
                raise ArgumentError(f"{name}: dt must be None, this recurrence has no time step")
            dt = check_dt(dt, T, B, states[0])
        D = self.num_directions
        final: list[State] = []
        sequences: State = ()
        for k, cell in enumerate(self.cells):
            found = []
            for backward in range(D):
                start = tuple(s[k * D + backward].clone() for s in states)
                found.append(self._direction(k, cell, bool(backward), x, start, lengths, dt, options))
                final.append(found[-1][1])
            sequences = tuple(torch.cat(s, -1) if D == 2 else s[0] for s in zip(*(f[0] for f in found)))
            x = sequences[0]  # (T, B, D*H)
            if self.dropout and k + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return sequences, tuple(torch.stack(s) for s in zip(*final)), packed, batched

    def _direction(
        self, k: int, cell: Cell, backward: bool, x: Tensor, state: State, lengths: Tensor | None, dt: Any, options: Any
    ) -> tuple[State, State]:
        T, B = x.shape[:2]
        parameters = self.parameters_of(k, backward)
        extras = cell.extras(T, state[0], self.training, **options)
        if T == 0:
            return tuple(s.new_zeros(0, B, self.hidden_size) for s in state), state
        own = cell.step_size(parameters) if dt is None else dt
        active = active_mask(T, B, lengths, own if dt is not None else 1.0, x.device)
        inside = active_mask(T, B, lengths, 1.0, x.device)
        if inside is not None:
            x = torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))
        if backward:
            x = reverse(x, lengths)
            own = reverse(own, lengths) if isinstance(own, Tensor) and own.ndim == 3 else own
            active = reverse(active, lengths) if active is not None else None
        runner = self._runner()[0] or run_cell
        sequences, last = runner(cell, parameters, x, state, own, extras, active)
        if inside is not None:
            sequences = tuple(
                torch.where(inside, s, torch.zeros((), dtype=s.dtype, device=s.device)) for s in sequences
            )
        return (tuple(reverse(s, lengths) for s in sequences) if backward else sequences), last

    def _check_input(self, x: Tensor, name: str) -> None:
        own = next(self.parameters())
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        if x.dtype != own.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ArgumentError(
                f"{name}: input has dtype {x.dtype} and the parameters {own.dtype}; "
                f"convert one, input.to({own.dtype}) or layer.to({x.dtype})"
            )

    def _enter_state(self, state: Any, x: Tensor, B: int, batched: bool, name: str) -> State:
        names = self.cells[0].states
        shape = (self.num_layers * self.num_directions, B, self.hidden_size)
        if state is None:
            zeros = torch.zeros(shape, dtype=next(self.parameters()).dtype, device=x.device)
            return (zeros,) * len(names)
        given = (state,) if isinstance(state, Tensor) else tuple(state)
        if len(given) != len(names) or (len(names) > 1 and isinstance(state, Tensor)):
            raise ShapeError(f"{name}: the state must be {len(names)} tensors ({', '.join(names)}), got {len(given)}")
        found = []
        for symbol, value in zip(names, given):
            want = shape if batched else (shape[0], shape[2])
            if tuple(value.shape) != want:
                raise ShapeError(f"{name}: Expected state {symbol} of size {want}, got {tuple(value.shape)}")
            found.append(value if batched else value[:, None])
        return tuple(found)

    def _leave(self, output: Tensor, batched: bool, packed: PackedSequence | None) -> Any:
        if packed is not None:
            return pack_like(output, packed)
        if not batched:
            return output[:, 0]
        return output.transpose(0, 1) if self.batch_first else output

    def _leave_state(self, final: State, batched: bool) -> Any:
        out = final if batched else tuple(s[:, 0] for s in final)
        return out[0] if len(out) == 1 else out

    def _only_one_layer(self, what: str) -> None:
        if self.num_layers != 1 or self.bidirectional:
            raise ArgumentError(f"{type(self).__name__}: {what}() needs num_layers=1 and bidirectional=False")

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        words = [f"{self.input_size}, {self.hidden_size}"]
        for key, default in (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            if getattr(self, key) != default:
                words.append(f"{key}={getattr(self, key)}")
        return ", ".join(words)


def _register(module: nn.Module, cell: Cell, suffix: str, device: Any, dtype: torch.dtype | None) -> None:
    for key, shape in cell.parameter_shapes().items():
        module.register_parameter(key + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
    for key, (shape, own) in cell.buffer_shapes().items():
        module.register_buffer(key + suffix, torch.empty(shape, device=device, dtype=own or dtype))


def _of_layer(dt: Any, k: int, num_layers: int, name: str) -> Any:
    if not isinstance(dt, (list, tuple)):
        return dt
    if len(dt) != num_layers:
        raise ArgumentError(f"{name}: dt must be a number or one per layer ({num_layers}), got {len(dt)}")
    return dt[k]


class CellModule(nn.Module):
    """One step of a cell as a module with plain parameter names; base of the public ``...Cell`` classes."""

    cell_class: ClassVar[type[Cell]]

    def __init__(
        self, input_size: int, hidden_size: int, *, device: Any = None, dtype: Any = None, **options: Any
    ) -> None:
        super().__init__()
        self.cell = self.cell_class(input_size, hidden_size, **options)
        self.input_size, self.hidden_size = input_size, hidden_size
        _register(self, self.cell, "", device, dtype)
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
