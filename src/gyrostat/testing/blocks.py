"""The conformance suite of units: what a module must keep to be the rate of a block of continuous depth.

    check_block(unit, x)      raises AssertionError with the promise that is broken, or returns the names of the checks

Source: the contract of ``gyrostat.depth.block``; the residual identity is that of arXiv:2008.02389, the statistics over
depth those of arXiv:2106.10820.
Differs from the released code: there was no suite.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..depth.block import ContinuousBlock
from ..depth.change import match_checkpoint, project, refine
from ..depth.stages import GridAlignmentWarning
from ..numerics.basis import Basis, DGLinear, Hat, PiecewiseConstant
from ..numerics.modal import Legendre

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
FAMILIES: tuple[Basis, ...] = (PiecewiseConstant(3), Hat(3), DGLinear(4), Legendre(3))


@dataclass(frozen=True)
class Trial:
    """A unit in float64, an input for it, and what else its calls take."""

    unit: nn.Module
    x: Tensor
    args: tuple[Any, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    def block(self, basis: Basis, solver: str = "midpoint", n_steps: int = 3, **options: Any) -> ContinuousBlock:
        """The unit with a slightly different drift of all weights in each coefficient."""
        options = {"buffer_rules": self.rules, "scale": 0.5, **options}
        made = ContinuousBlock(self.unit, basis, solver, n_steps, **options)
        with torch.no_grad():
            for i, (_, nodes) in enumerate(made.theta.items()):
                drift = torch.linspace(0, 0.1, basis.K, dtype=nodes.dtype).reshape(-1, *[1] * (nodes.dim() - 1))
                nodes.add_(nodes * drift * (1 + i % 3))
        return made

    def run(self, block: nn.Module) -> Tensor:
        """A call, the same dropout masks each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return block(self.x, *self.args)


def _same(ours: Tensor, theirs: Tensor, what: str, **tolerance: Any) -> None:
    torch.testing.assert_close(ours, theirs, **(tolerance or CLOSE), msg=lambda m: f"{what}: {m}")


def _statistics(block: ContinuousBlock) -> dict[str, Tensor]:
    return {path: value.clone() for path, value in (*block.state.items(), *block.fixed.items())}


def shape_and_determinism(trial: Trial) -> None:
    """The unit keeps shape and dtype, and in evaluation mode answers the same question the same way."""
    trial.block(PiecewiseConstant(1)).check(trial.x, *trial.args)


def residual_identity(trial: Trial) -> None:
    """Euler with as many steps as cells is x + R_k(x), unit after unit, bit for bit."""
    block = trial.block(PiecewiseConstant(3), "euler", 3, scale=3.0).eval()
    x = trial.x
    for unit in block.to_units():
        x = x + unit(x, *trial.args)
    _same(trial.run(block), x, "the residual network with the same units", rtol=0.0, atol=0.0)


def refinement(trial: Trial) -> None:
    """More coefficients for the same functions keep the output."""
    for basis in FAMILIES:
        block = trial.block(basis).eval()
        _same(trial.run(refine(block, steps=False)), trial.run(block), f"refine from {basis!r}")


def projection(trial: Trial) -> None:
    """A larger space and back is the identity, and the model that was given stays as it was."""
    for basis in (PiecewiseConstant(2), Hat(3), DGLinear(4)):
        block = trial.block(basis).eval()
        before = copy.deepcopy(block.state_dict())
        back = project(project(block, basis.refine()[0]), basis)
        _same(trial.run(back), trial.run(block), f"{basis!r} there and back")
        for name, value in block.state_dict().items():
            assert torch.equal(value, before[name]), f"project changed {name} of the model it was given"


