"""The CPU kernels of the fused operators: tensors to pointers and one call of the native library.

Everything is checked and made contiguous here; the library sees sizes and addresses. ctypes lets other Python threads run
during the call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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


def _structure(name: str, integers: str, numbers: str, pointers: str) -> type[ctypes.Structure]:
    fields = [(n, ctypes.c_int64) for n in integers.split()] + [(n, ctypes.c_double) for n in numbers.split()]
    fields += [("a", ctypes.c_double * 16), ("b", ctypes.c_double * 4)] if name == "Lipschitz" else []
    return type(name, (ctypes.Structure,), {"_fields_": [*fields, *((n, ctypes.c_void_p) for n in pointers.split())]})


_Lipschitz = _structure(
    "Lipschitz",
    "T B F H threads block wanted save stages phi gated residual noise dt_rows learns_dt",
    "step sigma_a sigma_m",
    "x h0 weight_ih bias A W inner_bias dt active seeds additive factor last sequence stash "
    "grad_last grad_sequence dx dh0 dweight_ih dbias dA dW dinner_bias ddt",
)
_Lem = _structure(
    "Lem",
    "T B F H threads block wanted save dt_rows",
    "step",
    "x y0 z0 weight_ih bias weight_hh weight_zy dt active y z ys zs stash "
    "grad_y grad_z grad_ys grad_zs dx dy0 dz0 dweight_ih dbias dweight_hh dweight_zy ddt",
)


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
    size = like.element_size()
    for n in shape:
        size *= n
    if size < POOLED:
        return like.new_empty(shape)
    return torch.from_numpy(np.asarray(_Block(size, shape, f"<f{like.element_size()}")))


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None or t.numel() == 0 else t.data_ptr()


def _ready(values: dict[str, Tensor | None], like: Tensor) -> dict[str, Tensor | None]:
    """Contiguous, of one type and on the CPU: the library trusts its pointers."""
    found: dict[str, Tensor | None] = {}
    for name, t in values.items():
        if t is not None:
            integer = {"active": torch.bool, "seeds": torch.int64}.get(name)
            if t.device.type != "cpu" or t.dtype != (integer or like.dtype):
                raise ValueError(
                    f"gyrostat: {name} must be {integer or like.dtype} on the CPU, got {t.dtype}, {t.device}"
                )
            t = t.contiguous()
        found[name] = t
    return found


def _sizes(
    x: Tensor, state: Tensor, weight_ih: Tensor, rows: int, square: dict[str, tuple[Tensor | None, int]]
) -> dict:
    T, B, F = x.shape
    H = state.shape[1]
    shapes = {"state": (state, (B, H)), "weight_ih": (weight_ih, (rows * H, F))}
    shapes |= {name: (t, (n * H, H)) for name, (t, n) in square.items() if t is not None}
    for name, (t, want) in shapes.items():
        if tuple(t.shape) != want:
            raise ValueError(f"gyrostat: {name} must have shape {want}, got {tuple(t.shape)}")
    # a team of threads costs some microseconds: not for a few small products
    threads = torch.get_num_threads() if T * B * H * H > 50_000 else 1
    return {"T": T, "B": B, "F": F, "H": H, "threads": threads, "block": BLOCK}


def _call(
    kind: type[ctypes.Structure], name: str, integers: dict, tensors: dict[str, Tensor | None], backward: bool
) -> None:
    like = next(t for t in tensors.values() if t is not None and t.is_floating_point())
    arguments = kind(**integers, **{n: _pointer(t) for n, t in tensors.items()})
    suffix = {torch.float32: "f32", torch.float64: "f64"}.get(like.dtype)
    if suffix is None:
        raise ValueError(f"gyrostat: the native kernels compute in float32 and float64, not {like.dtype}")
    rounded = None if backward else bf16.function(name, integers, like.dtype)
    if rounded is not None:
        code = rounded(ctypes.byref(arguments))
    else:
        code = getattr(_native(), f"gy_{name}_{suffix}")(ctypes.byref(arguments), int(backward))
    if code:
        raise MemoryError("gyrostat: the native kernel could not get its memory; memory='low' needs far less")


def _lipschitz_arguments(tensors: dict[str, Tensor | None], options: tuple[Any, ...]) -> dict[str, Any]:
    step, phi, gated, residual, solver, noise, sigma_a, sigma_m, wanted, save, learns_dt = options
    x, h0, weight_ih = tensors["x"], tensors["h0"], tensors["weight_ih"]
    assert x is not None
    assert h0 is not None
    assert weight_ih is not None
    square = {"A": (tensors["A"], 1), "W": (tensors["W"], 1)}
    scheme = tableau(solver)
    rows = [float(v) for row in scheme.a for v in (*row, *(0,) * (4 - len(row)))]
    dt = tensors["dt"]
    return {
        **_sizes(x, h0, weight_ih, 1 + gated, square),
        "wanted": wanted,
        "save": SAVE.index(save),
        "stages": scheme.stages,
        "phi": PHI.index(phi),
        "gated": gated,
        "residual": residual,
        "noise": NOISE.index(noise),
        "dt_rows": dt is not None and dt.ndim == 2,
        "learns_dt": learns_dt,
        "step": step,
        "sigma_a": sigma_a,
        "sigma_m": sigma_m,
        "a": (ctypes.c_double * 16)(*rows),
        "b": (ctypes.c_double * 4)(*(float(v) for v in scheme.b)),
    }


_LIPSCHITZ_INPUTS = [
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
]
_LEM_INPUTS = ["x", "y0", "z0", "weight_ih", "bias", "weight_hh", "weight_zy", "dt", "active"]


def lipschitz(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lipschitz``."""
    x, h0 = arguments[:2]
    tensors = _ready(dict(zip(_LIPSCHITZ_INPUTS, arguments)), x)
    options = arguments[12:]
    integers = _lipschitz_arguments(tensors, options)
    wanted, save, learns_dt = options[-3:]
    slots = lipschitz_slots(tensors["A"] is not None, options[2], integers["stages"], wanted, learns_dt)
    sequence = _empty(sequence_shape(wanted > 0, x, h0), x)
    stash = _empty(stash_shape(save, slots, 1, x, h0), x)
    last = torch.empty_like(h0, memory_format=torch.contiguous_format)
    _call(_Lipschitz, "lipschitz", integers, {**tensors, "last": last, "sequence": sequence, "stash": stash}, False)
    return last, sequence, stash


