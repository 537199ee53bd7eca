"""The conformance suite of recurrent cells: what every layer promises, as checks that anybody can run.

    check_cell("my_cell")      raises AssertionError with the promise that is broken, or returns the names of the checks

Source: the behaviour of ``torch.nn.LSTM`` and the contract of ``gyrostat.recurrent.layer``.
Differs from the released code: there was no suite.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..recurrent.layer import Recurrent

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
T, B, F, H = 6, 4, 3, 5
LENGTHS = [6, 3, 1, 5]
Make = Callable[..., Recurrent]


def _states(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _same(ours: Any, theirs: Any, what: str, **tolerance: Any) -> None:
    for a, b in zip(_states(ours), _states(theirs), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda m: f"{what}: {m}")


def shapes(make: Make) -> None:
    """Output and state have the shapes of ``torch.nn.LSTM``."""
    for layers, both in ((1, False), (2, False), (2, True)):
        layer = make(num_layers=layers, bidirectional=both)
        D = 2 if both else 1
        output, state = layer(_x(T, B, F))
        assert output.shape == (T, B, D * H), f"output is {tuple(output.shape)}"
        assert all(s.shape == (layers * D, B, H) for s in _states(state)), "a state has the wrong shape"


def batch_first_and_unbatched(make: Make) -> None:
    """``batch_first`` transposes input and output and nothing else; one sequence alone equals a batch of one."""
    plain, first = make(), make(batch_first=True)
    x = _x(T, B, F)
    output, state = plain(x)
    turned, same = first(x.transpose(0, 1))
    _same(turned.transpose(0, 1), output, "batch_first", **EXACT)
    _same(same, state, "batch_first state", **EXACT)
    alone, own = plain(x[:, 1])
    batch, wide = plain(x[:, 1:2])
    _same(alone, batch[:, 0], "unbatched", **EXACT)
    _same(own, tuple(s[:, 0] for s in _states(wide)), "unbatched state", **EXACT)


def stepping(make: Make) -> None:
    """Steps, chunks and the whole pass agree bit for bit."""
    layer, x = make(num_layers=2), _x(T, B, F)
    whole, final = layer(x)
    state, steps = None, []
    for x_t in x:
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    _same(torch.stack(steps), whole, "step by step", **EXACT)
    _same(state, final, "state after steps", **EXACT)
    first, middle = layer(x[:2])
    second, last = layer(x[2:], middle)
    _same(torch.cat([first, second]), whole, "in chunks", **EXACT)
    _same(last, final, "state after chunks", **EXACT)


def padding(make: Make) -> None:
    """NaN in padding changes neither values nor gradients, bit for bit."""

    def run(fill: float) -> list[Tensor]:
        layer = make(num_layers=2, bidirectional=True)
        x = _x(T, B, F)
        for b, n in enumerate(LENGTHS):
            x[n:, b] = fill
        x.requires_grad_()
        output, state = layer(x, lengths=LENGTHS)
        (output.square().sum() + sum(s.square().sum() for s in _states(state))).backward()
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        return [output, *_states(state), *grads, x.grad]  # pyright: ignore[reportReturnType]

    for a, b in zip(run(0.0), run(float("nan")), strict=True):
        assert torch.equal(a, b), "padding reached a value or a gradient"


def lengths_packed_alone(make: Make) -> None:
    """``lengths=``, a PackedSequence (sorted or not) and each sequence alone agree."""
    for both in (False, True):
        layer, x = make(num_layers=2, bidirectional=both), _x(T, B, F)
        output, state = layer(x, lengths=LENGTHS)
        packed_out, packed_state = layer(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False))
        _same(pad_packed_sequence(packed_out)[0], output, "PackedSequence", **CLOSE)
        _same(packed_state, state, "PackedSequence state", **CLOSE)
        order = sorted(range(B), key=lambda b: -LENGTHS[b])
        ordered = pack_padded_sequence(x[:, order], torch.tensor([LENGTHS[b] for b in order]))
        _, sorted_state = layer(ordered)
        _same(sorted_state, tuple(s[:, order] for s in _states(state)), "sorted PackedSequence", **CLOSE)
        for b, n in enumerate(LENGTHS):
            alone, own = layer(x[:n, b])
            _same(alone, output[:n, b], f"sequence {b} alone", **CLOSE)
            _same(own, tuple(s[:, b] for s in _states(state)), f"state of sequence {b} alone", **CLOSE)


def batch_mates(make: Make) -> None:
    """A row does not depend on who shares the batch."""
    layer, x = make(bidirectional=True), _x(T, B, F)
    output, _ = layer(x)
    order = [2, 0, 3, 1]
    _same(layer(x[:, order])[0], output[:, order], "order of the batch", **CLOSE)


def empty(make: Make) -> None:
    """B = 0 and T = 0 work; T = 0 returns the given state."""
    layer = make(num_layers=2)
    assert layer(_x(T, 0, F))[0].shape == (T, 0, H)
    given = tuple(torch.ones(2, B, H, dtype=torch.float64) for _ in layer.cells[0].states)
    output, state = layer(_x(0, B, F), given if len(given) > 1 else next(iter(given)))
    assert output.shape == (0, B, H)
    _same(state, given, "T = 0 keeps the state", **EXACT)


def steps_of_time(make: Make) -> None:
    """Equal steps given as ``(T,)`` or ``(B, T)`` equal the number; a step of 0 holds the state; bad steps are refused."""
    layer, x = make(), _x(T, B, F)
    if not layer.cells[0].time_step:
        return
    whole, _ = layer(x, dt=0.25)
    _same(layer(x, dt=torch.full((T,), 0.25))[0], whole, "dt (T,)", **CLOSE)
    _same(layer(x, dt=torch.full((B, T), 0.25))[0], whole, "dt (B, T)", **CLOSE)
    dt = torch.full((B, T), 0.25)
    dt[1, 3:] = 0
    output, state = layer(x, dt=dt)
    first = _states(state)[0]
    _same(first[0, 1], output[2, 1], "dt = 0 holds the state", **EXACT)
    for bad in (float("nan"), -1.0):
        broken = dt.clone()
        broken[2, 1] = bad
        message = ""
        try:
            layer(x, dt=broken)
        except ValueError as error:
            message = str(error)
        assert "row 2" in message, f"dt = {bad} must be refused with its row, got {message!r}"


def errors(make: Make) -> None:
    """Wrong input raises the classes of ``torch.nn.LSTM``."""
    layer = make()
    cases: list[tuple[type[Exception], Callable[[], Any]]] = [
        (ValueError, lambda: layer(_x(2, 2, 2, F))),
        (RuntimeError, lambda: layer(_x(T, B, F + 1))),
        (ValueError, lambda: layer(_x(T, B, F).float())),
        (RuntimeError, lambda: layer(_x(T, B, F), tuple(_x(1, B, H + 1) for _ in layer.cells[0].states))),
        (RuntimeError, lambda: layer(_x(T, B, F), lengths=[1, 2])),
        (ValueError, lambda: layer(_x(T, B, F), lengths=[1, 2, 3, T + 1])),
        (ValueError, lambda: make(hidden_size=0)),
        (ValueError, lambda: make(num_layers=0)),
        (ValueError, lambda: make(dropout=1.5)),
    ]
    for number, (kind, call) in enumerate(cases):
        try:
            call()
        except kind:
            continue
        raise AssertionError(f"wrong input number {number} did not raise {kind.__name__}")


def copies(make: Make) -> None:
    """A deepcopy after a pass, a state-dict round trip, and keys that end in the layer's number."""
    layer, x = make(num_layers=2, bidirectional=True), _x(T, B, F)
    output, _ = layer(x)
    _same(copy.deepcopy(layer)(x)[0], output, "deepcopy", **EXACT)
    other = make(num_layers=2, bidirectional=True)
    other.load_state_dict(layer.state_dict())
    _same(other(x)[0], output, "state_dict", **EXACT)
    for key in layer.state_dict():
        assert key.endswith(("_l0", "_l1", "_l0_reverse", "_l1_reverse")), f"state-dict key {key}"


