r"""Krylov methods for a symmetric operator that is known by its products alone.

Lanczos ``H Q_m = Q_m T_m + β_m q_{m+1} e_mᵀ`` with full re-orthogonalisation; a Ritz pair ``(θ, v = Q_m s)`` has the
residual ``‖H v − θ v‖ = β_m |s_m|``, and some eigenvalue of H lies within it of θ. Where only a few vectors may be kept,
the best Ritz vectors and q_{m+1} begin the next basis: the same relation holds with T no longer tridiagonal (thick
restart). Conjugate gradients solve ``H x = b`` for positive definite H. Every result carries its residual and
``converged``; no bare number leaves this file.

Source: Lanczos (1950); Hestenes and Stiefel (1952); Parlett, The Symmetric Eigenvalue Problem; Wu and Simon,
    Thick-restart Lanczos method for large symmetric eigenvalue problems, SIAM J. Matrix Anal. 22 (2000).
Differs from the released code: nowhere known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._checks import Integer, OneOf, Real, check
from .._errors import ArgumentError, NonFiniteError
from .._results import Result

Matvec = Callable[[Tensor], Tensor]
COUNT = Integer(low=1)


@dataclass(frozen=True)
class EigenPairs(Result):
    """Approximate eigenpairs of a symmetric operator, with the residual of each.

    Attributes:
        values: ``(k,)`` float64, estimates of eigenvalues; a true one lies within ``residuals`` of each.
        residuals: ``(k,)`` float64, ``‖H v − θ v‖`` measured with one more product each.
        converged: ``(k,)`` bool, residual within the tolerance.
        steps: Products with the operator spent in the iteration.
        vectors: ``(n, k)`` unit vectors.
    """

    values: Tensor
    residuals: Tensor
    converged: Tensor
    steps: int
    vectors: Tensor = field(repr=False)


@dataclass(frozen=True)
class CGSolution(Result):
    """Solution of ``H x = b``; ``residual`` is ``‖b − H x‖ / ‖b‖`` (the worst column), recomputed at the end."""

    x: Tensor = field(repr=False)
    residual: float
    iterations: int
    converged: bool


def random_vector(n: int, like: Tensor | None = None, *, generator: torch.Generator | None, law: str) -> Tensor:
    """A vector ``(n,)`` of ``law`` ``"normal"`` or ``"rademacher"``, drawn where the generator lives."""
    device = generator.device if generator is not None else torch.device("cpu")
    if law == "normal":
        z = torch.randn(n, generator=generator, device=device, dtype=torch.float64)
    else:
        z = torch.randint(0, 2, (n,), generator=generator, device=device).to(torch.float64).mul_(2).sub_(1)
    return z if like is None else z.to(like)


def apply(matvec: Matvec, v: Tensor, where: str) -> Tensor:
    """One product, checked for shape and for finite numbers."""
    out = matvec(v)
    if out.shape != v.shape:
        raise ArgumentError(
            f"{where}: matvec must return the shape it is given, {tuple(v.shape)}, got {tuple(out.shape)}"
        )
    if not bool(torch.isfinite(out).all()):
        raise NonFiniteError(f"{where}: matvec returned NaN or Inf; check the weights, the data and the loss")
    return out.detach()


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator itself, or one with a fixed seed, so that two calls agree."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


def power_iteration(
    matvec: Matvec,
    n: int,
    *,
    like: Tensor | None = None,
    tol: float = 1e-8,
    max_steps: int = 1000,
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """The eigenpair of largest magnitude by power iteration (slow; the reference for :func:`lanczos`).

    Args:
        matvec: Product with a symmetric operator, ``(n,)`` to ``(n,)``.
        n: Size.
        like: Tensor whose dtype and device the vectors take; float64 on the CPU when left out.
        tol: Stop at ``‖H v − θ v‖ ≤ tol |θ|``.
        max_steps: Largest number of products.
        generator: Start vector; a fixed seed when left out.

    Raises:
        ArgumentError: A size or tolerance out of range, or a product of another shape.
    """
    check({"n": COUNT, "max_steps": COUNT, "tol": Real(low=0)}, locals(), "power_iteration")
    v = random_vector(n, like, generator=default_generator(generator), law="normal")
    v = v / v.norm()
    theta, residual, step = 0.0, math.inf, 0
    while step < max_steps:
        step += 1
        Hv = apply(matvec, v, "power_iteration")
        theta = float(v @ Hv)
        residual = float((Hv - theta * v).norm())
        if residual <= tol * abs(theta) or residual == 0.0:
            break
        v = Hv / Hv.norm()
    converged = residual <= tol * abs(theta) or residual == 0.0
    return EigenPairs(
        torch.tensor([theta], dtype=torch.float64),
        torch.tensor([residual], dtype=torch.float64),
        torch.tensor([converged]),
        step,
        v[:, None],
    )


class KrylovSpace:
    """A growing Krylov basis, orthogonal to working precision, and the projection T of the operator on it (float64).

    ``capacity`` bounds the vectors held in memory; :meth:`restart` makes room.
    """

    def __init__(
        self, matvec: Matvec, start: Tensor, generator: torch.Generator, where: str, capacity: int | None = None
    ) -> None:
        self.matvec, self.generator, self.where = matvec, generator, where
        self.n = start.numel()
        self.capacity = self.n if capacity is None else min(capacity, self.n)
        self._rows = start.new_empty(min(16, self.capacity), self.n)
        self._rows[0] = start / start.norm()
        self.size, self.done = 1, 0
        self._T = torch.zeros(16, 16, dtype=torch.float64)
        self.beta, self.scale = 0.0, 0.0

    def vectors(self, m: int) -> Tensor:
        """The first m basis vectors as rows, ``(m, n)``."""
        return self._rows[:m]

    def _append(self, q: Tensor) -> None:
        if self.size == len(self._rows):
            rows = self._rows.new_empty(min(2 * self.size, self.capacity), self.n)
            rows[: self.size] = self._rows
            self._rows = rows
        self._rows[self.size] = q
        self.size += 1

    def _orthogonalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        Q = self.vectors(self.size)
        first = Q @ w
        w = w - Q.T @ first
        return w - Q.T @ (Q @ w), first  # twice is enough (Kahan, Parlett)

    def grow(self) -> None:
        """One more product; on an invariant subspace a fresh direction follows, so that multiple values are found."""
        m = self.done = self.size
        w = apply(self.matvec, self._rows[m - 1], self.where)
        self.scale = max(self.scale, float(w.norm()))
        w, coefficients = self._orthogonalise(w)
        if m > len(self._T):
            T = torch.zeros(2 * len(self._T), 2 * len(self._T), dtype=torch.float64)
            T[: m - 1, : m - 1] = self._T[: m - 1, : m - 1]
            self._T = T
        self._T[m - 1, :m] = self._T[:m, m - 1] = coefficients.to(self._T)
        if m == self.n:
            self.beta = 0.0
            return
        self.beta = float(w.norm())
        if self.beta <= 10 * torch.finfo(w.dtype).eps * max(self.scale, torch.finfo(w.dtype).tiny):
            self.beta = 0.0
            w = self._orthogonalise(random_vector(self.n, w, generator=self.generator, law="normal"))[0]
        self._next = w / w.norm()
        if m < self.capacity:
            self._append(self._next)

    @property
    def full(self) -> bool:
        """No room for another vector: :meth:`restart` before the next :meth:`grow`."""
        return self.done == self.capacity < self.n

    def restart(self, S: Tensor, theta: Tensor, keep: Tensor) -> None:
        """Begin anew from the Ritz vectors ``keep`` and the direction that would have come next."""
        p = keep.numel()
        mix = S[:, keep].T.to(self._rows)  # (p, m)
        for i in range(0, self.n, 65536):  # piece by piece, so that no second basis is ever held
            self._rows[:p, i : i + 65536] = mix @ self._rows[: self.done, i : i + 65536]
        self._T.zero_()
        self._T[:p, :p] = torch.diag(theta[keep])
        self.size = p
        self._append(self._next)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, ascending, and the eigenvectors of the projected operator (float64)."""
        return torch.linalg.eigh(self._T[: self.done, : self.done])


