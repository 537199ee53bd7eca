"""One pass through a block: k_j = R(x + sum_l h a_jl k_l; theta(t_j), s(t_j)), x+ = x + sum_j h b_j k_j.

Statistics after the pass: s <- s + A^+ (y - A s), with y the updates of all stages and A the basis at their depths.

Source: Stateful ODE-Nets, arXiv:2106.10820.
Differs from the released code: the pseudo-inverse form keeps what no stage has seen; the release solves normal
equations and returns NaN there.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint as recompute

from .._errors import ArgumentTypeError, ShapeError

if TYPE_CHECKING:
    from .block import ContinuousBlock
    from .stages import StageTable

FLOOR = 1e-12  # smallest running variance after a projection
_KEEP = 2  # evaluated rows kept: the middle of a step is read twice, its end again by the next step


def combine(terms: tuple[tuple[int, float], ...], nodes: tuple[Tensor, ...]) -> Tensor:
    """sum_k w_k nodes[k]; a single weight of 1 is a view, no arithmetic."""
    (k, weight), *rest = terms
    value = nodes[k] if weight == 1.0 else nodes[k] * weight
    for k, weight in rest:
        value = torch.add(value, nodes[k], alpha=weight)
    return value


class Pass:
    """Coefficients unbound once, rows evaluated when a stage asks for them.

    Args:
        block: The block that is run.
        args: Further arguments of the unit.
        kwargs: Further keyword arguments of the unit.
        keep_states: Whether the state after each step is wanted; it costs their memory.
    """

    def __init__(
        self, block: ContinuousBlock, args: tuple[Any, ...], kwargs: dict[str, Any], *, keep_states: bool = False
    ) -> None:
        self.block, self.table, self.args, self.kwargs = block, block._table, args, kwargs
        self.keep_states = keep_states
        # one unbind for each leaf: its gradient is stacked once instead of once a stage
        self.theta = {path: nodes.unbind(0) for path, nodes in block.theta.items()}
        self.state = {
            path: list((nodes.log() if block.rules[path] == "log" else nodes).unbind(0))
            for path, nodes in block.state.items()
        }
        self.fixed = dict(block.fixed.items())
        self.sequential = block.training and block.state_update == "sequential"
        self.rng = _rng_state(block) if block.training and block.dropout == "per_pass" else None

    def steps(self, x: Tensor, first: int, last: int) -> tuple[Tensor, list[dict[str, Tensor]], list[Tensor]]:
        """Steps ``first`` to ``last - 1``: the new state, the statistics of every stage, the state after each step."""
        updates: list[dict[str, Tensor]] = []
        states: list[Tensor] = []
        cache: dict[int, dict[str, Tensor]] = {}
        for i in range(first, last):
            if self.block.training and self.block.dropout == "per_step":
                self.rng = _rng_state(self.block)
            x = self._step(x, i, cache, updates)
            if self.keep_states:
                states.append(x)
        return x, updates, states

    def _step(self, x: Tensor, i: int, cache: dict[int, dict[str, Tensor]], updates: list[dict[str, Tensor]]) -> Tensor:
        # a function of its own, so that the slopes of a step are free before the next one needs room
        slopes: list[Tensor] = []
        for j, row in enumerate(self.table.a[i]):
            z = x
            for slope, weight in zip(slopes, row):
                if weight != 0.0:
                    z = torch.add(z, slope, alpha=weight)
            slope, update = self._call(z, i * self.table.scheme.stages + j, cache)
            slopes.append(slope)
            if update:
                updates.append(update)
        for slope, weight in zip(slopes, self.table.b[i]):
            if weight != 0.0:
                x = torch.add(x, slope, alpha=weight)
        return x

    def _call(self, x: Tensor, stage: int, cache: dict[int, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.block.checkpoint == "stage" and torch.is_grad_enabled():
            result: Any = recompute(self.rate, x, stage, {}, use_reentrant=False)
            return result
        return self.rate(x, stage, cache)

    def rate(self, x: Tensor, stage: int, cache: dict[int, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """One call of the unit: its output and, in training, its updated statistics."""
        block, row = self.block, self.table.row[stage]
        terms = self.table.terms[row]
        if row not in cache:
            if len(cache) >= _KEEP:
                del cache[next(iter(cache))]
            cache[row] = {path: combine(terms, nodes) for path, nodes in self.theta.items()}
            if not block.training:
                cache[row] |= self._statistics(terms)
        entries = dict(cache[row])
        if block.training:
            # the unit updates its statistics in place: it gets copies, and the copies are read back
            entries |= {path: value.detach().clone() for path, value in self._statistics(terms).items()}
            entries |= {path: v.clone() if block.rules[path] == "counter" else v for path, v in self.fixed.items()}
        else:
            entries |= self.fixed
        if self.rng is not None:
            _set_rng_state(self.rng, x)
        for path, kept in block.aliases.items():
            entries[path] = entries[kept]
        inputs = (x, float(self.table.times[stage]), *self.args) if block.pass_time else (x, *self.args)
        out = functional_call(block._template, entries, inputs, self.kwargs, tie_weights=False)
        self._check(out, x)
        if not block.training:
            return out, {}
        update = {path: entries[path] for path in self.state}
        if self.sequential:
            for path, value in update.items():
                self.state[path][terms[0][0]] = value
        return out, update

    def _statistics(self, terms: tuple[tuple[int, float], ...]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path, nodes in self.state.items():
            value, rule = combine(terms, tuple(nodes)), self.block.rules[path]
            if rule == "log":
                value = value.exp()
            elif rule == "positive" and not self.block.basis.nonnegative:
                value = value.clamp_min(FLOOR)
            found[path] = value
        return found

    def _check(self, out: Any, x: Tensor) -> None:
        where = self.block.where
        if not isinstance(out, Tensor):
            raise ArgumentTypeError(f"{where}: the unit must return one tensor, got {type(out).__name__}")
        if out.shape != x.shape:
            raise ShapeError(
                f"{where}: the unit turns {tuple(x.shape)} into {tuple(out.shape)}; a rate must keep the shape of its "
                "input, so put what changes the shape before or after the block"
            )
        if out.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ArgumentTypeError(f"{where}: the unit turns {x.dtype} into {out.dtype}; a rate must keep the dtype")


@torch.no_grad()
def write_back(block: ContinuousBlock, run: Pass, updates: list[dict[str, Tensor]]) -> None:
    """Put the statistics of all stages back into the coefficients; count the pass."""
    for path, nodes in block.fixed.items():
        if block.rules[path] == "counter":
            nodes.add_(1)
    if not updates:
        return
    table = block._table
    one_hot = all(len(t) == 1 and t[0][1] == 1.0 for t in table.terms)
    for path, nodes in block.state.items():
        rule = block.rules[path]
        if run.sequential:
            nodes.copy_(torch.stack(run.state[path]))
            continue
        samples = [u[path].log() if rule == "log" else u[path] for u in updates]
        if one_hot:
            new = _cell_means(table, samples, nodes.log() if rule == "log" else nodes)
        else:
            new = _refit(table, samples, nodes.log() if rule == "log" else nodes)
        if rule == "log":
            new = new.exp()
        elif rule == "positive" and block.basis.nonnegative:
            _warn_of_clamping(block, path, new)
            new = torch.where(new < 0, FLOOR, new)
        nodes.copy_(new)


def _cell_means(table: StageTable, samples: list[Tensor], nodes: Tensor) -> Tensor:
    seen: dict[int, list[Tensor]] = {}
    for row, sample in zip(table.row, samples):
        seen.setdefault(table.terms[row][0][0], []).append(sample)
    cells = list(nodes.unbind(0))
    for k, values in seen.items():
        cells[k] = values[0] if len(values) == 1 else torch.stack(values).mean(0)
    return torch.stack(cells)


def _refit(table: StageTable, samples: list[Tensor], nodes: Tensor) -> Tensor:
    inverse, rows = (torch.tensor(m, dtype=nodes.dtype, device=nodes.device) for m in table.fit)
    flat = nodes.reshape(len(nodes), -1)  # (K, P)
    y = torch.stack(samples).reshape(len(samples), -1)  # (n_stages, P)
    return (flat + inverse @ (y - rows @ flat)).reshape(nodes.shape)


def _warn_of_clamping(block: ContinuousBlock, path: str, new: Tensor) -> None:
    # looking at values would stall an accelerator and break a compiled graph
    if torch.compiler.is_compiling() or new.device.type != "cpu" or block._clamp_warned:
        return
    if bool((new < 0).any()):
        block._clamp_warned = True
        warnings.warn(
            f"{block.where}: the projected statistics {path!r} would be negative at some depth and are clamped to {FLOOR:g}; "
            'take more steps than K, a piecewise constant basis, or buffer_rules={"running_var": "log"}',
            RuntimeWarning,
            stacklevel=4,
        )


def _rng_state(block: ContinuousBlock) -> Tensor:
    device = next(iter(block.parameters())).device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng_state(state: Tensor, x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.set_rng_state(state, x.device)
    else:
        torch.set_rng_state(state)
