r"""How fast nearby states separate along a sequence, and how strongly inputs are felt.

    J_t = ∂h_{t+1}/∂h_t,     Q_{t+1} R_{t+1} = J_t Q_t,     λ_i = (1 / Σ dt) Σ_t log |R_ii|      (QR, Benettin)
    λ_i = log σ_i(J_{T−1} … J_0) / Σ dt                                                          (SVD, short T)

Both are finite-time values of this sequence, hence estimates of the Lyapunov exponents; QR overflows for no T.

Source: Benettin et al. (1980); used for recurrent networks by arXiv:2006.12070 and arXiv:2102.04877.
Differs from the released code: it was never released (the Section 7 quantities of arXiv:2006.12070).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._checks import Integer, OneOf, check
from .._errors import ArgumentError
from .._results import Result
from ._arguments import as_float64, steps
from ._models import evaluating, outputs, recurrence, recurrent_layers, step_size, time_first


@dataclass(frozen=True)
class LyapunovExponents(Result):
    """Finite-time exponents along given sequences: estimates, per unit of time (per step where no dt is known).

    Attributes:
        exponents: ``(k,)``, descending; the mean over the batch.
        spread: ``(k,)``, standard deviation over the batch; NaN for a single sequence.
        per_sequence: ``(B, k)``.
        time: Total time Σ dt.
        method: ``"qr"`` or ``"svd"``.
    """

    exponents: Tensor
    spread: Tensor
    per_sequence: Tensor = field(repr=False)
    time: float
    method: str


@dataclass(frozen=True)
class InputJacobian(Result):
    """Derivative of the outputs by the whole input sequence.

    Attributes:
        matrix: ``(B, K, T*F)``, or ``(K, T*F)`` for one sequence.
        singular_values: ``(B, K)`` or ``(K,)``, descending.
        condition: Largest over smallest singular value, ``(B,)`` or a scalar tensor; inf where the smallest is 0.
    """

    matrix: Tensor = field(repr=False)
    singular_values: Tensor
    condition: Tensor


def state_jacobians(model: Any, x: Tensor, state: Any = None) -> Tensor:
    """One-step Jacobians ``∂h_{t+1}/∂h_t`` along sequences, in evaluation mode.

    Args:
        model: A recurrent layer, a model that holds exactly one, or a function ``step(x_t, state)`` on ``(B, S)``
            states that returns the next state (or a tuple that ends with it).
        x: ``(T, F)``, ``(T, B, F)``, or ``(B, T, F)`` for layers with ``batch_first``.
        state: Initial state as the layer takes it; ``(S,)`` or ``(B, S)`` for a function.

    Returns:
        ``(T, S, S)``, or ``(T, B, S, S)`` with a batch; S counts all layers and state tensors, in that order.

    Raises:
        ArgumentError: ``x`` does not fit, the model is bidirectional or holds several recurrences.
        ArgumentTypeError: The model has no recurrence.

    Example:
        >>> import torch
        >>> step = lambda x, h: 0.5 * h
        >>> state_jacobians(step, torch.zeros(3, 1), torch.zeros(2))[0].diagonal()
        tensor([0.5000, 0.5000])
    """
    where = "state_jacobians"
    sequence, batched = time_first(model, x, where)
    T, B = sequence.shape[:2]
    with evaluating(model), torch.enable_grad():
        chain, h = recurrence(model, sequence, state, where)
        S = chain.size
        eye = torch.eye(S, dtype=h.dtype, device=h.device).repeat(B, 1)  # (B*S, S): row i of sample b
        result = h.new_empty(T, B, S, S)
        for t in range(T):
            copies = h.detach().repeat_interleave(S, 0).requires_grad_()  # (B*S, S)
            after = chain.step(sequence[t].repeat_interleave(S, 0), copies)
            (rows,) = torch.autograd.grad(after, copies, eye)
            result[t] = rows.view(B, S, S)
            h = after.detach().view(B, S, S)[:, 0]
    return result if batched else result[:, 0]


def lyapunov_exponents(
    model: Any,
    x: Tensor | None = None,
    k: int | None = None,
    *,
    dt: Any = None,
    state: Any = None,
    method: str = "qr",
) -> LyapunovExponents:
    """Finite-time Lyapunov exponents of a recurrence along data.

    Args:
        model: As in :func:`state_jacobians`; or the Jacobians themselves, ``(T, S, S)`` or ``(T, B, S, S)``, without x.
        x: Input sequences as in :func:`state_jacobians`.
        k: How many exponents, all when left out.
        dt: Step, a number or ``(T,)``; the layer's own when left out, or 1 (exponents per step).
        state: Initial state.
        method: ``"qr"`` (any length) or ``"svd"`` of the whole product (short sequences).

    Raises:
        ArgumentError: ``k`` above the state size, ``dt <= 0``, no time steps, ``x`` that does not fit.

    Source: arXiv:2102.04877 (exponents as the measure of stability).

    Example:
        >>> import torch
        >>> jacobians = torch.diag(torch.tensor([2.0, 0.5])).expand(10, 2, 2)
        >>> lyapunov_exponents(jacobians).exponents
        tensor([ 0.6931, -0.6931], dtype=torch.float64)
    """
    where = "lyapunov_exponents"
    check({"k": Integer(low=1, optional=True), "method": OneOf(("qr", "svd"))}, locals(), where)
    if isinstance(model, Tensor):
        J = model.unsqueeze(1) if model.ndim == 3 else model
        if J.ndim != 4 or J.shape[2] != J.shape[3]:
            raise ArgumentError(
                f"{where}: model as Jacobians must be (T, S, S) or (T, B, S, S), got {tuple(model.shape)}"
            )
    else:
        if x is None:
            raise ArgumentError(f"{where}: x must be given; exponents are measured along data")
        J = state_jacobians(model, x, state)
        J = J.unsqueeze(1) if J.ndim == 3 else J
        if dt is None:
            found = recurrent_layers(model)
            dt = step_size(found[0][1]) if found else None
    J = as_float64(J, "the Jacobian sequence", where)
    T, B, S, _ = J.shape
    if T == 0:
        raise ArgumentError(f"{where}: x has no time steps")
    if k is not None and k > S:
        raise ArgumentError(f"{where}: k must be at most the size of the state, {S}, got {k}")
    delta = steps(1.0 if dt is None else dt, where)
    if delta.numel() not in (1, T):
        raise ArgumentError(f"{where}: dt must be a number or one per step, {T}, got {delta.numel()}")
    time = float(delta.sum()) * (T if delta.numel() == 1 else 1)
    count = S if k is None else k
    if method == "svd":
        product = torch.eye(S, dtype=J.dtype).expand(B, S, S)
        for t in range(T):
            product = J[t] @ product
        values = torch.linalg.svdvals(product)[:, :count].log() / time  # (B, k)
    else:
        Q = torch.eye(S, count, dtype=J.dtype).expand(B, S, count)
        total = J.new_zeros(B, count)
        for t in range(T):
            Q, R = torch.linalg.qr(J[t] @ Q)
            total = total + R.diagonal(dim1=1, dim2=2).abs().log()
        values = (total / time).sort(dim=1, descending=True).values
    spread = values.std(0) if B > 1 else torch.full((count,), torch.nan, dtype=values.dtype)
    return LyapunovExponents(values.mean(0), spread, values, time, method)


def input_jacobian(model: Any, x: Tensor) -> InputJacobian:
    """Derivative of a model's outputs by its input, with singular values and condition number, in evaluation mode.

    Args:
        model: A module or function with outputs ``(B, K)``; of a sequence of outputs the last step is taken.
        x: One input ``(T, F)``, or a batch as the model takes it, ``(B, T, F)``.

    Raises:
        ArgumentError: The batch does not fit the model.

    Source: arXiv:2006.12070, Section 7 (condition number of the input-output Jacobian).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
        >>> input_jacobian(model, torch.zeros(3, 2)).singular_values.shape
        torch.Size([2])
    """
    where = "input_jacobian"
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise ArgumentError(f"{where}: x must be a floating tensor (T, F) or a batch of them")
    found = recurrent_layers(model)
    time_major = bool(found) and not getattr(found[0][1], "batch_first", False)
    batched = x.ndim > 2
    whole = x if batched else x.unsqueeze(1 if time_major and found[0][1] is model else 0)
    batch_dim = 1 if time_major and found[0][1] is model else 0
    with evaluating(model), torch.enable_grad():
        inputs = whole.detach().clone().requires_grad_()
        try:
            out = outputs(model, inputs)  # (B, K)
        except (RuntimeError, ValueError) as error:
            raise ArgumentError(f"{where}: x of shape {tuple(x.shape)} does not fit the model: {error}") from error
        rows = [
            torch.autograd.grad(out[:, j].sum(), inputs, retain_graph=True)[0].movedim(batch_dim, 0).flatten(1)
            for j in range(out.shape[1])
        ]
    matrix = torch.stack(rows, 1)  # (B, K, T*F)
    values = torch.linalg.svdvals(matrix)
    condition = values[:, 0] / values[:, -1]
    if not batched:
        matrix, values, condition = matrix[0], values[0], condition[0]
    return InputJacobian(matrix, values, condition)