def types_and_devices(make: Make) -> None:
    """bfloat16 runs, autocast leaves the state in the layer's own type, and the meta device knows the shapes."""
    x = _x(T, B, F)
    half = make(dtype=torch.bfloat16)
    output, state = half(x.bfloat16())
    assert output.dtype == torch.bfloat16, "bfloat16 input must give bfloat16 output"
    assert output.isfinite().all(), "bfloat16"
    full = make(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = full(x.float())
    assert all(s.dtype == torch.float32 for s in _states(state)), "autocast must leave the state in float32"
    meta = make(device="meta", num_layers=2, bidirectional=True)
    output, _ = meta(x.to("meta"))
    assert output.device.type == "meta", "meta device"
    assert output.shape == (T, B, 2 * H), "shape on the meta device"
    # the way out of the meta device: memory, then a fresh draw
    empty = meta.to_empty(device="cpu")
    empty.reset_parameters(torch.Generator().manual_seed(0))
    assert empty(x)[0].isfinite().all(), "a layer made on the meta device must work after to_empty and reset_parameters"


def every_parameter_learns(make: Make) -> None:
    """Each parameter gets a gradient, so that distributed training finds none unused."""
    layer = make(num_layers=2, bidirectional=True)
    layer(_x(T, B, F))[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"


def gradients(make: Make) -> None:
    """First derivatives, in both modes, and second derivatives agree with finite differences."""
    layer = make(input_size=2, hidden_size=2)
    x = _x(2, 1, 2).requires_grad_()
    run = lambda v: layer(v)[0]  # noqa: E731
    assert torch.autograd.gradcheck(run, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (x,))


def vectorised(make: Make) -> None:
    """``torch.func.vmap`` over a batch of batches."""
    layer, x = make(), _x(2, T, B, F)
    stacked = torch.func.vmap(lambda v: layer(v)[0])(x)
    _same(stacked, torch.stack([layer(v)[0] for v in x]), "vmap", **CLOSE)


CHECKS: tuple[Callable[[Make], None], ...] = (
    shapes, batch_first_and_unbatched, stepping, padding, lengths_packed_alone, batch_mates, empty, steps_of_time,
    errors, copies, types_and_devices, every_parameter_learns, gradients, vectorised,
)  # fmt: skip


def check_cell(
    name: str, *, seed: int = 0, checks: tuple[Callable[[Make], None], ...] = CHECKS, **options: Any
) -> list[str]:
    """Hold a registered cell to the contract of the layers.

    Args:
        name: Registry name of the cell.
        seed: Seed of the weights.
        checks: A subset of ``CHECKS``.
        **options: Options of the cell.

    Returns:
        The names of the checks that passed: all of them.

    Raises:
        AssertionError: A promise is broken; the message says which.

    Example:
        >>> from gyrostat.testing.cells import shapes
        >>> check_cell("lem", checks=(shapes,))
        ['shapes']
    """

    def make(input_size: int = F, hidden_size: int = H, **sizes: Any) -> Recurrent:
        sizes = {"dtype": torch.float64, **sizes}
        layer = Recurrent(input_size, hidden_size, cell=name, **sizes, **options)
        if sizes.get("device") != "meta":
            layer.reset_parameters(torch.Generator().manual_seed(seed))
        return layer.eval()

    passed = []
    for check in checks:
        check(make)
        passed.append(check.__name__)
    return passed
