"""Recurrent products in bfloat16 for inference, where ``torch.set_float32_matmul_precision`` allows them.

highest   float32, always                                                  the default, and all that training knows
high      a w ≈ a₂w₁ + a₁w₂ + a₁w₁,   a = a₁ + a₂, w = w₁ + w₂ in bf16      "bf16x3", error of a product about 2⁻¹⁶
medium    a w ≈ a₁w₁                                                       "bf16", about 2⁻⁸

States, sums, input projection and everything pointwise stay float32, and only a residual step (h + dt f) is taken: there
the error is multiplied by dt and the state itself is never rounded. Two engines multiply: tiles (AMX) and vectors
(AVX512-BF16); ``FAST`` says which of them is faster than float32 for what. Source: PERFORMANCE of the project, measured.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from . import library
from .shapes import precision

if TYPE_CHECKING:
    from ..cell import Cell

ABI = 1
TERMS = {"high": 3, "medium": 1}
WORDS = {"high": "bf16x3", "medium": "bf16"}
ENGINES = {"amx": (2, 1, "AMX"), "bf16": (1, 0, "AVX512-BF16")}  # bit of gy_bf16_engines, number of the engine, name
FAST = {"amx": ("high", "medium"), "bf16": ("medium",)}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, int, str]:
    """The library of these products, the engines this processor has, and in words why there is none."""
    path = library.HERE / "_native_bf16.so"
    if not path.exists():
        return None, 0, "the library of bf16 products is not built: it takes a compiler for x86-64 that knows AMX"
    if library.cpu_level() < library.LEVELS.index("v4"):
        return None, 0, "this processor has no AVX-512"
    return opened(str(path))


def opened(path: str) -> tuple[ctypes.CDLL | None, int, str]:
    """A library of these products and what it can do here."""
    try:
        found = ctypes.CDLL(path)
    except OSError as error:
        return None, 0, f"the library of bf16 products cannot be loaded: {error}"
    if found.gy_bf16_abi_version() != ABI:
        return None, 0, "the library of bf16 products is of another version; install again"
    engines = found.gy_bf16_engines()
    refused = "the system does not let this process use AMX" if engines & 4 else "this processor has no AMX"
    return found, engines, refused


def engine(level: str) -> tuple[str | None, str]:
    """What multiplies at a precision, a key of ``ENGINES``, or ``None`` and why nothing does."""
    wanted = os.environ.get("GYROSTAT_ISA")
    if wanted and wanted not in ENGINES:
        return None, f"GYROSTAT_ISA={wanted}"
    found, engines, reason = _load()
    if found is None:
        return None, reason
    if wanted:
        there = engines & ENGINES[wanted][0]
        return (wanted, "") if there else (None, f"GYROSTAT_ISA={wanted}, but this processor has none")
    for name, (bit, _, words) in ENGINES.items():
        if engines & bit and level in FAST[name]:
            return name, ""
        if engines & bit:
            reason = f"{WORDS[level]} on {words} is slower, and {reason}"
    return None, reason


def function(name: str, dtype: torch.dtype) -> Callable[[Any], int] | None:
    """The forward pass of an operator in bfloat16, where the precision asks for it and this processor has it."""
    level = precision()
    if level == "highest" or dtype != torch.float32:
        return None
    kind, _ = engine(level)
    found = _load()[0]
    if kind is None or found is None:
        return None
    call = getattr(found, f"gy_bf16_{name}")
    return lambda arguments: call(arguments, ENGINES[kind][1], TERMS[level])


def offers() -> str:
    """What each lower precision would give here, and why not more."""
    found = []
    for level, words in WORDS.items():
        kind, reason = engine(level)
        found.append(f"{level!r} {words} ({ENGINES[kind][2]})" if kind else f"{level!r} float32 ({reason})")
    return ", ".join(found)


def describe(cell: Cell | None = None, dtype: torch.dtype = torch.float32) -> str:
    """What ``backend_in_use`` adds: nothing at the default precision, otherwise how inference multiplies and why."""
    level = precision()
    if level == "highest" or dtype != torch.float32:
        return ""
    kind, reason = engine(level)
    if cell is not None and (cell.name in ("orthogonal", "vector_field") or not getattr(cell, "time_step", True)):
        kind, reason = None, "the step of this cell is no residual one, and bf16 would round its state"
    if kind is None:
        return f"; products in float32 despite precision {level!r}: {reason}"
    return f"; inference with {WORDS[level]} products ({ENGINES[kind][2]})"
