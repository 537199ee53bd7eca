"""Taking a unit apart: what of it depends on depth, and how each buffer may be averaged.

A block keeps the unit's structure as a template on the ``meta`` device and its numbers as nodes over depth. Parameters
are always functions of depth. Buffers follow a rule:

``"average"``   a function of depth, refitted to the updates of all stages (running means)
``"positive"``  the same, never negative (running variances)
``"log"``       the same, averaged in log space
``"constant"``  one copy for all depths, never written (tables)
``"counter"``   one integer copy, plus one in each training pass (``num_batches_tracked``)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._checks import nearest
from .._errors import ArgumentError, ArgumentTypeError

BUFFER_RULES = ("average", "positive", "log", "constant", "counter")
_DEFAULTS = {"running_mean": "average", "running_var": "positive", "num_batches_tracked": "counter"}


@dataclass(frozen=True)
class Parts:
    """A unit taken apart: the template without numbers, and the numbers by dotted name."""

    template: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rules: dict[str, str]
    aliases: dict[str, str]


def mangle(path: str) -> str:
    """A dotted name as one word that a module can register."""
    return path.replace(".", "__")


def take_apart(unit: nn.Module, buffer_rules: Mapping[str, str] | None, where: str) -> Parts:
    """Split a unit into template, parameters and buffers.

    Args:
        unit: Any module; it is copied, not touched.
        buffer_rules: Rules by dotted name or by last part of the name, over the defaults.
        where: First words of an error message.

    Raises:
        ArgumentTypeError: Not a module.
        ArgumentError: Lazy parameters, or a buffer without a rule.
    """
    if not isinstance(unit, nn.Module):
        raise ArgumentTypeError(f"{where}: unit must be a torch.nn.Module, got {type(unit).__name__}")
    given = dict(buffer_rules or {})
    for key, rule in given.items():
        if rule not in BUFFER_RULES:
            raise ArgumentError(
                f"{where}: buffer_rules[{key!r}] must be one of {', '.join(BUFFER_RULES)}, got {rule!r}"
                f"{nearest(rule, BUFFER_RULES)}"
            )
    parameters = dict(unit.named_parameters())
    for path, value in parameters.items():
        if is_lazy(value):
            raise ArgumentError(
                f"{where}: parameter {path!r} of the unit has no shape yet (lazy module); run the unit once before wrapping"
            )
    fleeting = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in unit.named_modules()
        for name in module._non_persistent_buffers_set
    }
    buffers, rules = {}, {}
    for path, value in unit.named_buffers():
        leaf = path.rpartition(".")[2]
        rule = given.get(path) or given.get(leaf) or _DEFAULTS.get(leaf) or ("constant" if path in fleeting else None)
        if rule is None:
            raise ArgumentError(
                f"{where}: buffer {path!r} of the unit has no rule for how it varies with depth; give one, e.g. "
                f'buffer_rules={{"{leaf}": "constant"}} (rules: {", ".join(BUFFER_RULES)})'
            )
        if rule == "counter" and value.is_floating_point():
            raise ArgumentError(f"{where}: buffer {path!r} is not an integer and cannot have the rule 'counter'")
        if rule in ("average", "positive", "log") and not value.is_floating_point():
            raise ArgumentError(f"{where}: buffer {path!r} is not a float and cannot have the rule {rule!r}")
        buffers[path], rules[path] = value.detach(), rule
    names = [mangle(p) for p in (*parameters, *buffers)]
    if len(set(names)) != len(names):
        raise ArgumentError(f"{where}: names of the unit differ only by '.' and '__'; rename one of its submodules")
    return Parts(_template(unit), {p: v.detach() for p, v in parameters.items()}, buffers, rules, _aliases(unit))


def _template(unit: nn.Module) -> nn.Module:
    # a memo of meta tensors copies the structure without the numbers, and keeps tied weights tied
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in unit.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in unit.buffers()}
    return copy.deepcopy(unit, memo)


def _aliases(unit: nn.Module) -> dict[str, str]:
    """Further names of tied parameters and buffers, to the name under which they are kept."""
    found: dict[str, str] = {}
    for tensors in (unit.named_parameters, unit.named_buffers):
        first = {id(v): path for path, v in tensors()}
        found |= {path: first[id(v)] for path, v in tensors(remove_duplicate=False) if path != first[id(v)]}
    return found


class Nodes(nn.Module):
    """Coefficients over depth by dotted name, kept as parameters or buffers ``(K, *shape)``."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: tuple[str, ...] = ()

    def put(self, path: str, value: Tensor, *, trainable: bool | None = None) -> None:
        """Register or replace; ``trainable=None`` makes it a buffer."""
        name = mangle(path)
        if path not in self.paths:
            self.paths = (*self.paths, path)
        if trainable is None:
            self.register_buffer(name, value)
        else:
            setattr(self, name, nn.Parameter(value, requires_grad=trainable))

    def get(self, path: str) -> Tensor:
        """The coefficients of one entry."""
        return getattr(self, mangle(path))

    def items(self) -> list[tuple[str, Tensor]]:
        """All entries."""
        return [(path, self.get(path)) for path in self.paths]


def redraw(module: nn.Module) -> nn.Module:
    """A copy of a module with fresh initial weights (every submodule that has ``reset_parameters``)."""
    fresh = copy.deepcopy(module)
    # children first: a parent that draws its children's weights has the last word
    for part in reversed(list(fresh.modules())):
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    with torch.no_grad():
        # resetting must not touch the statistics that come with the unit
        for (_, new), (_, old) in zip(fresh.named_buffers(), module.named_buffers()):
            new.copy_(old)
    return fresh
