r"""What Noisy Feature Mixup adds to the loss: the exact label identity and the second-order regulariser.

Loss ℓ(f, t) = H(f) − t·f with H = logsumexp; z_i the features, J_i = ∂F/∂z, p_i = softmax F(z_i), q_i = p_i − y_i,
GN_i = J_iᵀ (diag p_i − p_i p_iᵀ) J_i,  R_i = Σ_c q_ic ∇²F_c(z_i),  C_i = (1/n) Σ_j (z_j − z_i)(z_j − z_i)ᵀ:

    E_{Beta(α,β)} ℓ(F(M_λ(z_i, z_j)), λ y_i + (1−λ) y_j) = E_{D̃} ℓ(F(M_λ(z_i, z_j)), y_i)      averaged over i, j
    D̃ = α/(α+β) Beta(α+1, β) + β/(α+β) Beta(β+1, α)
    E[NFM loss] ≈ L + E[1−λ] R1 + E[(1−λ)²] (R2 + R3) + v_add (R2a + R3a) + v_mult (R2m + R3m)
    R1  = mean_i (J_iᵀ q_i)·(z̄ − z_i)
    R2  = ½ mean_i tr(GN_i C_i) ≥ 0          R3  = ½ mean_i tr(R_i C_i)
    R2a = ½ mean_i tr GN_i ≥ 0               R3a = ½ mean_i tr R_i
    R2m = ½ mean_i Σ_d GN_i[d,d] z_id² ≥ 0   R3m = ½ mean_i Σ_d R_i[d,d] z_id²
    v_add = σ_a² E[b²],  v_mult = σ_m² E[b²] / 3,  E[b²] = 3/28 for b ~ Beta(2, 5)

Source: Noisy Feature Mixup, arXiv:2110.02180, section 4. The expansion is one in small noise and small 1 − λ: with α = 1
it does not predict the loss. Only the R2 terms are penalties; where the model interpolates, q = 0 and only they remain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import hessian, jacrev, vmap

from .._checks import Integer, Real
from .._errors import ArgumentError, ArgumentTypeError, ShapeError
from .._results import Result

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MixupRegularizer(Result):
    """The unit terms of the expansion; all tensors keep their graph.

    Attributes:
        loss: Loss without mixing and noise.
        R1: First order in 1 − λ.
        R2: Gauss-Newton term of mixing, not negative.
        R3: Its companion with the network's own curvature, of either sign.
        R2a: Gauss-Newton term of additive noise, not negative.
        R3a: Its companion.
        R2m: Gauss-Newton term of multiplicative noise, not negative.
        R3m: Its companion.
    """

    loss: Tensor
    R1: Tensor
    R2: Tensor
    R3: Tensor
    R2a: Tensor
    R3a: Tensor
    R2m: Tensor
    R3m: Tensor

    def predict(
        self,
        alpha: float | tuple[float, float],
        additive: float = 0.0,
        multiplicative: float = 0.0,
        *,
        noise_beta: tuple[float, float] = (2.0, 5.0),
        scale: float = 1.0,
    ) -> Tensor:
        """The second-order prediction of the expected loss.

        Args:
            alpha: Law of λ; 0 for no mixing.
            additive: σ_a.
            multiplicative: σ_m.
            noise_beta: Law of the noise scales.
            scale: e: λ is replaced by 1 − e (1 − λ) and σ by e σ; the error of the prediction is O(e³), without mixing
                O(e⁴).
        """
        first, second = mixing_moments(alpha) if alpha != 0 else (0.0, 0.0)
        a, b = noise_beta
        square = scale**2 * a * (a + 1) / ((a + b) * (a + b + 1))
        mixing = scale * first * self.R1 + scale**2 * second * (self.R2 + self.R3)
        noise = additive**2 * (self.R2a + self.R3a) + multiplicative**2 / 3 * (self.R2m + self.R3m)
        return self.loss + mixing + square * noise


def mixing_moments(alpha: float | tuple[float, float]) -> tuple[float, float]:
    """E[1 − λ] and E[(1 − λ)²] under D̃: α/(2α+1) and α/(2(2α+1)) for one α."""
    a, b = _law(alpha)
    product = a * b / ((a + b) * (a + b + 1))
    return 2 * product, product


def mixup_regularizer(f: Network, z: Tensor, y: Tensor) -> MixupRegularizer:
    """The unit terms R1, R2, R3 and their companions for the noises, from exact derivatives; for small networks.

    Args:
        f: From features ``(n, ...)`` to logits ``(n, K)``, each sample by itself (no batch normalisation in training
            mode); a single logit, ``(n,)`` or ``(n, 1)``, is a binary classifier.
        z: Features ``(n, ...)`` of the mixed layer, or the inputs.
        y: Labels ``(n,)``.

    Raises:
        ArgumentError: Labels outside the classes, or as many as there are no samples.
        ShapeError: An output that is not logits.

    Source: arXiv:2110.02180.

    Example:
        >>> import torch
        >>> W = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> terms = mixup_regularizer(lambda z: z @ W, torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> float(terms.R2a), float(terms.R3a)  # a linear model has no curvature of its own
        (0.25, 0.0)
    """
    z = _features(z, y, "mixup_regularizer")

    def single(row: Tensor) -> Tensor:
        return _logits(f(row[None]), "mixup_regularizer")[0]

    logits = _logits(f(z), "mixup_regularizer")
    onehot = _onehot(y, logits, "mixup_regularizer")
    n, shape = len(z), z.shape[1:]
    p = logits.softmax(-1)
    q = p - onehot  # (n, K)
    J = vmap(jacrev(single))(z).reshape(n, logits.shape[1], -1)  # (n, K, d)
    curved = vmap(hessian(lambda row, q: (q * single(row)).sum()))(z, q)
    R = curved.reshape(n, shape.numel(), shape.numel())
    S = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    GN = J.mT @ S @ J  # (n, d, d)
    flat = z.reshape(n, -1)
    center = flat.mean(0)
    spread = (flat - center).mT @ (flat - center) / n
    to_center = center - flat
    C = spread + to_center[:, :, None] * to_center[:, None, :]  # (n, d, d)

    def half(matrices: Tensor, weights: Tensor) -> Tensor:
        return (matrices * weights).sum((1, 2)).mean() / 2

    eye = torch.eye(flat.shape[1], dtype=z.dtype, device=z.device)[None]
    squares = torch.diag_embed(flat**2)
    return MixupRegularizer(
        loss=F.cross_entropy(logits, y),
        R1=(torch.einsum("nkd,nk->nd", J, q) * to_center).sum(1).mean(),
        R2=half(GN, C), R3=half(R, C), R2a=half(GN, eye), R3a=half(R, eye), R2m=half(GN, squares), R3m=half(R, squares),
    )  # fmt: skip


def label_identity(
    f: Network,
    z: Tensor,
    y: Tensor,
    *,
    alpha: float | tuple[float, float] = 1.0,
    noise: tuple[Tensor, Tensor] | None = None,
    nodes: int = 64,
) -> tuple[Tensor, Tensor]:
    """Both sides of the label identity, averaged over all ordered pairs, by Gauss-Jacobi quadrature in λ.

    Mixed labels under Beta(α, β) cost exactly what unmixed ones cost under D̃: mixing labels is a change of the law of λ.

    Args:
        f: As in :func:`mixup_regularizer`.
        z: Features ``(n, ...)``.
        y: Labels ``(n,)``.
        alpha: α, or (α, β), above 0.
        noise: ``(factor, term)`` for every mixed sample alike, each of the shape of one: ``factor m + term``. The identity
            holds for each such draw, hence for the mean over draws.
        nodes: Of the quadrature, exact for polynomials of degree ``2 nodes − 1`` in λ.

    Returns:
        The expected loss with mixed labels, and the one with unmixed labels under D̃.

    Source: arXiv:2110.02180.

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), torch.tensor([0, 1])
        >>> mixed, plain = label_identity(lambda z: torch.cat([-z, z], 1).tanh(), z, y, alpha=0.5)
        >>> bool((mixed - plain).abs() < 1e-12)
        True
    """
    where = "label_identity"
    Integer(low=1).check("nodes", nodes, where)
    a, b = _law(alpha)
    z = _features(z, y, where)
    n = len(z)
    one = z[:1]
    factor, term = noise if noise is not None else (torch.ones_like(one), torch.zeros_like(one))
    own, other = z.repeat_interleave(n, 0), z.repeat(n, *[1] * (z.ndim - 1))
    try:
        factor, term = factor.expand_as(one), term.expand_as(one)
    except RuntimeError as error:
        raise ShapeError(f"{where}: noise must have the shape of one sample, {tuple(z.shape[1:])}") from error
    y_own, y_other = y.repeat_interleave(n), y.repeat(n)

    def expected(a: float, b: float, mixed_labels: bool) -> Tensor:
        total = torch.zeros((), dtype=z.dtype, device=z.device)
        for lam, weight in zip(*_jacobi(a, b, nodes)):
            logits = _logits(f(factor * (lam * own + (1 - lam) * other) + term), where)
            _onehot(y_own, logits, where)
            loss = F.cross_entropy(logits, y_own)
            if mixed_labels:
                loss = lam * loss + (1 - lam) * F.cross_entropy(logits, y_other)
            total = total + weight * loss
        return total

    plain = a / (a + b) * expected(a + 1, b, False) + b / (a + b) * expected(b + 1, a, False)
    return expected(a, b, True), plain


def _jacobi(a: float, b: float, nodes: int) -> tuple[list[float], list[float]]:
    """Nodes in (0, 1) and weights of sum 1 for the density of Beta(a, b)."""
    from scipy.special import roots_jacobi

    x, w = roots_jacobi(nodes, b - 1, a - 1)
    return ((1 + x) / 2).tolist(), (w / w.sum()).tolist()


def _law(alpha: float | tuple[float, float]) -> tuple[float, float]:
    a, b = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    for value in (a, b):
        Real(low=0, closed="neither").check("alpha", value, "mixup")
    return float(a), float(b)


def _features(z: Tensor, y: Tensor, where: str) -> Tensor:
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2 or len(z) == 0:
        raise ArgumentTypeError(f"{where}: z must be a floating tensor (n, ...) with at least one sample")
    if not isinstance(y, Tensor) or y.is_floating_point() or y.shape != z.shape[:1]:
        raise ArgumentError(f"{where}: y must be integer labels ({len(z)},)")
    return z


def _logits(output: Tensor, where: str) -> Tensor:
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise ShapeError(f"{where}: f must return logits (n, K), got {tuple(output.shape)}")
    # the logistic loss of one logit is the softmax loss of (0, logit)
    return F.pad(output, (1, 0)) if output.shape[1] == 1 else output


def _onehot(y: Tensor, logits: Tensor, where: str) -> Tensor:
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise ArgumentError(f"{where}: labels must be 0 to {logits.shape[1] - 1}")
    return F.one_hot(y, logits.shape[1]).to(logits)
