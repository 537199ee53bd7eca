"""Changing a trained model: theta_new = P theta for refinement, projection and compression; scheme and steps at will.

Source: refinement arXiv:2008.02389; projection of weights and statistics, arXiv:2106.10820.
Differs from the released code: projections are exact (see ``numerics/projection.py``); statistics are projected with
the weights and the projected ones are returned; nothing touches the model it is given unless ``inplace=True``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import Boolean, Integer, OneOf, Real, check, nearest
from .._errors import ArgumentError, ArgumentTypeError
from ..numerics.basis import Basis
from ..numerics.families import parse_basis
from ..numerics.projection import METHODS, error_matrix, gram_matrix, projection_matrix
from .block import ContinuousBlock, read_extra_state

M = TypeVar("M", bound=nn.Module)


def blocks(model: nn.Module) -> dict[str, ContinuousBlock]:
    """All blocks of a model by name, the model itself included (its name is then empty)."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ContinuousBlock)}


def _target(model: M, inplace: bool, where: str) -> tuple[M, dict[str, ContinuousBlock]]:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}")
    Boolean().check("inplace", inplace, where)
    model = model if inplace else copy.deepcopy(model)
    found = blocks(model)
    if not found:
        raise ArgumentError(f"{where}: model has no ContinuousBlock, so there is no depth to change")
    return model, found


def refine(
    model: M,
    factor: int = 2,
    *,
    steps: bool = True,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    inplace: bool = False,
) -> M:
    """The same functions of depth with more coefficients, and finer steps.

    Args:
        model: A model with blocks.
        factor: Into how many cells each cell is split.
        steps: Multiply the number of steps too; without it the output does not change.
        noise: Standard deviation of a multiplicative Gaussian perturbation of all weights of two or more dimensions
            per unit and of biases, to break the symmetry of split cells.
        generator: Source of the noise.
        inplace: Change the model given instead of a copy.

    Returns:
        The refined model; build a new optimiser, or carry the old one over with :func:`refine_optimizer`.

    Raises:
        ArgumentError: No block, or a value that does not fit.

    Source:
        arXiv:2008.02389.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, PiecewiseConstant
        >>> block = ContinuousBlock(torch.nn.Linear(3, 3), PiecewiseConstant(2), n_steps=2)
        >>> finer = refine(block)
        >>> finer.basis, finer.n_steps
        (PiecewiseConstant(K=4), 4)
    """
    check({"factor": Integer(low=1), "steps": Boolean(), "noise": Real(low=0)}, locals(), "refine")
    model, found = _target(model, inplace, "refine")
    for block in found.values():
        basis, operator = block.basis.refine(factor)
        block.set_basis(basis, operator)
        if noise:
            with torch.no_grad():
                for _, nodes in block.theta.items():
                    draw = torch.randn(nodes.shape, generator=generator, dtype=nodes.dtype)
                    nodes.mul_(1 + noise * draw.to(nodes.device))
        block.set_solver(n_steps=block.n_steps * factor if steps else None)
    return model


def _basis_for(
    name: str, wanted: Basis | str | Mapping[str, Basis | str], names: list[str], where: str
) -> Basis | None:
    if isinstance(wanted, Mapping):
        for key in wanted:
            if key not in names:
                raise ArgumentError(
                    f"{where}: model has no block {key!r}{nearest(key, names)}; blocks: {', '.join(names)}"
                )
        wanted_here = wanted.get(name)
        return parse_basis(wanted_here) if isinstance(wanted_here, str) else wanted_here
    return parse_basis(wanted) if isinstance(wanted, str) else wanted


