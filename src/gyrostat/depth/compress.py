"""Compression without retraining: the smallest K with max over leaves |theta - P theta| / |theta| <= tol.

Bound on the output (Gronwall): |x(1) - x~(1)| <= scale exp(scale int L dt) int m dt, where the new rate is
L(t)-Lipschitz in x and the rates differ by m(t).

Source: Stateful ODE-Nets using Basis Function Expansions, arXiv:2106.10820.
Differs from the released code: projections are exact, all K are tried (the error is not monotone across meshes that do
not nest), and the result comes with its error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._checks import Integer, Real
from .._errors import ArgumentError
from .._results import Result
from ..numerics.basis import Basis
from ..numerics.families import ALIASES, BASES
from .block import ContinuousBlock
from .change import blocks, project, relative_errors
from .passes import Pass
from .stages import stage_table

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class BlockCompression(Result):
    """What happened to one block.

    Attributes:
        name: Name of the block in the model.
        before: Basis before.
        after: Basis after.
        errors: Relative L2 error over depth of each parameter.
        output_bound: Bound on the change of the block's output, when data was given.
    """

    name: str
    before: str
    after: str
    errors: dict[str, float]
    output_bound: float | None = None

    @property
    def worst(self) -> float:
        """Largest relative error of a parameter."""
        return max(self.errors.values(), default=0.0)


@dataclass(frozen=True)
class CompressionReport(Result):
    """What a compression saved and what it costs in the weights.

    Attributes:
        parameters_before: Parameters of the whole model.
        parameters_after: The same after.
        blocks: One entry for each block.
        curve: For each basis size tried, ``(K, worst relative error)``, of the block that needs most.
    """

    parameters_before: int
    parameters_after: int
    blocks: list[BlockCompression]
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Parameters before over parameters after."""
        return self.parameters_before / self.parameters_after

    @property
    def worst(self) -> float:
        """Largest relative error of any parameter."""
        return max((b.worst for b in self.blocks), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields and the ratio as plain Python values."""
        return super().to_dict() | {"ratio": self.ratio, "worst": self.worst}

    def plot(self, ax: Any = None) -> Any:
        """Relative error of the weights against the number of basis functions.

        Args:
            ax: Axes to draw on; new ones when left out.
        """
        from ..report.figures import new_figure, style

        ax = ax if ax is not None else new_figure()[1][0]
        sizes, errors = [k for k, _ in self.curve], [e for _, e in self.curve]
        ax.plot(sizes, errors, **style(0))
        ax.set(xlabel="basis functions K", ylabel="worst relative error of a parameter", title="Compression error")
        return ax


def _family(basis: Basis, wanted: str | None) -> Basis:
    if wanted is None:
        return basis
    family = BASES.get(ALIASES.get(wanted, wanted))
    if family is None:
        raise ArgumentError(f"compress: basis must be one of {', '.join(BASES)} or None, got {wanted!r}")
    for k in range(1, 5):
        try:
            return family(k)
        except ArgumentError:
            continue
    return basis


def compress(
    model: M,
    tol: float | None = None,
    *,
    n_basis: int | None = None,
    basis: str | None = None,
    data: Tensor | None = None,
    inplace: bool = False,
) -> tuple[M, CompressionReport]:
    """Fewer coefficients over depth for every block, weights and statistics alike, without data and retraining.

    Args:
        model: A model with blocks.
        tol: Largest relative L2 error over depth that any parameter may suffer; each block gets the smallest K for it.
        n_basis: Or: this many basis functions in every block.
        basis: Family of the target, such as ``"hat"``; each block's own when left out.
        data: A batch of the model's inputs, to bound the change of each block's output.
        inplace: Change the model given instead of a copy.

    Returns:
        The compressed model and a :class:`CompressionReport`. A block for which no smaller K is good enough stays.

    Raises:
        ArgumentError: No block; neither or both of ``tol`` and ``n_basis``; a K that the family does not have.

    Source:
        arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock, PiecewiseConstant
        >>> block = ContinuousBlock(torch.nn.Linear(3, 3), PiecewiseConstant(8))  # the same at all depths
        >>> small, report = compress(block, tol=0.01)
        >>> small.basis, report.ratio
        (PiecewiseConstant(K=1), 8.0)
    """
    Real(low=0, optional=True).check("tol", tol, "compress")
    Integer(low=1, optional=True).check("n_basis", n_basis, "compress")
    if (tol is None) == (n_basis is None):
        raise ArgumentError("compress: give tol (largest relative error) or n_basis (size), one of the two")
    before = sum(p.numel() for p in model.parameters())
    targets: dict[str, Basis | str] = {}
    entries: list[BlockCompression] = []
    curve: dict[int, float] = {}
    for name, block in blocks(model).items():
        family = _family(block.basis, basis)
        target = block.basis if n_basis is None else family.resized(n_basis)
        for k in range(1, block.basis.K + 1):
            if not family.fits(k):
                continue
            candidate = family.resized(k)
            worst = max(relative_errors(block, candidate).values(), default=0.0)
            curve[k] = max(curve.get(k, 0.0), worst)
            if tol is not None and worst <= tol and target is block.basis:
                target = candidate
        targets[name] = target
        entries.append(BlockCompression(name, block.basis.spec(), target.spec(), relative_errors(block, target)))
    smaller = project(model, targets, inplace=False)
    if data is not None:
        bounds = output_bounds(model, smaller, data)
        entries = [BlockCompression(e.name, e.before, e.after, e.errors, bounds[e.name]) for e in entries]
    result = project(model, targets, inplace=True) if inplace else smaller
    after = sum(p.numel() for p in result.parameters())
    return result, CompressionReport(before, after, entries, sorted(curve.items()))


def output_bounds(
    model: nn.Module, changed: nn.Module, data: Tensor, lipschitz: float | None = None
) -> dict[str, float]:
    """Bound, block by block, on how far the output of a changed block can be from the original's on the same input.

    L and m are measured along the original's own trajectory (L: largest singular value of the Jacobian of the changed
    rate, by power iteration), so the bound is first order in the change; with ``lipschitz`` it is rigorous if that
    constant is.

    Args:
        model: The original.
        changed: The same model with changed blocks.
        data: A batch of the model's inputs.
        lipschitz: Lipschitz constant of all rates, when one is known.

    Returns:
        Block name to bound on the Euclidean distance of one sample's output.
    """
    inputs: dict[str, tuple[Any, ...]] = {}

    def keep(name: str) -> Any:
        return lambda _, args: inputs.setdefault(name, args) and None

    hooks = [block.register_forward_pre_hook(keep(name)) for name, block in blocks(model).items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(data)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    others = blocks(changed)
    return {n: _bound(b, others[n], *inputs[n], lipschitz=lipschitz) for n, b in blocks(model).items() if n in inputs}


def _bound(old: ContinuousBlock, new: ContinuousBlock, x: Tensor, *args: Any, lipschitz: float | None) -> float:
    n = max(old.n_steps, new.n_steps, old.basis.K, new.basis.K)
    cells = {b: (len(b.breakpoints()) - 1) for b in (old.basis, new.basis)}
    n = math.lcm(*cells.values()) * math.ceil(n / math.lcm(*cells.values()))
    runs = []
    modes = old.training, new.training
    for block in (old, new):
        block.eval()
        run = Pass(block, args, {})
        run.table = stage_table(block.basis, "midpoint", n, scale=block.scale)
        runs.append(run)
    first, second = runs
    growth = distance = 0.0
    with torch.no_grad():
        for i in range(n):
            # the middle of each cell of a grid on which both bases are smooth
            stage = 2 * i + 1
            k, other = first.rate(x, stage, {})[0], second.rate(x, stage, {})[0]
            distance += _norms(other - k) / n
            growth += (_jacobian_norm(second, x, stage) if lipschitz is None else lipschitz) / n
            x = x + old.scale / n * k
    for block, mode in zip((old, new), modes):
        block.train(mode)
    return abs(new.scale) * math.exp(abs(new.scale) * growth) * distance


def _norms(x: Tensor) -> float:
    return float(x.reshape(len(x), -1).norm(dim=1).max())


def _jacobian_norm(run: Pass, x: Tensor, stage: int, iterations: int = 12) -> float:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    size = 0.0
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        out = run.rate(point, stage, {})[0]
        cotangent = torch.zeros_like(out, requires_grad=True)
        (pulled,) = torch.autograd.grad(out, point, cotangent, create_graph=True)
        for _ in range(iterations):
            v = v / v.reshape(len(v), -1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (v.dim() - 1))
            (forward,) = torch.autograd.grad(pulled, cotangent, v, retain_graph=True)
            size = _norms(forward)
            (v,) = torch.autograd.grad(out, point, forward, retain_graph=True)
    return size