def _gradients(
    names: list[str], inputs: dict[str, Tensor | None], needs: list[bool], like: Tensor
) -> dict[str, Tensor]:
    found = {}
    for name, need in zip(names, needs, strict=True):
        value = inputs[name]
        size = tuple(value.shape) if need and value is not None else (0,)
        # a sum over nothing is zero, and nothing is what the library visits when B or T is 0
        empty = like.shape[0] == 0 or like.shape[1] == 0
        found[f"d{name}"] = like.new_zeros(size) if empty else _empty(size, like)
    return found


def lipschitz_backward(grad_last: Tensor | None, grad_sequence: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Kernel of ``gyrostat::lipschitz_backward``."""
    x = arguments[0]
    tensors = _ready(dict(zip(_LIPSCHITZ_INPUTS, arguments)), x)
    sequence, stash, *options, needs = arguments[12:]
    if options[-2] == "none" and x.shape[0]:
        options[-2] = "full" if sequence.numel() * 8 < LIMIT else "low"
        _, sequence, stash = lipschitz(*arguments[:12], *options)
    given = _ready({"grad_last": grad_last, "grad_sequence": grad_sequence}, x)
    gradients = _gradients(_LIPSCHITZ_INPUTS[:8], tensors, needs, x)
    everything = {**tensors, **given, "sequence": sequence, "stash": stash, **gradients}
    _call(_Lipschitz, "lipschitz", _lipschitz_arguments(tensors, tuple(options)), everything, True)
    return list(gradients.values())


def _lem_arguments(tensors: dict[str, Tensor | None], options: tuple[Any, ...]) -> dict[str, Any]:
    step, wanted, save = options
    x, y0, weight_ih = tensors["x"], tensors["y0"], tensors["weight_ih"]
    assert x is not None
    assert y0 is not None
    assert weight_ih is not None
    square = {"weight_hh": (tensors["weight_hh"], 3), "weight_zy": (tensors["weight_zy"], 1)}
    dt = tensors["dt"]
    own = {"wanted": wanted, "save": SAVE.index(save), "dt_rows": dt is not None and dt.ndim == 2, "step": step}
    return {**_sizes(x, y0, weight_ih, 4, square), **own}


def lem(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernel of ``gyrostat::lem``."""
    x, y0, z0 = arguments[:3]
    tensors = _ready(dict(zip(_LEM_INPUTS, arguments)), x)
    *_, wanted, save = options = arguments[9:]
    ys, zs = (_empty(sequence_shape(wanted > k, x, y0), x) for k in range(2))
    stash = _empty(stash_shape(save, lem_slots(wanted), 2, x, y0), x)
    y, z = (torch.empty_like(s, memory_format=torch.contiguous_format) for s in (y0, z0))
    _call(
        _Lem,
        "lem",
        _lem_arguments(tensors, options),
        {**tensors, "y": y, "z": z, "ys": ys, "zs": zs, "stash": stash},
        False,
    )
    return y, z, ys, zs, stash


def lem_backward(*arguments: Any) -> list[Tensor]:
    """Kernel of ``gyrostat::lem_backward``."""
    given, arguments = arguments[:4], arguments[4:]
    x = arguments[0]
    tensors = _ready(dict(zip(_LEM_INPUTS, arguments)), x)
    ys, zs, stash, *options, needs = arguments[9:]
    if options[-1] == "none" and x.shape[0]:
        options[-1] = "full" if x.shape[0] * arguments[1].numel() * 48 < LIMIT else "low"
        _, _, ys, zs, stash = lem(*arguments[:9], *options)
    grads = _ready(dict(zip(("grad_y", "grad_z", "grad_ys", "grad_zs"), given)), x)
    gradients = _gradients(_LEM_INPUTS[:8], tensors, needs, x)
    everything = {**tensors, **grads, "ys": ys, "zs": zs, "stash": stash, **gradients}
    _call(_Lem, "lem", _lem_arguments(tensors, tuple(options)), everything, True)
    return list(gradients.values())
