r"""The curvature of a linear head in closed form.

    z = W a + b,   p = softmax(z),   q = p − onehot(y),   ã = (a, 1)
    ∇ℓ = q ⊗ ã,    H = Σ_i w_i (diag p_i − p_i p_iᵀ) ⊗ ã_i ã_iᵀ,      w_i = 1/n

q and every column of diag p − p pᵀ sum to zero over the classes, so all of it lives in the complement of (1, ..., 1):
with an orthonormal basis Q of that, C × (C − 1), gradients are Qᵀq ⊗ ã and H has (C − 1)(d + 1) rows.

Source: the influence functions of Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869; Koh and Liang,
arXiv:1703.04730.
Differs from the released code: closed form instead of C (d + 1) backward passes per batch, a mean instead of a sum over
mini-batches, and the directions that softmax does not see are left out instead of cut off by a pseudo-inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ArgumentError
from ..numerics.krylov import conjugate_gradient

_CHUNK = 1 << 26  # numbers in a piece of a long product


@dataclass(frozen=True)
class HeadPoint:
    """Samples as the head sees them.

    Attributes:
        a: ``(n, D)`` features, with a column of ones where the head has a bias.
        q: ``(n, K)`` residuals p − onehot(y) in the basis Q.
        p: ``(n, C)`` probabilities.
    """

    a: Tensor
    q: Tensor
    p: Tensor

    def gradients(self) -> Tensor:
        """All gradients as rows, ``(n, K D)``."""
        return (self.q[:, :, None] * self.a[:, None, :]).flatten(1)

    def rows(self, rows: slice) -> HeadPoint:
        """Some of the samples."""
        return HeadPoint(self.a[rows], self.q[rows], self.p[rows])

    def double(self) -> HeadPoint:
        """The same in float64."""
        return HeadPoint(self.a.double(), self.q.double(), self.p.double())


def complement(C: int, like: Tensor) -> Tensor:
    """Orthonormal columns ``(C, C − 1)`` orthogonal to (1, ..., 1): Helmert's contrasts."""
    k = torch.arange(1, C, dtype=like.dtype, device=like.device)
    Q = torch.triu(torch.ones(C, C - 1, dtype=like.dtype, device=like.device))  # rows 0..k-1 of column k
    Q[torch.arange(1, C), torch.arange(C - 1)] = -k
    return Q / (k * (k + 1)).sqrt()


def head_point(features: Tensor, logits: Tensor, y: Tensor, bias: bool) -> HeadPoint:
    """Samples from the head's input ``(n, d)`` and output ``(n, C)``."""
    p = logits.softmax(1)
    q = p - nn.functional.one_hot(y, p.shape[1]).to(p)
    a = torch.cat([features, torch.ones_like(features[:, :1])], 1) if bias else features
    return HeadPoint(a, q @ complement(p.shape[1], p), p)


def inner_curvature(p: Tensor, Q: Tensor) -> Tensor:
    """``Qᵀ(diag p − p pᵀ)Q`` of every sample, ``(n, K, K)``."""
    pQ = p @ Q  # (n, K)
    return torch.einsum("nc,ck,cl->nkl", p, Q, Q) - pQ[:, :, None] * pQ[:, None, :]


def head_hessian(point: HeadPoint, weights: Tensor | None = None, Q: Tensor | None = None) -> Tensor:
    """H of the loss Σ w_i ℓ_i, ``(K D, K D)``, classes outside, features inside.

    Args:
        point: The training samples.
        weights: ``(n,)``, 1/n when left out.
        Q: Basis of the classes; the identity gives the singular matrix over all C classes.
    """
    n, D = point.a.shape
    Q = complement(point.p.shape[1], point.p) if Q is None else Q
    M = inner_curvature(point.p, Q) * (1 / n if weights is None else weights[:, None, None])
    K = M.shape[1]
    H = point.a.new_empty(K, D, K, D)
    for k in range(K):
        for m in range(k, K):
            block = (point.a * M[:, k, m, None]).T @ point.a
            H[k, :, m] = block
            H[m, :, k] = block
    return H.view(K * D, K * D)


def head_product(point: HeadPoint) -> Callable[[Tensor], Tensor]:
    """``v ↦ H v`` for ``(K D, r)`` without forming H."""
    n, D = point.a.shape
    M = inner_curvature(point.p, complement(point.p.shape[1], point.p)) / n  # (n, K, K)

    def product(v: Tensor) -> Tensor:
        V = v.view(M.shape[1], D, -1)  # (K, D, r)
        s = torch.einsum("nkl,lnr->knr", M, torch.einsum("nd,ldr->lnr", point.a, V))
        return torch.einsum("nd,knr->kdr", point.a, s).reshape(v.shape)

    return product


