"""Is a trained model an integrator? Same weights, other graphs: does x(1) converge, and does the metric stay?

Richardson: with a scheme of order p, error of N steps ~ 2^p / (2^p - 1) |x_2N - x_N|.

Source: Continuous-in-Depth Neural Networks, arXiv:2008.02389.
Differs from the released code: nowhere known; the verdict and the error estimate are additions. A diagnosis, not a
promise: networks trained with a fourth-order scheme can overfit it too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Integer, Real
from .._errors import ArgumentError
from .._results import Result
from ..numerics.tableau import tableau
from .change import blocks, set_solver


@dataclass(frozen=True)
class Manifestation(Result):
    """One graph of the same weights.

    Attributes:
        solver: Scheme.
        n_steps: Steps.
        evaluations: Calls of a unit in one block.
        metric: The metric, accuracy by default.
        output_error: Largest difference of an output from the reference graph's.
    """

    solver: str
    n_steps: int
    evaluations: int
    metric: float
    output_error: float


@dataclass(frozen=True)
class ManifestationReport(Result):
    """The metric and the outputs of one set of weights under several schemes and numbers of steps.

    Attributes:
        rows: One entry for each graph.
        trained: The graph the model came with.
        verdict: ``"integrator"`` if finer graphs and higher orders keep the metric and converge, else ``"discrete"``.
        reason: What decided the verdict.
    """

    rows: list[Manifestation]
    trained: Manifestation
    verdict: str
    reason: str

    def plot(self, ax: Any = None) -> Any:
        """The metric against the number of steps, one line for each scheme.

        Args:
            ax: Axes to draw on; new ones when left out.
        """
        from ..report.figures import new_figure, style

        ax = ax if ax is not None else new_figure()[1][0]
        for i, name in enumerate(dict.fromkeys(r.solver for r in self.rows)):
            mine = [r for r in self.rows if r.solver == name]
            ax.plot([r.n_steps for r in mine], [r.metric for r in mine], label=name, **style(i))
        ax.axvline(self.trained.n_steps, linestyle=":", color="0.5")
        ax.set(
            xlabel="steps (dotted: as trained)", ylabel="metric", title=f"Same weights, other graphs: {self.verdict}"
        )
        ax.set_xscale("log", base=2)
        ax.legend()
        return ax


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of rows whose largest output is the target class."""
    return float((outputs.argmax(-1) == targets).double().mean())


def _batches(data: Any) -> list[tuple[Tensor, Tensor]]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(d, Tensor) for d in data):
        return [(data[0], data[1])]
    if isinstance(data, Iterable):
        found = list(data)
        if found and all(isinstance(b, (tuple, list)) and len(b) == 2 for b in found):
            return found
    raise ArgumentError("manifestation_report: data must be (inputs, targets) or an iterable of such pairs")


