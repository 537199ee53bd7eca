"""The contract of ``torch.nn.LSTM`` around any cell.

    state_t = step(weights, x_t, state_{t-1}, dt_t),      output_t = first state,      t = 1..T

Source: the behaviour of ``torch.nn.LSTM``; the cells bring the methods.
Differs from the released code: there, a model read its input once, from zero, forward only, and gave the last output.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError, ShapeError
from . import kernels
from ._cell_module import register_tensors
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
    "memory": OneOf(("auto", "full", "low")),
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
        memory: What a fused training pass keeps: ``"full"`` all activations, ``"low"`` the state every 16 steps (the same
            gradients bit for bit, a third more time), ``"auto"`` the first up to 512 MB for a layer.
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
        memory: str = "auto",
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
        self.backend, self.memory = backend, memory
        steps = cell_options.pop("dt", None)
        self.cells: list[Cell] = []
        for k in range(num_layers):
            size = input_size if k == 0 else hidden_size * self.num_directions
            own = {} if steps is None else {"dt": _of_layer(steps, k, num_layers, name)}
            self.cells.append(kind(size, hidden_size, bias=bias, **own, **cell_options))
            for suffix in self._suffixes(k):
                register_tensors(self, self.cells[k], suffix, device, dtype)
        self.reset_parameters()
        self._runner()  # backend="fused" refuses here what it cannot do

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

    def _first(self) -> Tensor:
        # the walk of parameters() through the module costs as much as a short step
        for own in self._parameters.values():
            if own is not None:
                return own
        return next(self.parameters())

    def _runner(self) -> tuple[Any, str]:
        own = self._first()
        if self.backend == "reference":
            return run_cell, "reference: backend='reference' was asked for"
        runner, reason = kernels.find(self.cells[0], own.dtype, own.device)
        if runner is None and self.backend == "fused":
            raise ArgumentError(
                f"{type(self).__name__}: backend 'fused' is not available: {reason}; use backend='auto'"
            )
        return (run_cell, f"reference: {reason}") if runner is None else (runner, f"fused: {reason}")

    @property
    def backend_in_use(self) -> str:
        """``"fused: <by what>"`` or ``"reference: <why>"``."""
        runner, words = self._runner()
        own = self._first()
        return words if runner is run_cell else words + kernels.lower_precision(self.cells[0], own.dtype, own.device)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        *,
        lengths: Tensor | list[int] | None = None,
        dt: float | Tensor | None = None,
        sequence: bool = True,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Run whole sequences.

        Args:
            x: ``(T, B, F)``, ``(B, T, F)`` when ``batch_first``, ``(T, F)``, or a ``PackedSequence``.
            state: Initial state ``(num_layers * D, B, H)``, a tuple of them for cells of several states; zero if absent.
            lengths: Length of each sequence of a padded batch; whatever stands in the padding is never seen.
            dt: Step instead of the constructor's: a number, ``(T,)`` or ``(B, T)``; 0 holds the state.
            sequence: ``False`` when only the state after the sequence is of use: the output is ``None`` and is never
                built, which is faster and, in evaluation, needs no memory that grows with T.
            **options: What the cell takes beside (noise).

        Returns:
            The output of the last layer, zero in padding, and the state after each sequence's last valid step.
        """
        sequences, final, packed, batched = self._run(x, state, lengths, dt, options, int(sequence))
        output = self._leave(sequences[0], batched, packed) if sequence else None
        return output, self._leave_state(final, batched)

    def forward_states(self, x: Any, state: Any = None, **options: Any) -> tuple[Any, ...]:
        """Like calling the layer, with the sequences of all states of the top layer before the final state."""
        lengths, dt = options.pop("lengths", None), options.pop("dt", None)
        wanted = len(self.cells[0].states)
        sequences, final, packed, batched = self._run(x, state, lengths, dt, options, wanted)
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

    def _run(self, x: Any, state: Any, lengths: Any, dt: Any, options: dict[str, Any], wanted: int) -> tuple[Any, ...]:
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
        runner, D = self._runner()[0], self.num_directions
        final: list[State] = []
        sequences: State = ()
        for k in range(self.num_layers):
            found = []
            for backward in range(D):
                start = tuple(s[k * D + backward].clone() for s in states)
                # the layers above read one sequence; the top gives what is wanted
                run = partial(runner, wanted=wanted if k + 1 == self.num_layers else 1, memory=self.memory)
                found.append(self._direction(run, k, bool(backward), x, start, lengths, dt, options))
                final.append(found[-1][1])
            sequences = tuple(torch.cat(s, -1) if D == 2 else s[0] for s in zip(*(f[0] for f in found)))
            x = sequences[0] if sequences else x  # (T, B, D*H)
            if self.dropout and k + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return sequences, tuple(torch.stack(s) for s in zip(*final)), packed, batched

    def _direction(
        self, run: Any, k: int, backward: bool, x: Tensor, state: State, lengths: Tensor | None, dt: Any, options: Any
    ) -> tuple[State, State]:
        T, B = x.shape[:2]
        cell = self.cells[k]
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
        sequences, last = run(cell, parameters, x, state, own, extras, active)
        if inside is not None:
            sequences = tuple(
                torch.where(inside, s, torch.zeros((), dtype=s.dtype, device=s.device)) for s in sequences
            )
        return (tuple(reverse(s, lengths) for s in sequences) if backward else sequences), last

    def _check_input(self, x: Tensor, name: str) -> None:
        own = self._first()
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        if x.dtype != own.dtype and not torch.is_autocast_enabled(x.device.type):
            either = f" or layer.to({x.dtype})" if x.is_floating_point() else ""
            raise ArgumentError(
                f"{name}: input has dtype {x.dtype} and the parameters {own.dtype}; convert it, input.to({own.dtype}){either}"
            )

    def _enter_state(self, state: Any, x: Tensor, B: int, batched: bool, name: str) -> State:
        names = self.cells[0].states
        shape = (self.num_layers * self.num_directions, B, self.hidden_size)
        if state is None:
            zeros = torch.zeros(shape, dtype=self._first().dtype, device=x.device)
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


def _of_layer(dt: Any, k: int, num_layers: int, name: str) -> Any:
    if not isinstance(dt, (list, tuple)):
        return dt
    if len(dt) != num_layers:
        raise ArgumentError(f"{name}: dt must be a number or one per layer ({num_layers}), got {len(dt)}")
    return dt[k]
