"""The fused operators as ``torch.library`` operators: schema, shapes, autograd. Devices register their kernels for them.

``gyrostat::lipschitz`` is every cell with one state,

    h⁺ = h + dt f  (or f alone),      f = (A h + φ(W h + u)) ⊙ σ̂(W h + v),      u, v = U x + b

with or without A, gate, noise and the stages of a Runge-Kutta scheme; ``gyrostat::lem`` is the cell with two. Sequences
have shape (T, B, H); ``stash`` is what the backward pass reads: everything (``save="full"``), the state every few steps
(``"low"``), or nothing (``"none"``), when it runs the forward pass again. A backward pass that is itself differentiated, or
transformed by ``torch.func``, is the derivative of the plain ``twin``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...numerics.tableau import tableau
from . import gpu, native, twin
from .shapes import LIMIT, lem_slots, lipschitz_slots, sequence_shape, stash_shape

_TENSORS = {
    "lipschitz": "Tensor weight_ih, Tensor? bias, Tensor? A, Tensor W, Tensor? inner_bias, Tensor? dt, Tensor? active, "
    "Tensor? seeds, Tensor? additive, Tensor? factor",
    "lem": "Tensor weight_ih, Tensor? bias, Tensor weight_hh, Tensor weight_zy, Tensor? dt, Tensor? active",
}
_OPTIONS = {
    "lipschitz": "float step, str phi, bool gated, bool residual, str solver, str noise, float sigma_a, float sigma_m, "
    "int wanted, str save, bool learns_dt",
    "lem": "float step, int wanted, str save",
}
_LIB = torch.library.Library("gyrostat", "DEF")
_LIB.define(
    f"lipschitz(Tensor x, Tensor h0, {_TENSORS['lipschitz']}, {_OPTIONS['lipschitz']}) -> (Tensor, Tensor, Tensor)"
)
_LIB.define(
    f"lipschitz_backward(Tensor? grad_last, Tensor? grad_sequence, Tensor x, Tensor h0, {_TENSORS['lipschitz']}, "
    f"Tensor sequence, Tensor stash, {_OPTIONS['lipschitz']}, bool[] needs) -> Tensor[]"
)
_LIB.define(
    f"lem(Tensor x, Tensor y0, Tensor z0, {_TENSORS['lem']}, {_OPTIONS['lem']}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIB.define(
    "lem_backward(Tensor? grad_y, Tensor? grad_z, Tensor? grad_ys, Tensor? grad_zs, Tensor x, Tensor y0, Tensor z0, "
    f"{_TENSORS['lem']}, Tensor ys, Tensor zs, Tensor stash, {_OPTIONS['lem']}, bool[] needs) -> Tensor[]"
)


def lipschitz(
    x: Tensor, h0: Tensor, *, weight_ih: Tensor, W: Tensor, bias: Tensor | None = None, A: Tensor | None = None,
    inner_bias: Tensor | None = None, dt: Tensor | None = None, active: Tensor | None = None, seeds: Tensor | None = None,
    additive: Tensor | None = None, factor: Tensor | None = None, step: float = 1.0, phi: str = "tanh",
    gated: bool = False, residual: bool = True, solver: str = "euler", noise: str = "none", sigma_a: float = 0.0,
    sigma_m: float = 0.0, wanted: int = 1, memory: str = "auto", learns: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All steps of a cell with one state: the last state, the sequence (empty unless ``wanted``), the stash.

    Args:
        x: Input ``(T, B, F)``.
        h0: Initial state ``(B, H)``.
        weight_ih: U ``(H, F)``, with the gate's below it ``(2H, F)``.
        W: Recurrent matrix, column convention.
        bias: One per row of ``weight_ih``.
        A: Linear part, or none.
        inner_bias: Bias ``(H,)`` inside ``phi="modrelu"``.
        dt: Steps ``(H,)`` or ``(T, B)`` instead of ``step``.
        active: ``(T, B)``; where false the state is held.
        seeds: Seeds ``(T,)`` of the noise.
        additive: Given noise ``(T, B, H)``.
        factor: Given factor of the drift ``(T, B, H)``.
        step: One step for all.
        phi: ``tanh relu sigmoid identity modrelu``.
        gated: Multiply by the gate.
        residual: ``h + dt f`` rather than ``f``.
        solver: An explicit Runge-Kutta scheme.
        noise: ``none``, ``sde``, ``scalar`` (one Brownian motion for a row), ``released`` or ``given``.
        sigma_a: Additive noise.
        sigma_m: Multiplicative noise.
        wanted: 1 for the sequence, 0 for the last state alone.
        memory: ``full``, ``low`` or ``auto``.
        learns: Whether a backward pass will follow.
    """
    learns_dt = learns and dt is not None and dt.requires_grad
    slots = lipschitz_slots(A is not None, gated, tableau(solver).stages, wanted, learns_dt)
    save = _save(memory, learns, slots, x, h0)
    tensors = (x, h0, weight_ih, bias, A, W, inner_bias, dt, active, seeds, additive, factor)
    options = (step, phi, gated, residual, solver, noise, sigma_a, sigma_m, wanted, save, learns_dt)
    return _run("lipschitz", tensors, options)


