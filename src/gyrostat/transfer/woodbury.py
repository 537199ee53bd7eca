r"""The inverse curvature of a linear head without its matrix: one block per class, one correction per sample.

    H + s I = B − P Pᵀ / n,     B = diag_c(B_c),   B_c = Aᵀ diag(p_c / n) A + s I,     P_c = Aᵀ diag(p_c)
    (H + s I)⁻¹ G = B⁻¹ (G + P Y),     (n I − Pᵀ B⁻¹ P) Y = Pᵀ B⁻¹ G,     Pᵀ B⁻¹ P = Σ_c p_c p_cᵀ ∘ A B_c⁻¹ Aᵀ

A ``(n, D)`` are the features and p_c the n probabilities of class c: C systems of D rows and one of n rows instead of one
of (C − 1) D. Right-hand sides are gradients, q ⊗ a, so Pᵀ B⁻¹ G is made of the same products A B_c⁻¹ Aᵀ.

Source: the matrix inversion lemma on the softmax curvature diag p − p pᵀ of :mod:`gyrostat.transfer.head`.
Differs from the released code: it has a pseudo-inverse of the whole matrix.

B and P Pᵀ / n cancel where the model is sure, so rounding counts more than in a factorisation of H: B is formed and
factored in float64 always, the residual is measured in float64, and corrections follow where it is large.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .head import HeadPoint, Solved, complement, head_product, relative_residual, singular

_CHUNK = 1 << 24  # numbers in a piece of the solution
_CORRECTIONS = 2


def operations(n: int, r: int, D: int, C: int) -> tuple[float, float]:
    """Multiplications and additions for ``r`` gradients: this way, and by a Cholesky factor of the whole matrix."""
    p = (C - 1) * D
    ours = C * (4.0 * n * D**2 + D**3 / 3 + n**2 * D + 2.0 * D * r * (n + D)) + n**3 / 3 + 2.0 * n**2 * r
    return ours, (C - 1) * C * n * D**2 + p**3 / 3 + 2.0 * p**2 * r


def memory(n: int, r: int, D: int, C: int) -> float:
    """Numbers held at once."""
    piece = C * D * min(r, _columns(C, D))
    return C * D**2 + (C - 1) * D * r + 4.0 * n**2 + 2.0 * n * r + 2.0 * piece + 7.0 * D * (n + D)


def solve_woodbury(train: HeadPoint, shift: float, one: HeadPoint) -> Solved:
    """``(H + shift I)⁻¹`` times the gradients of ``one``, with its residual.

    Args:
        train: The samples of H.
        shift: Above 0.
        one: The samples whose gradients are the right-hand sides.

    Raises:
        ArgumentError: ``shift`` is 0 or of the size of rounding.
    """
    solve = _Factors(train, shift, one)
    D, r, C = train.a.shape[1], len(one.a), train.p.shape[1]
    x = train.a.new_empty(C - 1, D, r)
    step = _columns(C, D)
    pieces = [slice(start, start + step) for start in range(0, r, step)]
    for rows in pieces:
        x[:, :, rows] = solve.gradients(rows)
    x = x.view(-1, r)
    product, eps = head_product(train), torch.finfo(x.dtype).eps
    residual = relative_residual(train, shift, x, one)
    steps = 0
    while residual > eps ** (2 / 3) and steps < _CORRECTIONS:
        for rows in pieces:
            part = x[:, rows].contiguous()
            left = one.rows(rows).gradients().T - product(part) - shift * part
            x[:, rows] += solve(left.view(C - 1, D, -1)).reshape(part.shape)
        residual, steps = relative_residual(train, shift, x, one), steps + 1
    return Solved(x, residual, steps, (C - 1) * D)


class _Factors:
    """Cholesky factors of every B_c and of n I − Pᵀ B⁻¹ P."""

    def __init__(self, train: HeadPoint, shift: float, one: HeadPoint) -> None:
        a, p = train.a, train.p
        (n, D), C = a.shape, p.shape[1]
        self.train, self.one, self.Q = train, one, complement(C, p)
        self.q = one.q @ self.Q.T  # (r, C)
        self.L = a.new_empty(C, D, D)
        exact, weights = a.double(), (p.double() / n).sqrt()
        inner = n * torch.eye(n, dtype=a.dtype, device=a.device)
        self.along = a.new_zeros(n, len(one.a))  # Pᵀ B⁻¹ G
        for c in range(C):
            B = _gram(exact * weights[:, c, None])
            if not shift > D * torch.finfo(a.dtype).eps * float(B.diagonal().max()):
                raise singular()
            B.diagonal().add_(shift)
            L, info = torch.linalg.cholesky_ex(B)
            if int(info):
                raise singular()
            self.L[c] = L
            L = self.L[c]  # rounded to the dtype of the solve
            Z = torch.linalg.solve_triangular(L, a.T, upper=False)  # (D, n)
            products = _gram(Z)
            inner.addcmul_(products * p[:, c, None], p[:, c], value=-1)
            if one is not train:
                products = Z.T @ torch.linalg.solve_triangular(L, one.a.T, upper=False)
            self.along.addcmul_(products * p[:, c, None], self.q[:, c])
        # Rounding may push directions that softmax does not see below zero: a little more of n I changes nothing else.
        for ridge in (0.0, 10.0, 100.0, 1000.0):
            inner.diagonal().add_(ridge * torch.finfo(a.dtype).eps * n)
            self.inner, info = torch.linalg.cholesky_ex(inner)
            if not int(info):
                return
        raise singular()

    def gradients(self, rows: slice) -> Tensor:
        """The solution for these gradients, ``(K, D, r)``."""
        a, q = self.one.a[rows].T, self.q[rows]
        return self._finish(lambda c: a * q[:, c], self.along[:, rows])

    def __call__(self, R: Tensor) -> Tensor:
        """The solution for any right-hand side ``(K, D, r)``."""
        a, p = self.train.a, self.train.p
        whole = torch.einsum("ck,kdr->cdr", self.Q, R)
        along = a.new_zeros(len(a), R.shape[2])
        for c, L in enumerate(self.L):
            along.addcmul_(a @ torch.cholesky_solve(whole[c], L), p[:, c, None])
        return self._finish(whole.__getitem__, along)

    def _finish(self, side: Callable[[int], Tensor], along: Tensor) -> Tensor:
        a, p = self.train.a, self.train.p
        Y = torch.cholesky_solve(along, self.inner)  # (n, r)
        X = a.new_empty(len(self.L), a.shape[1], Y.shape[1])
        for c, L in enumerate(self.L):
            X[c] = torch.cholesky_solve(side(c) + a.T @ (p[:, c, None] * Y), L)
        return (self.Q.T @ X.flatten(1)).view(-1, *X.shape[1:])


def _gram(A: Tensor, pieces: int = 8) -> Tensor:
    """``Aᵀ A``, a little more than half of it computed."""
    n = A.shape[1]
    out = A.new_empty(n, n)
    step = max(256, -(-n // pieces))
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = A[:, start:stop].T @ A[:, start:]
        out[start:stop, start:] = block
        out[start:, start:stop] = block.T
    return out


def _columns(C: int, D: int) -> int:
    return max(1, _CHUNK // (C * D))
