"""A block of continuous depth: dx/dt = scale R(x; theta(t), s(t)), t from 0 to 1, theta(t) = sum_k phi_k(t) theta_k.

Source: Continuous-in-Depth Neural Networks, arXiv:2008.02389; Stateful ODE-Nets, arXiv:2106.10820.
Differs from the released code: any module serves as R; stage times are exact fractions and a step never reads the next
cell; running statistics that no stage has visited keep their value instead of becoming NaN.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError, CheckpointError
from ..numerics.basis import Basis, PiecewiseConstant, Side
from ..numerics.families import parse_basis
from ..numerics.projection import projection_matrix
from .passes import FLOOR, Pass, write_back
from .stages import RULES, StageTable, stage_table, warn_if_misaligned
from .unit import Nodes, redraw, take_apart

INITS = ("constant", "independent")
STATE_UPDATES = ("project", "sequential", "frozen")
CHECKPOINTS = ("none", "stage", "step", "sqrt")
_ONE_CELL = PiecewiseConstant(1)
DROPOUTS = ("per_stage", "per_step", "per_pass")
_RULES = {
    **RULES,
    "scale": Real(),
    "init": OneOf(INITS),
    "state_update": OneOf(STATE_UPDATES),
    "dropout": OneOf(DROPOUTS),
    "pass_time": Boolean(),
}


class ContinuousBlock(nn.Module):
    """Any unit whose output has the shape of its input, as a block of continuous depth.

    The weights of the unit become functions of depth in ``basis`` (every parameter turns into ``K`` coefficients) and so
    do its running statistics; a one-step scheme integrates from depth 0 to 1. How many units there are (``basis.K``) and
    how many steps are taken (``n_steps``) are independent. Piecewise constant with ``n_steps = K``, Euler and
    ``scale = K`` is the residual network x + R_k(x), exactly.

    Args:
        unit: The rate R, any ``nn.Module``; it is copied.
        basis: Functions of depth, or their one-word form such as ``"hat:4"``.
        solver: ``euler midpoint heun ralston kutta3 ssprk3 rk4 rk4_38``.
        n_steps: Equal steps from 0 to 1; one for each cell of a discontinuous basis, else K, when left out.
        scale: Factor of the rate (epsilon in the papers).
        init: ``"constant"`` starts with the unit's weights at all depths, ``"independent"`` redraws them for each node.
        state_update: ``"project"`` refits the statistics of all stages, ``"sequential"`` updates cell by cell
            (piecewise constant only), ``"frozen"`` never writes.
        buffer_rules: How further buffers of the unit vary with depth, see ``depth.unit``.
        checkpoint: Recompute in the backward pass: ``"none"``, ``"stage"``, ``"step"``, ``"sqrt"`` (about sqrt(n_steps)
            segments) or a number of segments.
        grid: ``"uniform"``, or ``"aligned"`` to end steps at the breakpoints of the basis as well.
        open_set: ``"left"``; the others reproduce faults of the released code.
        dropout: New masks ``"per_stage"`` (any unit, but breaks the order of the scheme), ``"per_step"`` or ``"per_pass"``.
        pass_time: Call the unit as ``unit(x, t, ...)``.

    Shape:
        Input and output: whatever the unit takes, ``(B, ...)``. Parameters: ``theta.<name>`` of ``(K, *shape)``.

    Raises:
        ArgumentError: A value that does not fit, or a buffer without a rule.
        ShapeError: In ``forward``, when the unit changes the shape.

    Source:
        arXiv:2008.02389, arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, Hat
        >>> unit = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> block = ContinuousBlock(unit, Hat(4), solver="rk4", n_steps=6)
        >>> block(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    _template: nn.Module
    _table: StageTable
    _clamp_warned: bool = False

    def __init__(
        self,
        unit: nn.Module,
        basis: Basis | str = _ONE_CELL,
        solver: str = "rk4",
        n_steps: int | None = None,
        scale: float = 1.0,
        *,
        init: str = "constant",
        state_update: str = "project",
        buffer_rules: Mapping[str, str] | None = None,
        checkpoint: str | int = "none",
        grid: str = "uniform",
        open_set: str = "left",
        dropout: str = "per_stage",
        pass_time: bool = False,
    ) -> None:
        super().__init__()
        self.where = f"ContinuousBlock({type(unit).__name__})"
        self.basis = parse_basis(basis) if isinstance(basis, str) else basis
        if not isinstance(self.basis, Basis):
            raise ArgumentTypeError(f"{self.where}: basis must be a basis such as PiecewiseConstant(8), got {basis!r}")
        n_steps = _default_steps(self.basis) if n_steps is None else n_steps
        check(_RULES, locals(), self.where)
        if isinstance(checkpoint, int):
            Integer(low=1).check("checkpoint", checkpoint, self.where)
        else:
            OneOf(CHECKPOINTS).check("checkpoint", checkpoint, self.where)
        if state_update == "sequential" and not isinstance(self.basis, PiecewiseConstant):
            raise ArgumentError(f"{self.where}: state_update='sequential' needs PiecewiseConstant, got {self.basis!r}")
        self.scale, self.state_update, self.checkpoint = float(scale), state_update, checkpoint
        self.open_set, self.dropout, self.pass_time = open_set, dropout, pass_time
        self.solver, self.n_steps, self.grid = solver, n_steps, grid
        parts = take_apart(unit, buffer_rules, self.where)
        # outside the registry: the template's meta tensors are not this module's parameters
        object.__setattr__(self, "_template", parts.template)
        self.rules, self.aliases = parts.rules, parts.aliases
        self.theta, self.state, self.fixed = Nodes(), Nodes(), Nodes()
        draws = [dict(redraw(unit).named_parameters()) for _ in range(self.basis.K)] if init == "independent" else []
        trainable = {path: p.requires_grad for path, p in unit.named_parameters()}
        for path, value in parts.parameters.items():
            nodes = self._constant(value) if not draws else self._drawn([d[path].detach() for d in draws])
            self.theta.put(path, nodes, trainable=trainable[path])
        for path, value in parts.buffers.items():
            depends = self.rules[path] not in ("constant", "counter")
            (self.state if depends else self.fixed).put(path, self._constant(value) if depends else value.clone())
        self.train(unit.training)
        self.set_solver()

    def _constant(self, value: Tensor) -> Tensor:
        one = torch.tensor(self.basis.constant(), dtype=value.dtype, device=value.device)
        return one.reshape(-1, *[1] * value.dim()) * value

    def _drawn(self, draws: list[Tensor]) -> Tensor:
        stacked = torch.stack(draws)  # (K, *shape)
        if not self.basis.modal:
            return stacked
        # modes are not values: fit the step function that takes the drawn values
        return apply_operator(projection_matrix(PiecewiseConstant(self.basis.K), self.basis), stacked)

    def set_solver(self, solver: str | None = None, n_steps: int | None = None, grid: str | None = None) -> None:
        """Change the scheme, the number of steps or the grid; weights stay, nothing is retrained.

        Args:
            solver: New scheme.
            n_steps: New number of steps.
            grid: New kind of grid.
        """
        solver, n_steps = solver or self.solver, self.n_steps if n_steps is None else n_steps
        grid = grid or self.grid
        table = stage_table(self.basis, solver, n_steps, grid, self.open_set, self.scale)
        warn_if_misaligned(self.basis, n_steps, grid, self.where)
        self.solver, self.n_steps, self.grid = table.scheme.name, n_steps, grid
        self._table = table

    def set_basis(self, basis: Basis, operator: np.ndarray) -> None:
        """Replace the coefficients by ``operator @ coefficients`` in another basis, parameters and statistics alike.

        Args:
            basis: The new basis.
            operator: ``(K_new, K)``, float64.
        """
        for path, nodes in self.theta.items():
            self.theta.put(path, apply_operator(operator, nodes.detach()), trainable=nodes.requires_grad)
        self.basis = basis
        for path, nodes in self.state.items():
            rule = self.rules[path]
            new = apply_operator(operator, nodes.log() if rule == "log" else nodes)
            self.state.put(path, keep_positive(new.exp() if rule == "log" else new, rule, basis))
        if self.state_update == "sequential" and not isinstance(basis, PiecewiseConstant):
            self.state_update = "project"

    @property
    def scheme_order(self) -> int:
        """Order of the solver."""
        return self._table.scheme.order

    @property
    def n_evaluations(self) -> int:
        """How often one pass calls the unit: steps times stages."""
        return len(self._table.times)

    def train(self, mode: bool = True) -> ContinuousBlock:
        """Switch between training and evaluation, the hidden template included."""
        super().train(mode)
        self._template.train(mode)
        return self

    def forward(self, x: Tensor, *args: Any, return_trajectory: bool = False, **kwargs: Any) -> Any:
        """Integrate from depth 0 to 1.

        Args:
            x: Input of the unit.
            *args: Passed on to every call of the unit (masks, conditioning).
            return_trajectory: Also return the states at the ends of all steps, stacked along a new first dimension.
            **kwargs: Passed on to every call of the unit.

        Returns:
            A tensor shaped like ``x``, or that and ``(n_steps + 1, *x.shape)``.
        """
        if torch.is_autocast_enabled(x.device.type) and x.dtype in (torch.float16, torch.bfloat16):
            # many small increments are added up: the sum stays in float32, the unit runs in the low precision
            x = x.float()
        run = Pass(self, args, kwargs, keep_states=return_trajectory)
        n = self._table.n_steps
        segments = {"none": 1, "stage": 1, "step": n, "sqrt": math.ceil(math.sqrt(n))}.get(str(self.checkpoint))
        segments = min(segments or int(self.checkpoint), n)
        save = self.checkpoint not in ("none", "stage") and torch.is_grad_enabled()
        ends = [n * i // segments for i in range(segments + 1)]
        updates: list[dict[str, Tensor]] = []
        states = [x] if return_trajectory else []
        for first, last in pairwise(ends):
            piece: Callable[..., Any] = run.steps
            result = recompute(piece, x, first, last, use_reentrant=False) if save else piece(x, first, last)
            x, found, visited = result
            updates += found
            states += visited
        if self.training and self.state_update != "frozen":
            write_back(self, run, updates)
        return (x, torch.stack(states)) if return_trajectory else x

    def parameters_at(self, t: float | Fraction, side: Side = "right") -> dict[str, Tensor]:
        """The unit's parameters at depth ``t``, by name; gradients flow to the coefficients.

        Args:
            t: Depth in [0, 1].
            side: Which limit to take at a jump.
        """
        row = self.basis.row(t, side)
        return {
            p: torch.tensordot(torch.tensor(row, dtype=v.dtype, device=v.device), v, 1) for p, v in self.theta.items()
        }

    def state_at(self, t: float | Fraction, side: Side = "right") -> dict[str, Tensor]:
        """The unit's buffers at depth ``t``, by name.

        Args:
            t: Depth in [0, 1].
            side: Which limit to take at a jump.
        """
        found = {p: v.clone() for p, v in self.fixed.items()}
        row = self.basis.row(t, side)
        for path, nodes in self.state.items():
            weights = torch.tensor(row, dtype=nodes.dtype, device=nodes.device)
            log = self.rules[path] == "log"
            value = torch.tensordot(weights, nodes.log() if log else nodes, 1)
            found[path] = keep_positive(value.exp() if log else value, self.rules[path], None)
        return found

    def unit_at(self, t: float | Fraction, side: Side = "right") -> nn.Module:
        """The unit as it is at depth ``t``: an ordinary module of its own.

        Args:
            t: Depth in [0, 1].
            side: Which limit to take at a jump.
        """
        unit = copy.deepcopy(self._template)
        values = {**self.parameters_at(t, side), **self.state_at(t, side)}
        for path, value in values.items():
            parent = unit.get_submodule(path.rpartition(".")[0])
            leaf = path.rpartition(".")[2]
            if leaf in parent._parameters:
                wanted = self.theta.get(path).requires_grad
                setattr(parent, leaf, nn.Parameter(value.detach().clone(), requires_grad=wanted))
            else:
                parent._buffers[leaf] = value
        return unit.train(self.training)

    def to_units(self) -> list[nn.Module]:
        """The units at the middles of K equal cells: the residual branches, for a piecewise constant basis."""
        return [self.unit_at(Fraction(2 * i + 1, 2 * self.basis.K)) for i in range(self.basis.K)]

    @classmethod
    def from_units(cls, units: Sequence[nn.Module], **options: Any) -> ContinuousBlock:
        """A piecewise constant block whose k-th cell holds the k-th unit.

        With the default options (Euler, one step for each unit, ``scale = K``) it computes x + R_k(x) unit after unit,
        exactly the residual network with these branches.

        Args:
            units: Modules with the same parameters and buffers.
            **options: Passed on to the constructor.
        """
        if not units:
            raise ArgumentError("ContinuousBlock.from_units: units must hold at least one module")
        settings = {"solver": "euler", "scale": float(len(units)), **options}
        block = cls(units[0], PiecewiseConstant(len(units)), **settings)
        for kind, nodes in (("parameter", block.theta), ("buffer", block.state)):
            for path, value in nodes.items():
                try:
                    values = [getattr(u, f"get_{kind}")(path).detach() for u in units]
                    stacked = torch.stack(values).to(value.dtype)
                except (AttributeError, RuntimeError) as error:
                    raise ArgumentError(
                        f"ContinuousBlock.from_units: units must all have the {kind} {path!r} with one shape: {error}"
                    ) from None
                value.data.copy_(stacked)
        return block

    def check(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """Try the unit on an input and say what would go wrong later.

        Args:
            x: An input of the block.
            *args: As in ``forward``.
            **kwargs: As in ``forward``.

        Raises:
            ShapeError: The unit changes the shape.
            ArgumentTypeError: The unit changes the dtype or returns no tensor.
            ArgumentError: In evaluation mode the unit gives two answers to one question.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                run = Pass(self, args, kwargs)
                first, second = run.rate(x, 0, {})[0], run.rate(x, 0, {})[0]
        finally:
            self.train(training)
        if not torch.equal(torch.nan_to_num(first), torch.nan_to_num(second)):
            raise ArgumentError(
                f"{self.where}: the unit gives two answers to the same input in evaluation mode, so stages do not see one "
                "rate; keep randomness and state out of it (dropout obeys eval(), buffers need a rule)"
            )

    def get_extra_state(self) -> Tensor:
        """The basis and the solver as JSON bytes in a tensor, so that weights-only formats can carry them."""
        facts = {"basis": self.basis.spec(), "solver": self.solver, "n_steps": self.n_steps, "scale": self.scale}
        return torch.tensor(list(json.dumps(facts | {"grid": self.grid}).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare with the basis of a checkpoint.

        Args:
            state: What :meth:`get_extra_state` gave.

        Raises:
            CheckpointError: The checkpoint belongs to another basis or scale.
        """
        facts = read_extra_state(state)
        for name, mine in (("basis", self.basis.spec()), ("scale", self.scale)):
            if facts.get(name) != mine:
                raise CheckpointError(
                    f"{self.where}: the checkpoint has {name} {facts.get(name)}, this block has {mine}; build the model "
                    "with the checkpoint's, or call match_checkpoint(model, state_dict) first"
                )

    def extra_repr(self) -> str:
        """Basis, solver, steps."""
        return (
            f"{self.basis!r}, solver={self.solver!r}, n_steps={self.n_steps}, scale={self.scale:g}, grid={self.grid!r}"
        )


def read_extra_state(state: Tensor) -> dict[str, Any]:
    """The facts of :meth:`ContinuousBlock.get_extra_state` as a dictionary."""
    try:
        facts = json.loads(bytes(state.tolist()).decode())
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"ContinuousBlock: the checkpoint's description of the block is damaged: {error}"
        ) from None
    return facts if isinstance(facts, dict) else {}


def apply_operator(operator: np.ndarray, nodes: Tensor) -> Tensor:
    """``operator @ nodes`` over the first dimension, in float64."""
    matrix = torch.tensor(operator, dtype=torch.float64)
    flat = nodes.detach().to("cpu", torch.float64).reshape(len(nodes), -1)
    return (matrix @ flat).reshape(-1, *nodes.shape[1:]).to(nodes.device, nodes.dtype)


def keep_positive(value: Tensor, rule: str, basis: Basis | None) -> Tensor:
    """Clamp statistics that must stay positive; modes of a basis may be negative, values may not."""
    if rule != "positive" or (basis is not None and not basis.nonnegative):
        return value
    return value.clamp_min(FLOOR)


def _default_steps(basis: Basis) -> int:
    return len(basis.breakpoints()) - 1 if basis.discontinuous else basis.K
