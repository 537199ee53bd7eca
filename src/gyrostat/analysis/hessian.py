r"""The curvature of a loss in the parameters: ends of the Hessian's spectrum, its trace, its density.

    H = ∇²_θ (1/n) Σ_i ℓ(model(x_i), y_i),     H v = ∇_θ (∇_θ loss · v)          (double backward, over batches)

Eigenvalues by Lanczos with full re-orthogonalisation, stopped at ``‖H v − θ v‖ ≤ tol |θ|``; trace by Hutchinson or
Hutch++; density by stochastic Lanczos quadrature. Eigenvalues come with residuals, trace and density are estimates.

Source: the Section 7 quantities of Lipschitz Recurrent Neural Networks, arXiv:2006.12070.
Differs from the released code: it was never released; PyHessian (arXiv:1912.07145) is the peer.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError
from .._results import Result
from ..numerics.krylov import EigenPairs, lanczos
from ..numerics.trace import SpectralDensity, TraceEstimate, hutchinson, hutchpp, lanczos_density
from ._models import evaluating

Loss = Callable[[Any, Any], Tensor]
MEMORY = 2**30


@dataclass(frozen=True)
class HessianSpectrum(Result):
    """Curvature of a loss.

    Attributes:
        largest: ``(k,)`` largest algebraic eigenvalues, descending, each within its residual of a true one.
        smallest: ``(k,)`` smallest algebraic eigenvalues, ascending; empty where only the largest were asked for.
        largest_magnitude: The eigenvalue of largest magnitude among them.
        residuals: ``(2, k)``: of ``largest``, of ``smallest``; ``(1, k)`` where only the largest were asked for.
        converged: All residuals are within the tolerance.
        message: What to think of the numbers, in words.
        trace: Estimate with its standard error, or None when not asked for.
        density: Estimate of the spectral density, or None.
        n_parameters: Size of the Hessian.
        loss: Value of the loss on the data.
        products: Hessian-vector products spent on the eigenvalues.
        top_vector: ``(n_parameters,)`` unit Ritz vector of the largest eigenvalue.
    """

    largest: Tensor
    smallest: Tensor
    largest_magnitude: float
    residuals: Tensor
    converged: bool
    message: str
    trace: TraceEstimate | None
    density: SpectralDensity | None
    n_parameters: int
    loss: float
    products: int
    top_vector: Tensor = field(repr=False)

    def plot(self, ax: Any = None) -> Any:
        """Draw the density (an estimate) on a logarithmic axis, with the eigenvalues found as ticks."""
        from ..report.figures import new_figure

        ax = new_figure()[1][0] if ax is None else ax
        if self.density is not None:
            ax.semilogy(self.density.grid, self.density.density.clamp_min(1e-8))
            ax.set_ylim(bottom=1e-6)
        for value in [*self.largest.tolist(), *self.smallest.tolist()]:
            ax.axvline(value, ymax=0.06, linewidth=1.5, color="#D55E00")
        ax.set(xlabel="Hessian eigenvalue", ylabel="density (estimate)")
        return ax


class HessianOperator:
    """``v ↦ H v`` on flat vectors, summed over batches; keeps the gradient's graph when there is a single batch."""

    def __init__(self, model: nn.Module, loss: Loss, batches: list[tuple[Any, Any]], where: str) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ArgumentError(f"{where}: model has no parameters that require gradients")
        self.model, self.loss, self.batches, self.where = model, loss, batches, where
        self.n = sum(p.numel() for p in self.parameters)
        self.sizes = [_rows(x) for x, _ in batches]
        self._kept: tuple[Tensor, ...] | None = None
        self.value = 0.0
        first = self._gradients(0)
        self.like = torch.empty(0, dtype=first[0].dtype, device=first[0].device)
        if len(batches) == 1:
            self._kept = first

    def _gradients(self, i: int) -> tuple[Tensor, ...]:
        x, y = self.batches[i]
        try:
            value = self.loss(self.model(x), y)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ArgumentError(
                f"{self.where}: data: batch {i} does not fit the model and the loss: {error}"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ArgumentTypeError(f"{self.where}: loss must return one number per batch, the mean over its samples")
        if not bool(torch.isfinite(value)):
            raise ArgumentError(f"{self.where}: loss is not finite on batch {i} of data")
        self.value = float(value.detach())
        gradients = torch.autograd.grad(value.reshape(()), self.parameters, create_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters))

    def __call__(self, v: Tensor) -> Tensor:
        """The product of the Hessian with ``v (n,)``."""
        pieces = [s.view_as(p) for s, p in zip(v.split([p.numel() for p in self.parameters]), self.parameters)]
        total = torch.zeros_like(v)
        for i, size in enumerate(self.sizes):
            gradients = self._kept or self._gradients(i)
            pairs = [(g, s.to(g)) for g, s in zip(gradients, pieces) if g.requires_grad]
            if not pairs:
                continue
            try:
                second = torch.autograd.grad(
                    [g for g, _ in pairs],
                    self.parameters,
                    [s for _, s in pairs],
                    retain_graph=self._kept is not None,
                    allow_unused=True,
                )
            except RuntimeError as error:
                raise ArgumentError(
                    f"{self.where}: model has no second derivative ({error}); use operations that have one, "
                    "for a fused layer backend='reference'"
                ) from error
            flat = torch.cat(
                [(torch.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(second, self.parameters)]
            )
            total = total + flat * (size / sum(self.sizes))
        return total

    def gradient(self) -> Tensor:
        """The gradient on the first batch, ``(n,)``: rich in the directions of large curvature, where Lanczos may begin."""
        own = self._kept or self._gradients(0)
        return torch.cat([g.detach().reshape(-1) for g in own]).to(self.like)

    def mean_loss(self) -> float:
        """The loss over all batches."""
        if len(self.batches) == 1:
            return self.value
        total = 0.0
        for (x, y), size in zip(self.batches, self.sizes):
            with torch.no_grad():
                total += size * float(self.loss(self.model(x), y))
        return total / sum(self.sizes)


def _rows(x: Any) -> int:
    while isinstance(x, (tuple, list)) and x:
        x = x[0]
    return int(x.shape[0]) if isinstance(x, Tensor) and x.ndim else 1


def as_batches(data: Any, batch_size: int | None, where: str) -> list[tuple[Any, Any]]:
    """``(x, y)`` tensors or an iterable of such pairs, as a list of batches."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        if len(x) != len(y) or len(x) == 0:
            raise ArgumentError(f"{where}: data must hold as many inputs as targets, got {len(x)} and {len(y)}")
        size = batch_size or len(x)
        return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    if not isinstance(data, Iterable):
        raise ArgumentTypeError(
            f"{where}: data must be a pair (x, y) or an iterable of pairs, got {type(data).__name__}"
        )
    batches = [tuple(batch) for batch in data]
    if not batches or any(len(batch) != 2 for batch in batches):
        raise ArgumentError(f"{where}: data must give at least one batch, and batches that are pairs (x, y)")
    return batches


def hessian_spectrum(
    model: nn.Module,
    loss: Loss,
    data: Any,
    k: int = 1,
    trace: str | int | None = "hutchinson",
    density: bool = False,
    *,
    ends: str = "both",
    batch_size: int | None = None,
    probes: int = 32,
    density_probes: int = 4,
    density_steps: int = 60,
    tol: float = 1e-4,
    max_steps: int | None = None,
    basis: int | None = None,
    generator: torch.Generator | None = None,
) -> HessianSpectrum:
    """Ends of the Hessian's spectrum, its trace and density, for any module, in evaluation mode.

    Args:
        model: Any module; all parameters that require gradients count.
        loss: ``loss(model(x), y)``, the mean over the batch, e.g. ``torch.nn.functional.cross_entropy``.
        data: ``(x, y)`` tensors, or an iterable of such batches; batches are weighted by ``len(x)``.
        k: Eigenvalues at either end.
        trace: ``"hutchinson"``, ``"hutch++"``, or None for no trace.
        density: Also estimate the density.
        ends: ``"both"``, or ``"largest"`` alone, which needs far fewer products: the small end converges slowly.
        batch_size: Splits ``(x, y)`` so that a batch's graph fits in memory; the result stays the same.
        probes: Hessian products for the trace.
        density_probes: Random starts for the density.
        density_steps: Lanczos steps per start.
        tol: Relative tolerance of the residuals; 1e-4 suits float32, use 1e-8 in float64.
        max_steps: Most Hessian products for the eigenvalues; ``max(20 k, 200)`` when left out.
        basis: Most Lanczos vectors of ``n_parameters`` numbers kept in memory; all products' when left out, as long as they fit
            in ``MEMORY`` bytes (1 GiB), else as many as fit. With fewer vectors the iteration restarts: the answer is the
            same within its residuals, for more products. The density keeps ``density_steps`` vectors at most.
        generator: All random vectors; a fixed seed when left out, so that two calls agree.

    Returns:
        A :class:`HessianSpectrum`; where Lanczos ran out of steps, ``converged`` is False and ``message`` says by how
        much.

    Raises:
        ArgumentError: ``k`` above the number of parameters, a batch that does not fit, an unknown ``trace``.
        ArgumentTypeError: ``model`` is no module, ``data`` no batches.

    Source: arXiv:2006.12070 (Section 7), arXiv:1912.07145.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> round(float(hessian_spectrum(model, torch.nn.functional.mse_loss, (x, x)).largest[0]), 4)
        10.0
    """
    where = "hessian_spectrum"
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(trace, numbers.Integral) and not isinstance(trace, bool):
        probes, trace = int(trace), "hutchinson"
    rules = {
        "k": Integer(low=1),
        "trace": OneOf(("hutchinson", "hutch++"), optional=True),
        "density": Boolean(),
        "ends": OneOf(("both", "largest")),
        "batch_size": Integer(low=1, optional=True),
        "probes": Integer(low=3 if trace == "hutch++" else 1),
        "density_probes": Integer(low=1),
        "density_steps": Integer(low=1),
        "tol": Real(low=0),
        "max_steps": Integer(low=1, optional=True),
        "basis": Integer(low=1, optional=True),
    }
    check(rules, locals(), where)
    draw = generator if generator is not None else torch.Generator().manual_seed(0)
    batches = as_batches(data, batch_size, where)
    with evaluating(model), torch.enable_grad():
        H = HessianOperator(model, loss, batches, where)
        if k > H.n:
            raise ArgumentError(f"{where}: k must be at most the number of parameters, {H.n}, got {k}")
        wanted = min(H.n, 2 * k if ends == "both" else k)
        if basis is None:
            basis = max(wanted + 8, MEMORY // (H.n * H.like.element_size()))
        elif basis < min(H.n, wanted + 8):
            raise ArgumentError(f"{where}: basis must be at least {min(H.n, wanted + 8)} for k={k}, got {basis}")
        pairs = lanczos(
            H,
            H.n,
            k,
            which=ends,
            like=H.like,
            tol=tol,
            max_steps=max_steps,
            basis=basis,
            start=H.gradient(),
            generator=draw,
        )
        estimate = None
        if trace is not None:
            method = hutchinson if trace == "hutchinson" else hutchpp
            estimate = method(H, H.n, probes, like=H.like, generator=draw)
        shape = None
        if density:
            shape = lanczos_density(H, H.n, probes=density_probes, steps=density_steps, like=H.like, generator=draw)
        value = H.mean_loss()
    return _collect(pairs, k, ends, estimate, shape, H.n, value)


def _collect(
    pairs: EigenPairs,
    k: int,
    ends: str,
    trace: TraceEstimate | None,
    density: SpectralDensity | None,
    n: int,
    loss: float,
) -> HessianSpectrum:
    values, residuals = pairs.values, pairs.residuals  # descending
    both = ends == "both"
    magnitude = float(values[values.abs().argmax()])
    converged = bool(pairs.converged.all())
    worst = float(residuals.max())
    message = (
        f"converged: every eigenvalue lies within its residual, at most {worst:.2e}"
        if converged
        else f"NOT converged after {pairs.steps} products: residuals up to {worst:.2e}; raise max_steps or tol"
    )
    return HessianSpectrum(
        largest=values[:k],
        smallest=values.flip(0)[:k] if both else values[:0],
        largest_magnitude=magnitude,
        residuals=torch.stack([residuals[:k], residuals.flip(0)[:k]]) if both else residuals[None, :k],
        converged=converged and math.isfinite(worst),
        message=message,
        trace=trace,
        density=density,
        n_parameters=n,
        loss=loss,
        products=pairs.steps,
        top_vector=pairs.vectors[:, 0],
    )
