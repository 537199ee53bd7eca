"""The CPU kernels of the fused operators: tensors to pointers and one call of the native library.

Everything is checked and made contiguous here; the library sees sizes and addresses. ctypes lets other Python threads run
during the call. A short pass takes some microseconds, so what depends on sizes and settings alone is packed once.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...numerics.tableau import tableau
from . import bf16
from .library import load
from .shapes import BLOCK, LIMIT, lem_slots, lipschitz_slots, sequence_shape, stash_shape

PHI = ("tanh", "relu", "sigmoid", "identity", "modrelu")
NOISE = ("none", "sde", "scalar", "released", "given")
SAVE = ("none", "full", "low")
POOLED = 1 << 20  # bytes from which a tensor comes out of the pool: fresh pages cost more than the arithmetic on them

LIPSCHITZ_INPUTS = (
    "x",
    "h0",
    "weight_ih",
    "bias",
    "A",
    "W",
    "inner_bias",
    "dt",
    "active",
    "seeds",
    "additive",
    "factor",
)
LEM_INPUTS = ("x", "y0", "z0", "weight_ih", "bias", "weight_hh", "weight_zy", "dt", "active")
# the structures of the library: how they begin, and how many addresses follow
_LIPSCHITZ, _LEM = struct.Struct("15q23d"), struct.Struct("9qd")
_ADDRESSES = {"lipschitz": struct.Struct("25P"), "lem": struct.Struct("26P")}
_TYPES = {"active": torch.bool, "seeds": torch.int64}
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}

LIBRARY, REASON = load()


def available() -> tuple[bool, str]:
    """Whether the native library is here, and which or why not."""
    return LIBRARY is not None, REASON


def _native() -> ctypes.CDLL:
    if LIBRARY is None:
        raise RuntimeError(f"gyrostat: no fused kernel: {REASON}")
    return LIBRARY


class _Block:
    """Memory of the pool as numpy sees it; goes back to the pool when the last tensor on it is gone."""

    def __init__(self, size: int, shape: tuple[int, ...], code: str) -> None:
        pool = _native()
        self._put: Callable[..., Any] = pool.gy_pool_put
        self._size = size
        self._pointer = pool.gy_pool_get(size)
        if not self._pointer:
            raise MemoryError(f"gyrostat: {size} bytes are not to be had; memory='low' needs far less")
        self.__array_interface__ = {"data": (self._pointer, False), "shape": shape, "typestr": code, "version": 3}

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self._put(self._pointer, self._size)


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    size = like.element_size() * math.prod(shape)
    if size < POOLED:
        return torch.empty(shape, dtype=like.dtype)
    return torch.from_numpy(np.asarray(_Block(size, shape, f"<f{like.element_size()}")))


def _ready(names: Iterable[str], tensors: tuple[Tensor | None, ...], x: Tensor) -> list[Tensor | None]:
    """Contiguous, of one type and on the CPU: the library trusts its pointers."""
    dtype = x.dtype
    for name, t in zip(names, tensors):
        if t is None:
            continue
        wanted = _TYPES.get(name, dtype)
        if t.dtype is not wanted or not t.is_cpu:
            raise ValueError(f"gyrostat: {name} must be {wanted} on the CPU, got {t.dtype}, {t.device}")
    return [t if t is None else t.contiguous() for t in tensors]


def _check(**shapes: tuple[Tensor | None, tuple[int, ...]]) -> None:
    for name, (t, want) in shapes.items():
        if t is not None and t.shape != want:
            raise ValueError(f"gyrostat: {name} must have shape {want}, got {tuple(t.shape)}")


def _sizes(x: Tensor, state: Tensor) -> tuple[int, ...]:
    (T, B, F), H = x.shape, state.shape[1]
    # a team of threads costs some microseconds: not for a few small products
    return T, B, F, H, torch.get_num_threads() if T * B * H * H > 50_000 else 1, BLOCK


def _call(name: str, head: bytes, tensors: list[Tensor | None], x: Tensor, backward: bool, rounded: Any = None) -> None:
    if x.dtype not in _SUFFIX:
        raise ValueError(f"gyrostat: the native kernels compute in float32 and float64, not {x.dtype}")
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    tail = _ADDRESSES[name]
    structure = head + tail.pack(*addresses, *(0,) * (tail.size // 8 - len(addresses)))
    if rounded is not None:
        code = rounded(structure)
    else:
        code = getattr(_native(), f"gy_{name}_{_SUFFIX[x.dtype]}")(structure, int(backward))
    if code:
        raise MemoryError("gyrostat: the native kernel could not get its memory; memory='low' needs far less")


@functools.lru_cache
def _lipschitz_head(
    sizes: tuple[int, ...], by_row: bool, step: float, phi: str, gated: bool, residual: bool, solver: str, noise: str,
    sigma_a: float, sigma_m: float, wanted: int, save: str, learns_dt: bool,
) -> bytes:  # fmt: skip
    scheme = tableau(solver)
    words = wanted, SAVE.index(save), scheme.stages, PHI.index(phi), gated, residual, NOISE.index(noise)
    a = [float(v) for k in range(4) for v in (*(scheme.a[k] if k < scheme.stages else ()), *(0,) * 4)[:4]]
    b = [float(v) for v in (*scheme.b, *(0,) * 4)[:4]]
    return _LIPSCHITZ.pack(*sizes, *words, by_row, learns_dt, step, sigma_a, sigma_m, *a, *b)


def lipschitz(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lipschitz``."""
    inputs = _ready(LIPSCHITZ_INPUTS, arguments[:12], arguments[0])
    x, h0, weight_ih, _, A, W, _, dt = inputs[:8]
    assert x is not None
    assert h0 is not None
    options = arguments[12:]
    gated, residual, solver = options[2:5]
    wanted, save, learns_dt = options[8:]
    sizes = _sizes(x, h0)
    B, F, H = sizes[1:4]
    _check(h0=(h0, (B, H)), weight_ih=(weight_ih, ((1 + gated) * H, F)), A=(A, (H, H)), W=(W, (H, H)))
    slots = lipschitz_slots(A is not None, gated, tableau(solver).stages, wanted, learns_dt)
    sequence = _empty(sequence_shape(wanted > 0, x, h0), x)
    stash = _empty(stash_shape(save, slots, 1, x, h0), x)
    last = torch.empty_like(h0)
    head = _lipschitz_head(sizes, dt is not None and dt.ndim == 2, *options)
    # a pass that keeps nothing is one that nobody differentiates
    rounded = bf16.function("lipschitz", x.dtype) if save == "none" and residual else None
    _call("lipschitz", head, [*inputs, last, sequence, stash], x, False, rounded)
    return last, sequence, stash


