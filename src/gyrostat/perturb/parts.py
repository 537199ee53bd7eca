"""Submodules by name, and tensors inside the containers that they return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._checks import nearest
from .._errors import ArgumentError, ArgumentTypeError

# names that distributed, compiled and checkpointing wrappers put between a model and its parts
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
Select = int | str | Sequence[int | str] | None


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Submodules by the names they have in the bare model; of a wrapper and what it wraps, the wrapper."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        # the names as they stand stay valid: a model may well call a part of its own "module"
        for key in (plain, name):
            if key:
                found.setdefault(key, module)
    return found


def resolve(model: nn.Module, layers: Sequence[str], where: str) -> dict[str, nn.Module]:
    """The named submodules, without ``"input"``.

    Raises:
        ArgumentError: A name that is none of the model's; the nearest ones are suggested.
    """
    parts = named_parts(model)
    for name in layers:
        if name != "input" and name not in parts:
            top = ", ".join(["input", *(part for part in parts if "." not in part)])
            hint = nearest(name, ["input", *parts]) or f"; there are {top}, and the names below them"
            raise ArgumentError(f"{where}: layers: {name!r} is no submodule of {type(model).__name__}{hint}")
    return {name: parts[name] for name in layers if name != "input"}


def change(value: Any, select: Select, act: Callable[[Tensor], Tensor], where: str) -> Any:
    """``value`` with ``act`` applied to its selected tensors; everything else passes through.

    Args:
        value: A tensor, tuple, list, named tuple or mapping.
        select: Index, key, or several of them; not needed for a tensor.
        act: What to do.
        where: First words of an error.
    """
    if isinstance(value, Tensor):
        return act(value)
    if not isinstance(value, (tuple, list, Mapping)):
        raise ArgumentTypeError(
            f"{where}: a {type(value).__name__} cannot be mixed; name a submodule that gives tensors"
        )
    parts: dict[Any, Any] = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
    keys = list(parts)
    if select is None:
        raise ArgumentError(f"{where}: it is a {type(value).__name__}: say with select which part is mixed, of {keys}")
    chosen = [select] if isinstance(select, (int, str)) else list(select)
    for key in chosen:
        if not isinstance(parts.get(key), Tensor):
            raise ArgumentError(f"{where}: select: {key!r} is no tensor among {keys}")
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key in chosen:
            changed[key] = act(parts[key])
        return changed
    items = [act(item) if i in chosen else item for i, item in enumerate(value)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in tensors_of(item)] if isinstance(value, (tuple, list)) else []