def lem(
    x: Tensor, y0: Tensor, z0: Tensor, *, weight_ih: Tensor, bias: Tensor | None, weight_hh: Tensor, weight_zy: Tensor,
    dt: Tensor | None = None, active: Tensor | None = None, step: float = 1.0, wanted: int = 2, memory: str = "auto",
    learns: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """All steps of LEM: last y and z, their sequences (those beyond ``wanted`` are empty), the stash.

    ``weight_ih (4H, F)`` and its ``bias`` have the rows V₂ V₁ V_y V_z, ``weight_hh (3H, H)`` W₂ W₁ W_z; the rest is as in
    ``lipschitz``.
    """
    save = _save(memory, learns, lem_slots(wanted), x, y0)
    return _run("lem", (x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt, active), (step, wanted, save))


def _run(name: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> Any:
    """One operator: its kernel at once where nothing watches, because a short pass takes less time than the dispatcher."""
    if _plain(tensors):
        return _DIRECT[name].apply(*tensors, options)
    return getattr(torch.ops.gyrostat, name)(*tensors, *options)


def _plain(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether this is eager mode, with ordinary tensors of the CPU: no wrapper, no subclass, no lazy negation."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state():
        return False
    return all(t is None or (type(t) in _TYPES and torch._C._dispatch_keys(t).raw_repr() in _KEYS) for t in tensors)


def _save(memory: str, learns: bool, slots: int, x: Tensor, state: Tensor) -> str:
    if not learns:
        return "none"
    if memory == "auto":
        size = slots * x.shape[0] * state.numel() * state.element_size()
        return "low" if size > LIMIT else "full"
    return memory


@torch.library.register_fake("gyrostat::lipschitz")
def _(x, h0, weight_ih, bias, A, W, inner_bias, dt, active, seeds, additive, factor, step, phi, gated, residual, solver,
      noise, sigma_a, sigma_m, wanted, save, learns_dt):  # fmt: skip
    slots = lipschitz_slots(A is not None, gated, tableau(solver).stages, wanted, learns_dt)
    sequence = h0.new_empty(sequence_shape(wanted > 0, x, h0))
    return torch.empty_like(h0), sequence, h0.new_empty(stash_shape(save, slots, 1, x, h0))


@torch.library.register_fake("gyrostat::lem")
def _(x, y0, z0, weight_ih, bias, weight_hh, weight_zy, dt, active, step, wanted, save):
    ys, zs = (y0.new_empty(sequence_shape(wanted > k, x, y0)) for k in range(2))
    stash = y0.new_empty(stash_shape(save, lem_slots(wanted), 2, x, y0))
    return torch.empty_like(y0), torch.empty_like(z0), ys, zs, stash


# the first eight inputs are differentiated: x h0 weight_ih bias A W inner_bias dt, and x y0 z0 weight_ih bias weight_hh
# weight_zy dt
def _fake_gradients(inputs: tuple[Any, ...], needs: list[bool]) -> list[Tensor]:
    return [torch.empty_like(i) if n else inputs[0].new_empty(0) for i, n in zip(inputs, needs, strict=True)]


@torch.library.register_fake("gyrostat::lipschitz_backward")
def _(grad_last, grad_sequence, *rest):
    return _fake_gradients(rest[:8], rest[-1])


@torch.library.register_fake("gyrostat::lem_backward")
def _(grad_y, grad_z, grad_ys, grad_zs, *rest):
    return _fake_gradients(rest[:8], rest[-1])


def _keep(n_tensors: int, kept: slice) -> Any:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.options = inputs[n_tensors:]
        ctx.save_for_backward(*inputs[:n_tensors], *output[kept])

    return setup


def _backward(name: str, n_tensors: int, n_states: int, kernel: Any = None) -> Any:
    """The backward pass by the operator, or by ``kernel`` at once, whose forward pass had plain tensors."""
    operator, reference = getattr(torch.ops.gyrostat, f"{name}_backward"), getattr(twin, name)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved, given = ctx.saved_tensors, grads[: 2 * n_states]
        needs = [bool(n) for n in ctx.needs_input_grad[:8]]
        nothing = (None,) * (len(ctx.needs_input_grad) - 8)
        if all(g is None for g in given) or not any(needs):
            return (None,) * len(ctx.needs_input_grad)
        direct = kernel is not None and _plain(given)
        if torch.is_grad_enabled() or (not direct and _transformed(given)):
            found = twin.gradients(reference, saved[:n_tensors], ctx.options, given, needs)
        else:
            run: Any = kernel if direct else operator
            found = run(*(g if g is None else g.contiguous() for g in given), *saved, *ctx.options, needs)
        return (*(g if n else None for g, n in zip(found, needs)), *nothing)

    return backward


def _transformed(tensors: tuple[Tensor | None, ...]) -> bool:
    # torch.func wraps; is_grads_batched still uses the older batching
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    batched = torch._C._dispatch_key_parse("Batched")
    return any(t is not None and (is_wrapped(t) or torch._C._dispatch_keys(t).has(batched)) for t in tensors)


def _direct(name: str, n_tensors: int, n_states: int, keep: Any) -> type[torch.autograd.Function]:
    """The operator as a function of autograd alone, the settings in one tuple."""
    kernel = getattr(native, name)

    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, options = inputs
        output = kernel(*tensors, *options)
        keep(ctx, (*tensors, *options), output)
        return output

    backward = _backward(name, n_tensors, n_states, getattr(native, f"{name}_backward"))
    functions = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), functions)


def _all_gradients(kernel: Any, n_given: int) -> Any:
    # an operator cannot answer with gradients that are not there
    return lambda *arguments: [arguments[n_given].new_empty(0) if g is None else g for g in kernel(*arguments)]


_TYPES = (Tensor, torch.nn.Parameter)
_KEYS, _DIRECT = set(), {}
for _inference in (True, False):
    with torch.inference_mode(_inference):
        _KEYS.add(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())

for _name, _n, _states in (("lipschitz", 12, 1), ("lem", 9, 2)):
    _setup = _keep(_n, slice(_states, 2 * _states + 1))
    torch.library.register_autograd(f"gyrostat::{_name}", _backward(_name, _n, _states), setup_context=_setup)
    _DIRECT[_name] = _direct(_name, _n, _states, _setup)
    _LIB.impl(_name, getattr(native, _name), "CPU")
    _LIB.impl(f"{_name}_backward", _all_gradients(getattr(native, f"{_name}_backward"), 2 * _states), "CPU")
    for _kernel in (_name, f"{_name}_backward"):
        _LIB.impl(_kernel, gpu.kernel(_kernel), "CUDA")
