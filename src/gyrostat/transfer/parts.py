"""The parts of a classifier by name: its linear head, its blocks from last to first, the parameters below a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .._checks import nearest
from .._errors import ArgumentError, ArgumentTypeError, NonFiniteError
from ..perturb.attack import evaluation_mode

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def below(name: str, parts: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``parts`` or lies below one; ``layer1`` does not cover ``layer10``."""
    return any(not part or name == part or name.startswith(f"{part}.") for part in parts)


def module_of(model: nn.Module, name: str, where: str) -> nn.Module:
    """The submodule called ``name``; the error suggests the nearest name."""
    found = dict(model.named_modules())
    if name not in found:
        raise ArgumentError(f"{where}: the model has no part {name!r}{nearest(name, found)}")
    return found[name]


def head_name(model: Any, name: str | None, where: str) -> str:
    """The name of the linear layer that ends the model: the last one registered, or the given one."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}")
    if name is not None:
        if not isinstance(module_of(model, name, where), nn.Linear):
            raise ArgumentError(
                f"{where}: head={name!r} is not a torch.nn.Linear; name the layer that gives the logits"
            )
        return name
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ArgumentError(f"{where}: the model has no torch.nn.Linear that could be its head")
    return linear[-1]


def blocks(model: nn.Module, head: str | None = None) -> list[tuple[str, ...]]:
    """Blocks from the last to the first, the head left out.

    A block is a part with parameters that is no plain container: a residual unit, a convolution. Normalisation layers
    belong to the block before them.

    Args:
        model: Any module.
        head: Name of the head; the last linear layer when left out.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        >>> blocks(net)
        [('2',), ('0', '1')]
    """
    head = head_name(model, head, "blocks")
    found: list[list[str]] = []

    def visit(name: str, module: nn.Module) -> None:
        if name == head or not any(True for _ in module.parameters()):
            return
        children = [(f"{name}.{n}" if name else n, m) for n, m in module.named_children()]
        full = [c for c in children if any(True for _ in c[1].parameters())]
        wraps_all = len(full) == 1 and not list(module.parameters(recurse=False))
        if not name or isinstance(module, _CONTAINERS) or wraps_all or below(head, [name]):
            for child in full:
                visit(*child)
        elif isinstance(module, _NORMS) and found:
            found[-1].append(name)
        else:
            found.append([name])

    visit("", model)
    return [tuple(names) for names in reversed(found)]


def trainable_parts(
    model: nn.Module, trainable: str | Sequence[str] | None, last_blocks: int, head: str, where: str
) -> tuple[str, ...]:
    """Names of the parts that move: the head, and named parts or the last blocks."""
    if trainable == "all":
        return ("",)
    if trainable is not None and last_blocks:
        raise ArgumentError(f"{where}: give trainable or last_blocks, not both")
    if trainable is None or trainable == "head":
        found = blocks(model, head)
        if last_blocks > len(found):
            raise ArgumentError(
                f"{where}: last_blocks must be at most {len(found)}, the model's blocks, got {last_blocks}"
            )
        return (*(name for block in found[:last_blocks] for name in block), head)
    names = (trainable,) if isinstance(trainable, str) else tuple(trainable)
    for name in names:
        module_of(model, name, where)
    return names if below(head, names) else (*names, head)


@torch.no_grad()
def head_inputs(model: nn.Module, head: str, x: Tensor, batch_size: int, where: str) -> tuple[Tensor, Tensor]:
    """What the head is given, ``(N, d)``, and what the model returns, ``(N, C)``, in evaluation mode.

    Raises:
        ArgumentError: The inputs do not fit, the head sees no flat features, or its output is not the model's.
    """
    seen: list[Tensor] = []
    outputs: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(inputs[0])
        outputs.append(output)

    handle = model.get_submodule(head).register_forward_hook(note)
    features, logits = [], []
    try:
        with evaluation_mode(model):
            for part in x.split(batch_size):
                seen.clear()
                outputs.clear()
                out = model(part)
                if len(seen) != 1 or not isinstance(out, Tensor) or out.shape != outputs[0].shape or out.ndim != 2:
                    raise ArgumentError(
                        f"{where}: the layer {head!r} does not give the model's logits (B, C); name the head, or choose "
                        "other parameters"
                    )
                if not torch.equal(out, outputs[0]):
                    raise ArgumentError(f"{where}: the model changes the output of {head!r}; its output must be logits")
                features.append(seen[0])
                logits.append(out)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{where}: x does not fit the model: {' '.join(str(error).split())[:200]}") from error
    finally:
        handle.remove()
    return torch.cat(features), torch.cat(logits)


def labelled(data: Any, where: str, name: str = "data") -> tuple[Tensor, Tensor]:
    """``(x, y)`` with integer labels from 0; anything else is refused."""
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise ArgumentTypeError(f"{where}: {name} must be a pair of tensors (x, y)")
    x, y = data
    if len(x) != len(y) or len(y) == 0:
        raise ArgumentError(f"{where}: {name} must hold as many inputs as labels, got {len(x)} and {len(y)}")
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ArgumentTypeError(f"{where}: the labels of {name} must be integers (n,), got {y.dtype} {tuple(y.shape)}")
    if int(y.min()) < 0:
        raise ArgumentError(f"{where}: {name} has the label {int(y.min())}; labels are 0, 1, 2, ...")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"{where}: the inputs of {name} hold NaN or Inf")
    return x, y.long()