def gradients(trial: Trial) -> None:
    """Every coefficient has a gradient, and it is the derivative (one direction, central differences)."""
    block = trial.block(Hat(3)).eval()
    names, values = zip(*block.named_parameters())
    trial.run(block).square().sum().backward()
    generator = torch.Generator().manual_seed(2)
    moves = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in values]
    found = 0.0
    for name, value, move in zip(names, values, moves):
        if value.requires_grad:
            assert value.grad is not None, f"{name} gets no gradient"
            found += float((value.grad * move).sum())
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            shifted = copy.deepcopy(block)
            for value, move in zip(shifted.parameters(), moves):
                if value.requires_grad:
                    value.add_(move, alpha=sign * step)
            ends.append(float(trial.run(shifted).square().sum()))
    slope = (ends[0] - ends[1]) / (2 * step)
    assert abs(found - slope) <= 1e-4 * max(abs(slope), 1.0), f"gradient {found:.8g}, central difference {slope:.8g}"


def recomputation(trial: Trial) -> None:
    """Recomputing in the backward pass changes neither outputs, nor gradients, nor statistics."""
    results = []
    for mode in ("none", "step"):
        block = trial.block(Hat(3), checkpoint=mode).train()
        y = trial.run(block)
        y.square().sum().backward()
        results.append((y.detach(), [p.grad for p in block.parameters()], _statistics(block)))
    (y, grads, statistics), (y2, grads2, statistics2) = results
    _same(y2, y, "output with checkpointing", rtol=0.0, atol=0.0)
    for a, b in zip(grads, grads2):
        if a is not None and b is not None:
            _same(b, a, "gradient with checkpointing")
    for path, value in statistics.items():
        _same(statistics2[path], value, f"{path} with checkpointing", rtol=0.0, atol=0.0)


def statistics(trial: Trial) -> None:
    """Training writes finite statistics, evaluation writes nothing."""
    for basis in FAMILIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            block = trial.block(basis).train()
            trial.run(block)
        written = _statistics(block)
        for path, value in written.items():
            assert bool(torch.isfinite(value).all()), f"{path} is not finite after a pass with {basis!r}"
        y = trial.run(block.eval())
        assert bool(torch.isfinite(y).all()), f"the output is not finite in evaluation mode with {basis!r}"
        for path, value in _statistics(block).items():
            assert torch.equal(value, written[path]), f"evaluation wrote {path}"


def checkpoints(trial: Trial) -> None:
    """A state_dict loads strictly, also into a block of another level."""
    block = trial.block(Hat(3)).eval()
    other = trial.block(PiecewiseConstant(2), "euler", 2).eval()
    match_checkpoint(other, block.state_dict()).load_state_dict(block.state_dict())
    _same(trial.run(other), trial.run(block), "after loading", rtol=0.0, atol=0.0)


CHECKS: tuple[Callable[[Trial], None], ...] = (
    shape_and_determinism,
    residual_identity,
    refinement,
    projection,
    gradients,
    recomputation,
    statistics,
    checkpoints,
)


def check_block(
    unit: nn.Module,
    x: Tensor,
    *args: Any,
    buffer_rules: Mapping[str, str] | None = None,
    checks: tuple[Callable[[Trial], None], ...] = CHECKS,
) -> list[str]:
    """Hold a module to what a block of continuous depth expects of its unit.

    Args:
        unit: The module; it is copied and checked in float64.
        x: An input for it, ``(B, ...)``.
        *args: What else its calls take.
        buffer_rules: As for :class:`gyrostat.ContinuousBlock`.
        checks: A subset of ``CHECKS``.

    Returns:
        The names of the checks that passed: all of them.

    Raises:
        AssertionError: A promise is broken; the message says which.
        GyrostatError: The unit cannot be a rate at all.

    Example:
        >>> import torch
        >>> unit = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
        >>> len(check_block(unit, torch.randn(4, 3)))
        8
    """
    double = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    trial = Trial(copy.deepcopy(unit).double(), x.detach().double(), tuple(double), dict(buffer_rules or {}))
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        for check in checks:
            check(trial)
            done.append(check.__name__)
    return done
