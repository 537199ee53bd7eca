"""An optimiser for a refined model: the moments follow m_new = R m / r, v_new = R v / r^2 with r the growth of K.

Source: the published runs discard all moments at a refinement (arXiv:2008.02389); carrying them is an addition.
Differs from the released code: with ``carry=False`` nowhere known.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._errors import ArgumentError
from ..numerics.projection import projection_matrix
from .block import ContinuousBlock, apply_operator
from .change import blocks
from .unit import mangle

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)


def refine_optimizer(
    optimizer: OptimizerT, old_model: nn.Module, new_model: nn.Module, *, carry: bool = False
) -> OptimizerT:
    """An optimiser of the same kind, groups and learning rates for the parameters of a changed model.

    Args:
        optimizer: The optimiser of the old model.
        old_model: The model before ``refine`` or ``project``.
        new_model: The model after.
        carry: Carry the moments over instead of starting them anew. The gradient of a split cell falls on its parts, so
            first moments shrink with the growth of K and second moments with its square.

    Returns:
        A new optimiser.

    Raises:
        ArgumentError: A parameter of the optimiser is not in the old model, or has no counterpart in the new one.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, PiecewiseConstant, refine
        >>> old = ContinuousBlock(torch.nn.Linear(3, 3), PiecewiseConstant(2), n_steps=2)
        >>> new = refine(old)
        >>> refine_optimizer(torch.optim.SGD(old.parameters(), lr=0.1), old, new).param_groups[0]["lr"]
        0.1
    """
    names = {id(p): name for name, p in old_model.named_parameters()}
    fresh = dict(new_model.named_parameters())
    groups: list[dict[str, Any]] = []
    pairs: list[tuple[str, Tensor, Tensor]] = []
    for group in optimizer.param_groups:
        members = []
        for p in group["params"]:
            name = names.get(id(p))
            if name is None or name not in fresh:
                raise ArgumentError("refine_optimizer: optimizer holds a parameter that is not in both models")
            members.append(fresh[name])
            pairs.append((name, p, fresh[name]))
        groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": members})
    defaults = {k: v for k, v in optimizer.defaults.items() if k in type(optimizer).__init__.__code__.co_varnames}
    result = type(optimizer)(groups, **defaults)
    if carry:
        owners = _owners(old_model, new_model)
        for name, old, new in pairs:
            state = optimizer.state.get(old)
            if state:
                result.state[new] = {k: _carried(k, v, old, owners.get(name)) for k, v in state.items()}
    return result


def _owners(old: nn.Module, new: nn.Module) -> dict[str, tuple[ContinuousBlock, ContinuousBlock]]:
    after = blocks(new)
    return {
        f"{name}{'.' if name else ''}theta.{mangle(path)}": (block, after[name])
        for name, block in blocks(old).items()
        if name in after
        for path, _ in block.theta.items()
    }


def _carried(key: str, value: Any, parameter: Tensor, owner: tuple[ContinuousBlock, ContinuousBlock] | None) -> Any:
    if not isinstance(value, Tensor) or owner is None or value.shape != parameter.shape:
        return value.clone() if isinstance(value, Tensor) else value
    old, new = owner
    growth = new.basis.K / old.basis.K
    moved = apply_operator(projection_matrix(old.basis, new.basis), value)
    if key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"):
        return moved.clamp_min(0) / growth**2
    return moved / growth