def project(
    model: M,
    basis: Basis | str | Mapping[str, Basis | str],
    *,
    method: str = "l2",
    tol: float | None = None,
    inplace: bool = False,
) -> M:
    """The nearest functions of depth in another basis: weights and statistics of every block, without data.

    Args:
        model: A model with blocks.
        basis: Target for all blocks, or block name to target.
        method: ``"l2"``, ``"interpolate"`` or ``"legacy_l2"``, see :func:`projection_matrix`.
        tol: Refuse when a parameter would lose more than this share of its L2 norm over depth.
        inplace: Change the model given instead of a copy.

    Returns:
        The projected model, with the solver and the steps it had.

    Raises:
        ArgumentError: No block, an unknown name, or a loss above ``tol``.

    Source:
        arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, Hat, PiecewiseConstant
        >>> block = ContinuousBlock(torch.nn.Linear(3, 3), PiecewiseConstant(8), init="independent")
        >>> project(block, Hat(4)).basis
        Hat(K=4)
    """
    OneOf(METHODS).check("method", method, "project")
    Real(low=0, optional=True).check("tol", tol, "project")
    found = blocks(model) if isinstance(model, nn.Module) else {}
    targets = {name: _basis_for(name, basis, list(found), "project") for name in found}
    if tol is not None:
        for name, block in found.items():
            target = targets[name]
            for path, loss in (relative_errors(block, target) if target else {}).items():
                if loss > tol:
                    raise ArgumentError(
                        f"project: block {name or 'model'!r} would lose {loss:.3g} of its parameter {path!r} in {target!r}, "
                        f"more than tol={tol:g}; take a larger K or a larger tol"
                    )
    model, found = _target(model, inplace, "project")
    for name, block in found.items():
        target = targets[name]
        if target is not None and target != block.basis:
            block.set_basis(target, projection_matrix(block.basis, target, method))
            block.set_solver()
    return model


def relative_errors(block: ContinuousBlock, target: Basis) -> dict[str, float]:
    """What each parameter would lose in another basis: |theta - P theta| / |theta| in L2 over depth."""
    error, mass = error_matrix(block.basis, target), gram_matrix(block.basis)
    found = {}
    for path, nodes in block.theta.items():
        flat = nodes.detach().to("cpu", torch.float64).reshape(len(nodes), -1).numpy()
        lost, norm = (math.sqrt(max(float(np.sum(flat * (m @ flat))), 0.0)) for m in (error, mass))
        found[path] = lost / norm if norm > 0 else 0.0
    return found


def set_solver(model: M, solver: str | None = None, n_steps: int | None = None, grid: str | None = None) -> M:
    """Change the scheme or the number of steps of every block, in place; nothing is retrained.

    Args:
        model: A model with blocks.
        solver: New scheme; unchanged when left out.
        n_steps: New number of steps; unchanged when left out.
        grid: ``"uniform"`` or ``"aligned"``; unchanged when left out.

    Returns:
        The model given.

    Raises:
        ArgumentError: No block, or an unknown name.

    Source:
        arXiv:2008.02389.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, Hat
        >>> set_solver(ContinuousBlock(torch.nn.Linear(3, 3), Hat(4)), "euler", n_steps=2).n_evaluations
        2
    """
    model, found = _target(model, True, "set_solver")
    for block in found.values():
        block.set_solver(solver, n_steps, grid)
    return model


def function_norm2(model: nn.Module) -> Tensor:
    """The sum over all parameters of blocks of the integral of theta(t)^2 over depth; differentiable.

    Args:
        model: A model with blocks.
    """
    total: Any = 0.0
    for block in blocks(model).values():
        mass = torch.tensor(gram_matrix(block.basis))
        for _, nodes in block.theta.items():
            flat = nodes.reshape(len(nodes), -1)
            total = total + (flat * (mass.to(flat.device, flat.dtype) @ flat)).sum()
    return torch.as_tensor(total)


def match_checkpoint(model: M, state_dict: Mapping[str, Any]) -> M:
    """Give every block the basis, the solver and the steps that a checkpoint was saved with; weights are not loaded yet.

    Args:
        model: A model with the same blocks, of any level; changed in place.
        state_dict: The checkpoint.
    """
    for name, block in blocks(model).items():
        key = f"{name}._extra_state" if name else "_extra_state"
        if key in state_dict:
            facts = read_extra_state(state_dict[key])
            basis = parse_basis(facts["basis"])
            if basis != block.basis:
                block.set_basis(basis, projection_matrix(block.basis, basis))
            block.scale = float(facts["scale"])
            block.set_solver(facts["solver"], facts["n_steps"], facts["grid"])
    return model
