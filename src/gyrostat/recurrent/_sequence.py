"""Batches of sequences of unequal length and irregular time, as the layers need them.

Whatever stands in padding never reaches a value or a gradient: the input is zeroed there before the step, the state is
held there, and the output is zeroed after it. Masking the output alone would keep the values right and still turn
gradients into NaN (0 * NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from .._errors import ArgumentError, ArgumentTypeError, ShapeError


def unpack(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """A packed batch as ``(T, B, F)`` and lengths, both in the caller's order."""
    x, lengths = pad_packed_sequence(packed)
    return x, lengths


def pack_like(output: Tensor, packed: PackedSequence) -> PackedSequence:
    """Pack ``(T, B, H)`` in the caller's order with the batch sizes and sorting of ``packed``."""
    if packed.sorted_indices is not None:
        output = output.index_select(1, packed.sorted_indices)
    rows = torch.arange(output.shape[1], device=packed.batch_sizes.device)
    mask = rows[None, :] < packed.batch_sizes[:, None]  # (T, B)
    data = output[mask.to(output.device)]
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def check_lengths(lengths: Tensor | Sequence[int], T: int, B: int, device: torch.device) -> Tensor:
    """Lengths as an integer tensor ``(B,)``, each between 0 and T."""
    found = torch.as_tensor(lengths, device=device)
    if found.dtype.is_floating_point or found.dtype == torch.bool:
        raise ArgumentTypeError(f"lengths must be integers, got {found.dtype}")
    if found.shape != (B,):
        raise ShapeError(
            f"lengths must have shape ({B},), one for each sequence of the batch, got {tuple(found.shape)}"
        )
    if not torch.compiler.is_compiling() and found.device.type != "meta" and B:
        low, high = int(found.min()), int(found.max())
        if low < 0 or high > T:
            raise ArgumentError(f"lengths must be between 0 and the padded length {T}, got {low if low < 0 else high}")
    return found.to(torch.int64)


def check_dt(dt: Any, T: int, B: int, like: Tensor) -> float | Tensor:
    """The step of a call: a float, or a tensor ``()``, ``(T, 1, 1)`` or ``(T, B, 1)`` from ``(T,)`` or ``(B, T)``."""
    if isinstance(dt, (bool, str)):
        raise ArgumentTypeError(f"dt must be a number, a tensor (T,) or (B, T), got {dt!r}")
    if isinstance(dt, (int, float)):
        if not 0 <= dt < float("inf"):
            raise ArgumentError(f"dt must be a finite number >= 0, got {dt!r}")
        return float(dt)
    try:
        found = torch.as_tensor(dt, device=like.device)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"dt must be a number, a tensor (T,) or (B, T), got {type(dt).__name__}") from error
    if found.is_complex():
        raise ArgumentTypeError(f"dt must be real, got {found.dtype}")
    if found.shape not in ((), (T,), (B, T)):
        raise ShapeError(f"dt must be a number or have shape ({T},) or ({B}, {T}), got {tuple(found.shape)}")
    if not torch.compiler.is_compiling() and found.device.type != "meta":
        _refuse_bad_steps(found)
    found = found.to(like.dtype)
    if found.ndim == 1:
        return found[:, None, None]  # (T, 1, 1)
    return found.t()[:, :, None] if found.ndim == 2 else found  # (T, B, 1)


def _refuse_bad_steps(dt: Tensor) -> None:
    bad = ~(torch.isfinite(dt) & (dt >= 0))
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        if len(index) == 2:
            where = f" in row {index[0]}, step {index[1]}"
        else:
            where = f" in step {index[0]}" if index else ""
        raise ArgumentError(
            f"dt must be finite and >= 0, got {float(dt[index].detach())}{where}; times must not run backwards"
        )


def active_mask(T: int, B: int, lengths: Tensor | None, dt: float | Tensor, device: torch.device) -> Tensor | None:
    """Where the state moves, ``(T, B or 1, 1)``: within the length, and where time passes; ``None`` for everywhere."""
    mask = None
    if lengths is not None:
        mask = (torch.arange(T, device=device)[:, None] < lengths[None, :])[:, :, None]  # (T, B, 1)
    if isinstance(dt, Tensor) or dt == 0:
        moving = dt.detach() > 0 if isinstance(dt, Tensor) else torch.zeros((), dtype=torch.bool, device=device)
        moving = moving.expand(T, 1, 1) if moving.ndim == 0 else moving
        mask = moving if mask is None else mask & moving
    return mask


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each sequence of ``(T, B, ...)`` round within its own length; padding stays where it is."""
    if lengths is None or x.shape[1] == 1 != lengths.shape[0]:
        return x.flip(0)
    T, B = x.shape[:2]
    t = torch.arange(T, device=x.device)[:, None]
    index = torch.where(t < lengths[None, :], lengths[None, :] - 1 - t, t)  # (T, B)
    return x[index, torch.arange(B, device=x.device)[None, :]]