@torch.no_grad()
def _outputs(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([model(x) for x, _ in batches])


def manifestation_report(
    model: nn.Module,
    data: Any,
    schemes: Sequence[str] = ("euler", "midpoint", "rk4"),
    steps: Sequence[int] | None = None,
    *,
    reference: tuple[str, int] | None = None,
    metric: Callable[[Tensor, Tensor], float] = accuracy,
    tol: float = 0.01,
) -> ManifestationReport:
    """Evaluate one set of weights under several schemes and numbers of steps.

    Args:
        model: A trained model with blocks; neither changed nor retrained.
        data: ``(inputs, targets)`` or an iterable of such pairs.
        schemes: Schemes to try.
        steps: Numbers of steps to try; half, once, twice and four times the trained number when left out.
        reference: Scheme and steps of the reference outputs; RK4 with four times the trained steps when left out.
        metric: Function of outputs and targets, larger is better.
        tol: How far the metric may move from the trained graph's for the verdict ``"integrator"``.

    Returns:
        A :class:`ManifestationReport`.

    Raises:
        ArgumentError: No block, data of another form, an unknown scheme.

    Source:
        arXiv:2008.02389.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousBlock
        >>> block = ContinuousBlock(torch.nn.Linear(3, 3), solver="rk4", n_steps=4)
        >>> report = manifestation_report(block, (torch.ones(5, 3), torch.zeros(5, dtype=torch.long)))
        >>> report.verdict
        'integrator'
    """
    Real(low=0).check("tol", tol, "manifestation_report")
    for n in steps or ():
        Integer(low=1).check("steps", n, "manifestation_report")
    for scheme in schemes:
        tableau(scheme)
    batches = _batches(data)
    targets = torch.cat([y for _, y in batches])
    model = copy.deepcopy(model).eval()
    found = blocks(model)
    if not found:
        raise ArgumentError("manifestation_report: model has no ContinuousBlock, so there is one graph only")
    block = next(iter(found.values()))
    n_train = block.n_steps
    outputs = _outputs(model, batches)
    solver, fine = reference or ("rk4", 4 * n_train)
    home = block.solver, n_train, block.n_evaluations
    exact = _outputs(set_solver(model, solver, fine), batches)
    trained = Manifestation(*home, metric(outputs, targets), float((outputs - exact).abs().max()))
    rows = []
    for scheme in schemes:
        for n in steps or sorted({max(n_train // 2, 1), n_train, 2 * n_train, 4 * n_train}):
            outputs = _outputs(set_solver(model, scheme, n), batches)
            error = float((outputs - exact).abs().max())
            rows.append(Manifestation(scheme, n, block.n_evaluations, metric(outputs, targets), error))
    verdict, reason = _judge(rows, trained, tol, float(exact.abs().max()))
    return ManifestationReport(rows, trained, verdict, reason)


def _judge(rows: list[Manifestation], trained: Manifestation, tol: float, size: float) -> tuple[str, str]:
    fine = [r for r in rows if r.n_steps >= trained.n_steps and tableau(r.solver).order >= 2]
    if not fine:
        return "discrete", "no graph at least as fine as the trained one was tried"
    for r in fine:
        if abs(r.metric - trained.metric) > tol:
            return "discrete", (
                f"{r.solver} with {r.n_steps} steps moves the metric from {trained.metric:.4g} to {r.metric:.4g}"
            )
    # below this the difference is rounding, which need not decrease
    floor = 1e-5 * max(size, 1.0)
    for scheme in dict.fromkeys(r.solver for r in fine):
        errors = [r.output_error for r in sorted(fine, key=lambda r: r.n_steps) if r.solver == scheme]
        if any(later > max(earlier, floor) for earlier, later in pairwise(errors)):
            return "discrete", f"the outputs of {scheme} do not converge as steps get finer"
    return "integrator", "finer graphs and higher orders keep the metric, and their outputs converge"


@torch.no_grad()
def solver_error(model: nn.Module, x: Tensor) -> float:
    """Estimate how far a model's output is from that of infinitely many steps (Richardson).

    Args:
        model: A model with blocks; not changed.
        x: A batch of its inputs.

    Returns:
        Estimated largest absolute error of an output; the order is that of the schemes, so the grid must be aligned.
    """
    model = copy.deepcopy(model).eval()
    found = blocks(model)
    if not found:
        raise ArgumentError("solver_error: model has no ContinuousBlock, so it takes no steps")
    coarse = model(x)
    order = min(b.scheme_order for b in found.values())
    for block in found.values():
        block.set_solver(n_steps=2 * block.n_steps)
    return float((model(x) - coarse).abs().max()) * 2**order / (2**order - 1)


@torch.no_grad()
def recalibrate_state(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Refresh the running statistics with data after a change of basis; opt-in, the papers use no data.

    Args:
        model: A model with blocks; its statistics are updated in place.
        batches: Inputs.

    Returns:
        The model given, in the mode it had.
    """
    training = model.training
    model.train()
    for x in batches:
        model(x)
    return model.train(training)
