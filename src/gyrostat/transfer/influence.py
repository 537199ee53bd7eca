r"""Influence functions: which training samples decided a prediction.

    I(z_i, z_t) = (1/n) ∇ℓ(z_t)ᵀ (H + damping I)⁻¹ ∇ℓ(z_i),     H = (1/n) Σ_i ∇²ℓ(z_i) + l2 I

is, to first order, the rise of the loss of test sample t when training sample i is left out: positive means helpful.
ℓ is the cross-entropy, without the weight decay; H has it, because the optimum does.

Source: Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869; Koh and Liang, arXiv:1703.04730.
Differs from the released code: H has the model's weight decay (``l2``), which makes the prediction agree with
leave-one-out retraining; the released way is ``solver="pinv", l2=0``, an SVD pseudo-inverse cut at 0.05 of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._memory import available_memory, plan_memory
from .attribution import Influence
from .curvature import ChosenParameters, Progress, curvature_operator, dense, solve_columns
from .head import (
    HeadPoint,
    Solved,
    complement,
    contract,
    head_hessian,
    head_point,
    head_product,
    own_products,
    solve_cg,
    solve_cholesky,
    solve_pinv,
)
from .parts import head_inputs, head_name, labelled
from .woodbury import memory, operations, solve_woodbury

SOLVERS = ("auto", "woodbury", "cholesky", "pinv", "cg")
_RULES = {
    "l2": Real(low=0),
    "damping": Real(low=0),
    "solver": OneOf(SOLVERS),
    "curvature": OneOf(("hessian", "gauss_newton")),
    "scale": OneOf(("loo", "raw")),
    "rcond": Real(low=0, high=1, closed="left"),
    "tol": Real(low=0, closed="neither"),
    "max_steps": Integer(low=1, optional=True),
    "batch_size": Integer(low=1),
    "self_scores": Boolean(),
}
_EXPLICIT = 500  # parameters up to which a general curvature is formed
_WHERE = "influence_scores"


def influence_scores(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    l2: float,
    damping: float = 0.0,
    parameters: str | Sequence[str] = "head",
    head: str | None = None,
    curvature: str = "hessian",
    solver: str = "auto",
    rcond: float = 5e-2,
    tol: float = 1e-8,
    max_steps: int | None = None,
    scale: str = "loo",
    self_scores: bool = True,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float64,
    memory_limit: float | None = None,
    progress: Progress | None = None,
) -> Influence:
    """Influence of training samples on the loss of test samples; positive means helpful.

    Args:
        model: From inputs to logits ``(B, C)``; used in evaluation mode, never changed.
        train: ``(x, y)``, the samples the model (or its head) was trained on.
        test: ``(x, y)``.
        l2: The weight decay of the training objective, loss + (l2/2)‖θ‖²: torch's ``weight_decay``. 0 where there was none.
        damping: Added to the curvature beyond that: makes it invertible, bends the scores towards plain gradient products.
        parameters: ``"head"`` (the last linear layer, in closed form), ``"all"``, or names of parts.
        head: Name of the head; the last linear layer when left out.
        curvature: ``"hessian"``, or ``"gauss_newton"``, which is never indefinite; the same for a head.
        solver: ``"cholesky"`` of the whole matrix, ``"cg"``, for a head also ``"woodbury"`` (blocks of classes and a
            correction, never the matrix) and ``"pinv"``, or ``"auto"``: the least work that fits in memory.
        rcond: ``"pinv"`` drops eigenvalues up to this share of the largest.
        tol: Relative residual at which conjugate gradients stop.
        max_steps: Most products per right-hand side.
        scale: ``"loo"``, the predicted change of the loss, or ``"raw"``, n times that.
        self_scores: Also each training sample's influence on itself: dear for ``"cg"`` beyond the head.
        batch_size: Samples per pass through the model.
        dtype: Precision of the solve; float32 halves memory and time of a large head.
        memory_limit: Bytes that may be taken; what the machine has free when left out.
        progress: Called with the solves done and their number.

    Returns:
        An :class:`Influence`, on the CPU.

    Raises:
        ArgumentError: Labels outside the classes, a curvature that is singular or indefinite (the message says what to do).
        MemoryBudgetError: The matrix would not fit; raised before it is allocated.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2)
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> found = influence_scores(model, (x, y), (x, y), l2=0.1)
        >>> found.scores.shape, bool((found.self_scores >= 0).all())
        (torch.Size([2, 2]), True)
    """
    check(_RULES, locals(), _WHERE)
    if dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"{_WHERE}: dtype must be torch.float32 or torch.float64, got {dtype}")
    name = head_name(model, head, _WHERE)
    (x, y), (xt, yt) = labelled(train, _WHERE, "train"), labelled(test, _WHERE, "test")
    shift = l2 + damping
    if parameters == "head":
        layer: Any = model.get_submodule(name)
        points = [_point(model, layer, name, a, b, batch_size, dtype, part)
                  for a, b, part in ((x, y, "train"), (xt, yt, "test"))]  # fmt: skip
        slope = points[0].q.T @ points[0].a / len(y)
        weights = layer.weight if layer.bias is None else torch.cat([layer.weight, layer.bias[:, None]], 1)
        # the part of the weights that softmax sees
        slope = slope + l2 * (complement(points[0].p.shape[1], points[0].p).T @ weights.detach().to(dtype))
        typical = (points[0].q.square().sum(1) * points[0].a.square().sum(1)).mean().sqrt()
        scores, own, solved, used = _through_head(
            points, shift, solver, rcond, tol, max_steps, self_scores, memory_limit
        )
        kind, count = "closed form", points[0].p.shape[1] * points[0].a.shape[1]
    else:
        if solver in ("pinv", "woodbury"):
            raise ArgumentError(f"{_WHERE}: solver={solver!r} is for parameters='head'; take 'cg' or 'cholesky'")
        at = ChosenParameters(model, parameters, dtype, _WHERE)
        x, xt = (t.to(dtype) if t.is_floating_point() else t for t in (x, xt))
        for a, b, part in ((x, y, "train"), (xt, yt, "test")):
            _check_labels(b, _logits(at, a[:1]).shape[1], part)
        pieces = list(zip(x.split(batch_size), y.split(batch_size)))
        tests = list(zip(xt.split(batch_size), yt.split(batch_size)))
        product = curvature_operator(at, pieces, curvature, _WHERE)
        total = torch.zeros(at.n, dtype=dtype, device=x.device)
        squares = 0.0
        for a, b in zip(x, y):
            g = at.gradient(a, b)
            total, squares = total + g, squares + float(g @ g)
        slope = total / len(y) + l2 * at.theta()
        typical = torch.tensor(squares / len(y)).sqrt()
        scores, own, solved, used = _through_all(
            at, product, pieces, tests, shift, solver, tol, max_steps, self_scores, memory_limit, progress
        )
        kind, count = curvature, at.n
    factor = 1.0 if scale == "raw" else 1 / len(y)
    flatness = float(slope.norm() / typical.clamp_min(1e-300))
    return Influence(
        scores=(scores * factor).cpu(), self_scores=None if own is None else (own * factor).cpu(), y_train=y.cpu(),
        y_test=yt.cpu(), scale=scale, solver=used, curvature=kind, n_parameters=count, l2=l2, damping=damping,
        residual=solved.residual, iterations=solved.iterations, rank=solved.rank, gradient_norm=flatness,
        message=_verdict(solved, used, tol, dtype, flatness),
    )  # fmt: skip


def _verdict(solved: Solved, solver: str, tol: float, dtype: torch.dtype, flatness: float) -> str:
    words = []
    allowed = 10 * tol if solver == "cg" else torch.finfo(dtype).eps ** 0.5
    if solved.residual > allowed:
        words.append(f"the solve is NOT converged: relative residual {solved.residual:.1e}; raise max_steps or damping")
    if flatness > 0.05:
        words.append(
            f"the weights are no minimum of the objective (its gradient is {flatness:.2f} of a sample's): train to "
            "convergence on these samples with this l2, or read ranks and not sizes"
        )
    return "; ".join(words) or "solved, at a minimum of the objective"


def _check_labels(y: Tensor, classes: int, part: str) -> None:
    if int(y.max()) >= classes:
        raise ArgumentError(
            f"{_WHERE}: {part} has the label {int(y.max())}; the model has the classes 0 to {classes - 1}"
        )


def _logits(at: ChosenParameters, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            out = at.model(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ArgumentError(f"{_WHERE}: x does not fit the model: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise ArgumentError(f"{_WHERE}: the model must return logits (B, C)")
    return out


def _point(
    model: nn.Module, layer: Any, name: str, x: Tensor, y: Tensor, batch_size: int, dtype: torch.dtype, part: str
) -> HeadPoint:
    features, _ = head_inputs(model, name, x, batch_size, _WHERE)
    _check_labels(y, layer.out_features, part)
    features = features.to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    logits = torch.nn.functional.linear(features, layer.weight.detach().to(dtype), bias)
    if not bool(torch.isfinite(logits).all()):
        raise ArgumentError(f"{_WHERE}: the model's logits on {part} are not finite")
    return head_point(features, logits, y, layer.bias is not None)


def _through_head(
    points: list[HeadPoint],
    shift: float,
    solver: str,
    rcond: float,
    tol: float,
    max_steps: int | None,
    self_scores: bool,
    memory_limit: float | None,
) -> tuple[Tensor, Tensor | None, Solved, str]:
    train, test = points
    on_train = self_scores or len(train.a) <= len(test.a)
    one, other = (train, test) if on_train else (test, train)
    (n, D), r, C = train.a.shape, len(one.a), train.p.shape[1]
    size, item = (C - 1) * D, train.a.element_size()
    columns = 3.0 * size * r * item
    need = {
        "woodbury": memory(n, r, D, C) * item,
        # the matrix and its factor; eigenvectors and their work need more
        "cholesky": 2.0 * size * size * item + columns,
        "pinv": 4.0 * size * size * item + columns,
        "cg": 2 * columns,
    }
    if solver == "auto":
        allowed = available_memory() if memory_limit is None else memory_limit
        ours, whole = operations(n, r, D, C)
        direct = ("woodbury", "cholesky") if ours < whole else ("cholesky", "woodbury")
        solver = next((name for name in direct if need[name] <= allowed), "cg")
    plan_memory(need[solver], f"{_WHERE}: solver={solver!r} for {size} parameters",
                "take dtype=torch.float32, solver='cg' or fewer samples", memory_limit)  # fmt: skip
    if solver == "woodbury":
        solved = solve_woodbury(train, shift, one)
    else:
        G = one.gradients().T.contiguous()  # (K D, n)
        if solver == "cg":
            solved = solve_cg(head_product(train), shift, G, tol, max_steps)
        elif solver == "pinv":
            solved = solve_pinv(head_hessian(train), shift, rcond, G)
        else:
            solved = solve_cholesky(head_hessian(train), shift, G)
    scores = contract(other, solved.x)
    own = own_products(one, solved.x) if self_scores else None
    return (scores if on_train else scores.T), own, solved, solver


def _through_all(
    at: ChosenParameters,
    product: Any,
    train: list[tuple[Tensor, Tensor]],
    test: list[tuple[Tensor, Tensor]],
    shift: float,
    solver: str,
    tol: float,
    max_steps: int | None,
    self_scores: bool,
    memory_limit: float | None,
    progress: Progress | None,
) -> tuple[Tensor, Tensor | None, Solved, str]:
    solver = ("cholesky" if at.n <= _EXPLICIT else "cg") if solver == "auto" else solver
    sizes = [sum(len(y) for _, y in part) for part in (train, test)]
    item = at.theta().element_size()
    need = 3.0 * at.n * (at.n + max(sizes)) * item if solver == "cholesky" else 12.0 * at.n * item
    plan_memory(need + sizes[0] * sizes[1] * item, f"{_WHERE}: solver={solver!r} for {at.n} parameters",
                "take solver='cg', fewer parameters or fewer samples", memory_limit)  # fmt: skip
    on_train = self_scores or sizes[0] <= sizes[1]
    one, other = (train, test) if on_train else (test, train)
    x, y = torch.cat([a for a, _ in one]), torch.cat([b for _, b in one])
    if solver == "cholesky":
        G = torch.stack([at.gradient(a, b) for a, b in zip(x, y)], 1)  # (p, n)
        solved = solve_cholesky(dense(product, at.theta()), shift, G)
        scores = torch.stack([at.along(s, other) for s in solved.x.T], 1)
        own = (G * solved.x).sum(0) if self_scores else None
        return (scores if on_train else scores.T), own, solved, solver
    scores = torch.empty(len(y), sum(len(b) for _, b in other), dtype=at.theta().dtype)
    own = torch.empty(len(y), dtype=scores.dtype)

    def use(i: int, g: Tensor, s: Tensor) -> None:
        scores[i] = at.along(s, other)
        own[i] = g @ s

    solved = solve_columns(product, lambda i: at.gradient(x[i], y[i]), len(y), shift, tol, max_steps, use, progress)
    return (scores.T if on_train else scores), (own if self_scores else None), solved, solver