def _gradients(inputs: list[Tensor | None], needs: list[bool], x: Tensor) -> list[Tensor | None]:
    # a sum over nothing is zero, and nothing is what the library visits when B or T is 0
    empty = x.shape[0] == 0 or x.shape[1] == 0
    found = [t if need else None for t, need in zip(inputs, needs)]
    if empty:
        return [t if t is None else torch.zeros_like(t) for t in found]
    return [t if t is None else torch.empty_like(t) if t.nbytes < POOLED else _empty(t.shape, t) for t in found]


def lipschitz_backward(grad_last: Tensor | None, grad_sequence: Tensor | None, *arguments: Any) -> list[Tensor | None]:
    """Kernel of ``gyrostat::lipschitz_backward``; ``None`` where no gradient is needed."""
    inputs = _ready(LIPSCHITZ_INPUTS, arguments[:12], arguments[0])
    x, h0, dt = arguments[0], arguments[1], arguments[7]
    sequence, stash, *options, needs = arguments[12:]
    if options[-2] == "none" and x.shape[0]:
        options[-2] = "full" if sequence.numel() * 8 < LIMIT else "low"
        _, sequence, stash = lipschitz(*arguments[:12], *options)
    given = _ready(("grad_last", "grad_sequence"), (grad_last, grad_sequence), x)
    gradients = _gradients(inputs[:8], needs, x)
    head = _lipschitz_head(_sizes(x, h0), dt is not None and dt.ndim == 2, *options)
    _call("lipschitz", head, [*inputs, None, sequence, stash, *given, *gradients], x, True)
    return gradients


@functools.lru_cache
def _lem_head(sizes: tuple[int, ...], by_row: bool, step: float, wanted: int, save: str) -> bytes:
    return _LEM.pack(*sizes, wanted, SAVE.index(save), by_row, step)


def lem(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lem``."""
    inputs = _ready(LEM_INPUTS, arguments[:9], arguments[0])
    x, y0, z0, weight_ih, _, weight_hh, weight_zy, dt, _ = inputs
    assert x is not None
    assert y0 is not None
    assert z0 is not None
    _, wanted, save = options = arguments[9:]
    sizes = _sizes(x, y0)
    B, F, H = sizes[1:4]
    _check(y0=(y0, (B, H)), z0=(z0, (B, H)), weight_ih=(weight_ih, (4 * H, F)), weight_hh=(weight_hh, (3 * H, H)),
           weight_zy=(weight_zy, (H, H)))  # fmt: skip
    ys, zs = (_empty(sequence_shape(wanted > k, x, y0), x) for k in range(2))
    stash = _empty(stash_shape(save, lem_slots(wanted), 2, x, y0), x)
    y, z = torch.empty_like(y0), torch.empty_like(z0)
    head = _lem_head(sizes, dt is not None and dt.ndim == 2, *options)
    rounded = bf16.function("lem", x.dtype) if save == "none" else None
    _call("lem", head, [*inputs, y, z, ys, zs, stash], x, False, rounded)
    return y, z, ys, zs, stash


def lem_backward(*arguments: Any) -> list[Tensor | None]:
    """Kernel of ``gyrostat::lem_backward``; ``None`` where no gradient is needed."""
    given, arguments = arguments[:4], arguments[4:]
    inputs = _ready(LEM_INPUTS, arguments[:9], arguments[0])
    x, y0, dt = arguments[0], arguments[1], arguments[7]
    ys, zs, stash, *options, needs = arguments[9:]
    if options[-1] == "none" and x.shape[0]:
        options[-1] = "full" if x.shape[0] * y0.numel() * 48 < LIMIT else "low"
        _, _, ys, zs, stash = lem(*arguments[:9], *options)
    grads = _ready(("grad_y", "grad_z", "grad_ys", "grad_zs"), given, x)
    gradients = _gradients(inputs[:8], needs, x)
    head = _lem_head(_sizes(x, y0), dt is not None and dt.ndim == 2, *options)
    _call("lem", head, [*inputs, None, None, ys, zs, stash, *grads, *gradients], x, True)
    return gradients
