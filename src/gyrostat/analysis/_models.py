"""The one place that guesses what a model is: anything with ``step`` is a recurrence, anything callable has outputs.

This folder does not import the layers; it asks an object for ``step``, ``cells``, ``parameters_of``, ``batch_first``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ArgumentError, ArgumentTypeError

Flat = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Recurrence:
    """One step on flat states: ``step(x_t (B, F), h (B, S)) -> (B, S)``."""

    step: Flat
    size: int
    dt: float | None
    batch_first: bool


def recurrent_layers(model: Any) -> list[tuple[str, nn.Module]]:
    """Outermost submodules with a ``step`` method, by name; the model itself first when it is one."""
    if not isinstance(model, nn.Module):
        return []
    if callable(getattr(model, "step", None)):
        return [("", model)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_modules():
        if callable(getattr(child, "step", None)) and not any(name.startswith(f"{outer}.") for outer, _ in found):
            found.append((name, child))
    return found


def the_recurrence(model: Any, where: str) -> nn.Module:
    """The only recurrent layer of a model."""
    found = recurrent_layers(model)
    if not found:
        raise ArgumentTypeError(
            f"{where}: model has no recurrence: {type(model).__name__} and its parts have no method step(x_t, state); "
            "pass a recurrent layer, a model that holds one, or a function step(x_t, state)"
        )
    if len(found) > 1:
        names = ", ".join(repr(name) for name, _ in found)
        raise ArgumentError(f"{where}: model has {len(found)} recurrent layers ({names}); pass one of them")
    return found[0][1]


def recurrence(model: Any, x: Tensor, state: Any, where: str) -> tuple[Recurrence, Tensor]:
    """The step on flat states and the initial flat state ``(B, S)``, for time-first ``x (T, B, F)``."""
    B = x.shape[1]
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise ArgumentTypeError(f"{where}: model must be a module or a function step(x_t, state), got {model!r}")
        if state is None:
            raise ArgumentError(f"{where}: state must be given with a function step(x_t, state): its size is not known")
        start = state.expand(B, -1) if state.ndim == 1 else state
        function: Any = model

        def plain(x_t: Tensor, h: Tensor) -> Tensor:
            out = function(x_t, h)
            return out[-1] if isinstance(out, tuple) else out

        return Recurrence(plain, start.shape[1], None, False), start
    layer: Any = the_recurrence(model, where)
    if getattr(layer, "bidirectional", False):
        raise ArgumentError(f"{where}: model is bidirectional: its states have no order in time; use one direction")
    with torch.no_grad():
        try:
            probe = layer.step(x[0], state)[1]
        except (RuntimeError, ValueError) as error:
            raise ArgumentError(f"{where}: x does not fit the model: {error}") from error
    parts = probe if isinstance(probe, tuple) else (probe,)
    shapes = [(p.shape[0], p.shape[2]) for p in parts]  # (L, H) each
    sizes = [L * H for L, H in shapes]

    def pack(state: Any) -> Tensor:
        parts = state if isinstance(state, tuple) else (state,)
        return torch.cat([p.transpose(0, 1).flatten(1) for p in parts], 1)  # (B, S)

    def unpack(h: Tensor) -> Any:
        pieces = h.split(sizes, 1)
        whole = tuple(p.unflatten(1, shape).transpose(0, 1).contiguous() for p, shape in zip(pieces, shapes))
        return whole if isinstance(probe, tuple) else whole[0]

    def step(x_t: Tensor, h: Tensor) -> Tensor:
        return pack(layer.step(x_t, unpack(h))[1])

    start = torch.zeros_like(pack(probe)) if state is None else pack(state)
    return Recurrence(step, sum(sizes), step_size(layer), bool(getattr(layer, "batch_first", False))), start


def step_size(layer: Any) -> float | None:
    """The scalar step of a layer, or None where there is none or it is learned per unit."""
    for owner in (layer, *getattr(layer, "cells", ())[:1]):
        dt = getattr(owner, "dt", None)
        if getattr(owner, "learn_dt", False):
            return None
        if isinstance(dt, (int, float)) and getattr(owner, "time_step", True):
            return float(dt)
    return None


def time_first(model: Any, x: Tensor, where: str) -> tuple[Tensor, bool]:
    """``x`` as ``(T, B, F)`` and whether it came with a batch."""
    if not isinstance(x, Tensor) or x.ndim not in (2, 3):
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(
            f"{where}: x must be a tensor (T, F), (T, B, F) or, for batch_first, (B, T, F); got {shape}"
        )
    if x.ndim == 2:
        return x[:, None], False
    found = recurrent_layers(model)
    first = bool(found and getattr(found[0][1], "batch_first", False))
    return (x.transpose(0, 1) if first else x), True


def outputs(model: Any, x: Tensor) -> Tensor:
    """Outputs ``(B, K)`` of a model: a tensor, or the first of a tuple; of a sequence the last step."""
    out = model(x)
    while isinstance(out, (tuple, list)):
        out = out[0]
    if out.ndim == 3:
        found = recurrent_layers(model)
        batch_first = not found or bool(getattr(found[0][1], "batch_first", False))
        out = out[:, -1] if batch_first else out[-1]
    return out.flatten(1) if out.ndim > 1 else out[:, None]


def drift(model: Any, where: str) -> Callable[[Tensor, Tensor], Tensor]:
    """``f(h, x)`` of ``h' = f(h, x)``: a function as it is, or the drift of a one-layer Lipschitz or Noisy RNN."""
    if not isinstance(model, nn.Module):
        function: Any = model
        if callable(model):
            return function
        raise ArgumentTypeError(f"{where}: model must be a layer with a drift, or a function f(h, x), got {model!r}")
    layer: Any = the_recurrence(model, where)
    cells = getattr(layer, "cells", [])
    if len(cells) != 1 or not hasattr(cells[0], "drift"):
        raise ArgumentTypeError(
            f"{where}: model must be a single layer whose cell has a drift (LipschitzRNN, NoisyRNN), or a function f(h, x)"
        )
    parameters = layer.parameters_of(0)
    weights = cells[0].prepare(parameters, cells[0].step_size(parameters))
    return lambda h, x: cells[0].drift(weights, x)(h)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode and plain kernels, for as long as the block lasts; every module gets its own mode back."""
    modules: list[Any] = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [m.training for m in modules]
    backends = [(m, m.backend) for m in modules if isinstance(getattr(m, "backend", None), str)]
    for m in modules:
        m.training = False
    for m, _ in backends:
        m.backend = "reference"
    try:
        # cuDNN's recurrences have no second derivative
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        for m, mode in zip(modules, modes):
            m.training = mode
        for m, name in backends:
            m.backend = name