def _wanted(theta: Tensor, k: int, which: str) -> Tensor:
    m = theta.numel()
    if which == "largest":
        return torch.arange(m - 1, m - 1 - k, -1)
    if which == "smallest":
        return torch.arange(k)
    if which == "magnitude":
        return theta.abs().argsort(descending=True, stable=True)[:k]
    ends = torch.cat([torch.arange(m - 1, m - 1 - k, -1), torch.arange(k)])  # both
    return torch.unique(ends).flip(0)


def lanczos(
    matvec: Matvec,
    n: int,
    k: int = 1,
    *,
    which: str = "largest",
    like: Tensor | None = None,
    tol: float = 1e-8,
    max_steps: int | None = None,
    basis: int | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """Eigenpairs at the ends of the spectrum by Lanczos with full re-orthogonalisation.

    Memory is ``n`` numbers for each vector kept, at most ``min(basis, max_steps)`` of them, and for each pair returned.
    The stop is ``residual ≤ tol |θ|``, or rounding level where θ is nearly zero.

    Args:
        matvec: Product with a symmetric operator, ``(n,)`` to ``(n,)``.
        n: Size.
        k: How many eigenpairs at an end, at most ``n``.
        which: ``"largest"`` or ``"smallest"`` (algebraic), ``"magnitude"``, or ``"both"`` (k at either end).
        like: Tensor whose dtype and device the vectors take; float64 on the CPU when left out.
        tol: Relative tolerance of the residual.
        max_steps: Largest number of products; ``min(n, max(20 k, 200))`` when left out.
        basis: Most vectors kept; where they do not suffice, the iteration restarts from the best of them and takes
            more products. All when left out; at least ``wanted + 8``, wanted being k, or 2 k for ``"both"``.
        start: Vector ``(n,)`` to begin with, mixed with a tenth of a random one; random alone when left out.
        generator: Random vectors; a fixed seed when left out, so that two calls agree.

    Returns:
        Pairs sorted from large to small; ``converged`` says which of them to trust.

    Raises:
        ArgumentError: A size or tolerance out of range, or a product of another shape.
    """
    rules = {
        "n": COUNT,
        "k": COUNT,
        "tol": Real(low=0),
        "max_steps": Integer(low=1, optional=True),
        "basis": Integer(low=1, optional=True),
        "which": OneOf(("largest", "smallest", "magnitude", "both")),
    }
    check(rules, locals(), "lanczos")
    if k > n:
        raise ArgumentError(f"lanczos: k must be at most the size of the operator, {n}, got {k}")
    wanted = min(n, 2 * k if which == "both" else k)
    if basis is not None and basis < min(n, wanted + 8):
        raise ArgumentError(
            f"lanczos: basis must be at least {min(n, wanted + 8)} for {wanted} eigenpairs, got {basis}"
        )
    limit = max_steps if max_steps is not None else max(20 * k, 200)
    limit = max(limit if basis is not None and basis < n else min(n, limit), k)
    draw = default_generator(generator)
    first = random_vector(n, like, generator=draw, law="normal")
    if start is not None and float(start.norm()) > 0:
        first = start.to(first) / start.norm() + 0.1 * first / first.norm()
    space = KrylovSpace(matvec, first, draw, "lanczos", basis)
    floor = 10 * torch.finfo(space.vectors(1).dtype).eps
    theta, S, index, steps = torch.empty(0), torch.empty(0), torch.empty(0), 0
    for steps in range(1, limit + 1):
        space.grow()
        m, last = space.done, steps == limit or space.full
        if not last and (m < wanted or (m > 64 and m % 4 and space.beta > 0)):
            continue
        theta, S = space.ritz()
        index = _wanted(theta, min(k, m), which)
        bound = space.beta * S[-1, index].abs()
        # without a remainder the subspace is exact, but other eigenvalues may lie outside of it
        if (m == n or space.beta > 0) and bool(
            (bound <= 0.5 * tol * theta[index].abs().clamp_min(floor * space.scale)).all()
        ):
            break
        if space.full and steps < limit:
            # half of the room that is not wanted itself goes to the neighbours, which speeds the wanted ones up
            space.restart(S, theta, _wanted(theta, k + (space.capacity - wanted) // 4, which))
    Q = space.vectors(theta.numel())
    V = Q.T @ S[:, index].to(Q)  # (n, k)
    V = V / V.norm(dim=0)
    values = theta[index]
    residuals = torch.tensor(
        [float((apply(matvec, v, "lanczos") - float(t) * v).norm()) for v, t in zip(V.T, values)], dtype=torch.float64
    )
    converged = residuals <= torch.maximum(tol * values.abs(), torch.tensor(floor * space.scale, dtype=torch.float64))
    order = values.argsort(descending=True)
    return EigenPairs(values[order], residuals[order], converged[order], steps, V[:, order.to(V.device)])


def conjugate_gradient(
    matvec: Matvec,
    b: Tensor,
    *,
    damping: float = 0.0,
    tol: float = 1e-8,
    max_steps: int | None = None,
    x0: Tensor | None = None,
) -> CGSolution:
    """Solve ``(H + damping I) x = b`` for symmetric positive definite ``H + damping I``.

    Args:
        matvec: Product with H, of the shape of ``b``.
        b: ``(n,)``, or ``(n, r)`` for r right-hand sides at once (``matvec`` then takes ``(n, r)``).
        damping: Added to the diagonal.
        tol: Stop at ``‖b − H x‖ ≤ tol ‖b‖`` in each column.
        max_steps: Largest number of products; ``10 n`` when left out.
        x0: Start, zero when left out.

    Raises:
        ArgumentError: A direction of non-positive curvature was met: H + damping I is not positive definite.
    """
    rules = {"damping": Real(low=0), "tol": Real(low=0), "max_steps": Integer(low=1, optional=True)}
    check(rules, locals(), "conjugate_gradient")
    limit = max_steps if max_steps is not None else 10 * b.shape[0]

    def product(v: Tensor) -> Tensor:
        return apply(matvec, v, "conjugate_gradient") + damping * v

    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b - product(x) if x0 is not None else b.clone()
    p, rho = r.clone(), (r * r).sum(0)
    goal = (tol * b.norm(dim=0)) ** 2
    steps = 0
    while steps < limit and bool((rho > goal).any()):
        Hp = product(p)
        curvature = (p * Hp).sum(0)
        live = rho > goal
        if bool((curvature[live] <= 0).any() if live.ndim else curvature <= 0):
            raise ArgumentError(
                "conjugate_gradient: matvec is not positive definite (a direction of curvature <= 0 was met); "
                "raise damping= above the most negative eigenvalue's size"
            )
        step = torch.where(live, rho / torch.where(live, curvature, 1.0), 0.0)
        x, r = x + step * p, r - step * Hp
        rho_next = (r * r).sum(0)
        p = r + torch.where(live, rho_next / torch.where(live, rho, 1.0), 0.0) * p
        rho, steps = rho_next, steps + 1
    norm = b.norm(dim=0)
    residual = float(((b - product(x)).norm(dim=0) / torch.where(norm > 0, norm, 1.0)).max())
    return CGSolution(x, residual, steps, residual <= 10 * tol)