def contract(point: HeadPoint, V: Tensor) -> Tensor:
    """``gradients @ V`` for ``V (K D, r)``, in pieces, the gradients kept factored: ``(n, r)``."""
    n, D = point.a.shape
    K = point.q.shape[1]
    out = V.new_empty(n, V.shape[1])
    step = max(1, _CHUNK // (K * D))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        out[rows] = point.rows(rows).gradients() @ V
    return out


def own_products(point: HeadPoint, V: Tensor) -> Tensor:
    """Each sample's gradient times its own column of ``V (K D, n)``: ``(n,)``."""
    blocks = V.view(point.q.shape[1], -1, V.shape[1])
    return torch.stack([(point.a.T * v).sum(0) * q for v, q in zip(blocks, point.q.T)]).sum(0)


@dataclass(frozen=True)
class Solved:
    """``H⁻¹ G`` and how it was had."""

    x: Tensor
    residual: float
    iterations: int
    rank: int
    smallest: float | None = None
    largest: float | None = None


def singular() -> ArgumentError:
    """What is said of a curvature that no factorisation takes."""
    return ArgumentError(
        "influence_scores: the curvature is singular or indefinite; give the model's weight decay as l2=, add "
        "damping=, or take dtype=torch.float64 or solver='pinv'"
    )


def solve_cholesky(H: Tensor, shift: float, G: Tensor) -> Solved:
    """``(H + shift I)⁻¹ G`` with its residual; refuses a matrix that is not positive definite."""
    H.diagonal().add_(shift)
    L, info = torch.linalg.cholesky_ex(H)
    # rounding lets a singular matrix pass: a pivot at the level of rounding says so
    pivots = L.diagonal()
    floor = (len(H) * torch.finfo(H.dtype).eps) ** 0.5
    if int(info) or float(pivots.min()) < floor * float(pivots.max()):
        raise singular()
    x = torch.cholesky_solve(G, L)
    return Solved(x, _residual(H, x, G), 0, len(H))


def _residual(H: Tensor, x: Tensor, G: Tensor, columns: int = 16) -> float:
    """The worst relative residual of the first columns, in float64 whatever the solve was in, a piece of H at a time."""
    x, G = x[:, :columns].double(), G[:, :columns].double()
    Hx = torch.cat([rows.double() @ x for rows in H.split(max(1, _CHUNK // len(H)))])
    return _worst(Hx - G, G)


def relative_residual(train: HeadPoint, shift: float, x: Tensor, one: HeadPoint, columns: int = 16) -> float:
    """The same without H: of ``(H + shift I) x`` against the gradients of ``one``."""
    x = x[:, :columns].double()
    G = one.rows(slice(columns)).double().gradients().T
    return _worst(head_product(train.double())(x) + shift * x - G, G)


def _worst(left: Tensor, G: Tensor) -> float:
    # a gradient that is nothing beside the others has no digits to be right in
    size = G.norm(dim=0)
    return float((left.norm(dim=0) / size.clamp_min(1e-12 * float(size.max()) + 1e-300)).max())


def solve_pinv(H: Tensor, shift: float, rcond: float, G: Tensor) -> Solved:
    """The pseudo-inverse that drops eigenvalues up to ``rcond`` times the largest."""
    values, vectors = torch.linalg.eigh(H)
    values = values + shift
    keep = values.abs() > rcond * values.abs().max()
    U = vectors[:, keep]
    x = U @ ((U.T @ G) / values[keep, None])
    return Solved(x, 0.0, 0, int(keep.sum()), float(values[0]), float(values[-1]))


def solve_cg(product: Callable[[Tensor], Tensor], shift: float, G: Tensor, tol: float, max_steps: int | None) -> Solved:
    """Conjugate gradients on all right-hand sides at once; the residual is the worst of theirs."""
    found = conjugate_gradient(product, G, damping=shift, tol=tol, max_steps=max_steps)
    return Solved(found.x, found.residual, found.iterations, len(G))


def fit_head(a: Tensor, y: Tensor, num_classes: int, *, l2: float, max_steps: int = 2000) -> nn.Linear:
    """The head that minimises (1/n) Σ CE + (l2/2) ‖(W, b)‖², in float64, to a gradient of 1e-8.

    Args:
        a: ``(n, d)`` features.
        y: ``(n,)`` labels.
        num_classes: Outputs.
        l2: Above 0, which makes the minimum unique.
        max_steps: Most L-BFGS steps.
    """
    head: Any = nn.utils.skip_init(nn.Linear, a.shape[1], num_classes, dtype=torch.float64, device=a.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    a = a.detach().double()
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=max_steps, tolerance_grad=1e-8, tolerance_change=0.0, history_size=30,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        squares = head.weight.square().sum() + head.bias.square().sum()
        value = nn.functional.cross_entropy(head(a), y) + l2 / 2 * squares
        value.backward()
        return value

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return head.requires_grad_(False)
