"""Q = A X T^-½, T = Xᴴ AᴴA X;  Qᴴ A = P diag(s) Vᴴ,  U = Q P:  the best triplets with left vectors in the span of A X.

X holds leading right vectors of a sketch and, after the first pass, the residuals AᴴA x - θ x of the wanted Ritz vectors, so
that each further pass gains as much as a step of a Lanczos iteration. One pass brings AᴴA X; no array is as long as A.

Bounds. X is orthogonal to all but a part of A of norm √μ; then |A v_j - s_j u_j| <= √μ |(I - X Xᴴ) v_j| and, with
r_j = s_j √μ |(I - X Xᴴ) v_j|, Δ_j = s_j² - μ, left vectors have y_j = r_j/Δ_j beyond the span of A X and at most
y_j r_l/|s_l² - s_j²| along each other vector of it (what these couple to is added to r_j); right ones √μ/s_j times the one and
s_l/s_j times the other. A value whose left vector is off by the angle φ is at most s_j (1/cos φ - 1) too small, and never more
than √(s_j² + μ) - s_j.

Only μ is estimated, from the sketch of t rows: √μ = s̃_(m+1)/(1 - √((m + 1)/t)), as it shrinks the m + 1 directions that
matter by no more than that. What |A|_F² - |A X|_F², which is known, has beyond the same of the sketch is added, and no more
than all of it.

Source: Parlett, The Symmetric Eigenvalue Problem (residuals, Rayleigh-Ritz); Musco and Musco, arXiv:1504.05477 (block
Krylov); the bounds are derived here. Differs from arXiv:2003.04937, which refines once and bounds the unrefined sketch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .beyond import beyond, repeated
from .bootstrap import ErrorBounds, cluster_ends, ties, told_apart
from .centred import Centring
from .errors import METRICS
from .exact import rayleigh_ritz
from .passes import Normal, Sum, Times, Watch, digest
from .rows import Rows
from .sketches import Sketch

ROUNDING = 64 * np.finfo(float).eps  # of a Gram matrix, of its largest value
GRAM = 1e-6  # of the largest singular value: below it the Gram matrix says little
LOST = 1e-13  # of the largest: below it an eigenvalue of T is rounding


@dataclass(frozen=True)
class Errors:
    """Bounds of the first k of c triplets.

    Attributes:
        values: (k,).
        left: Sines (k,).
        right: Sines (k,).
        beyond: What right vectors have beyond the span, (k,).
        along: What they have along each vector of it, (k, c).
        scale: The largest singular value.
    """

    values: np.ndarray
    left: np.ndarray
    right: np.ndarray
    beyond: np.ndarray
    along: np.ndarray
    scale: float

    def subspace(self, m: int) -> float:
        """Sine of the largest angle between the spans of the first m right vectors."""
        return min(1.0, float(np.sqrt(np.sum(self.beyond[:m] ** 2) + np.sum(self.along[:m, m:] ** 2))))


def errors_of(s: np.ndarray, out: np.ndarray, mu: float, k: int) -> Errors:
    """The bounds.

    Args:
        s: Singular values in the span, (c,).
        out: |(I - X Xᴴ) v_j|, (c,).
        mu: Square of the norm of A beyond X.
        k: How many.
    """
    unit = float(s[0])
    s, mu = s / unit, mu / unit**2
    theta = s**2
    residual, apart = s * np.sqrt(mu) * out, theta[:k] - mu  # (c,), (k,)
    gap = theta - theta[:k, None]  # (k, c)
    np.fill_diagonal(gap, np.inf)
    y, along = np.ones(k), np.zeros_like(gap)
    for _ in range(3):
        # what a vector has along the others is coupled to what lies beyond too, and its value lies a little higher
        pull = residual[:k] + np.sqrt(along**2 @ residual**2)
        y = np.divide(pull, apart, out=np.ones(k), where=apart > pull)
        moved = y[:, None] * residual  # (k, c)
        near = np.where(gap > 0, gap - (y * pull)[:, None], -gap)
        along = np.divide(moved, near, out=np.ones_like(gap), where=near > moved)
    closest = np.minimum(np.abs(gap).min(axis=1), np.abs(apart))
    noise = np.divide(ROUNDING, closest, out=np.ones(k), where=closest > ROUNDING)
    # left vectors are sums of A x/√θ, of which the smallest count
    magnified = ROUNDING / max(s[-1], np.sqrt(LOST))
    beyond = np.minimum(1.0, y * np.sqrt(mu) / s[:k] + noise)
    spread = np.minimum(1.0, along * (s / s[:k, None]))
    left = np.minimum(1.0, np.sqrt(y**2 + np.sum(along**2, axis=1)) + noise + magnified)
    right = np.minimum(1.0, np.sqrt(beyond**2 + np.sum(spread**2, axis=1)))
    # a unit vector at that angle has a quotient of at least cos² of the true value
    short = np.divide(1.0, np.sqrt(1 - left**2), out=np.full(k, np.inf), where=left < 1) - 1
    values = np.minimum(s[:k] * short, np.sqrt(theta[:k] + mu) - s[:k]) + ROUNDING / s[:k]
    return Errors(values * unit, left, right, beyond, spread, unit)


def norm_beyond(found: Sketch, k: int, m: int) -> float:
    """μ beyond the first m right vectors of a sketch of which k are wanted; inf where its size says nothing."""
    s = found.spectrum(k)[0] ** (1 / (2 * found.power + 1))
    shrunk, least = 1 - np.sqrt((m + 1) / found.size), ROUNDING * float(s[0]) ** 2
    if m >= found.matrix.shape[1]:
        return least
    return max(least, float((s[m] / shrunk) ** 2)) if shrunk > 0 and m < len(s) else np.inf


def outlook(found: Sketch, k: int, m: int) -> tuple[float, np.ndarray]:
    """What the first m right vectors of a sketch, of which k are wanted, have of the others, by perturbation theory.

    Returns:
        The energy that they have taken, and the part of AᴴA v_j beyond them, (m,).
    """
    s = found.spectrum(k)[0]
    unit = float(s[0]) or 1.0  # fourth powers follow
    s = s / unit
    theory = beyond(s, m, m, found.size, repeated(found.matrix, s, unit), s**4, np.ones(m))
    fourth = s[:m] ** 4
    part = np.divide(theory.weighted, fourth, out=np.ones(m), where=fourth > 0)
    return float(theory.push.sum()) * unit**2, np.sqrt(np.minimum(1.0, part))


class Span:
    """Columns X, AᴴA X, and the triplets in them.

    Args:
        found: The sketch.
        rank: Triplets wanted.
        m: Columns to begin with, as far as the sketch has them.
        centring: Of rows that are to be centred.

    Attributes:
        s: All singular values found, (c,); fewer than ``rank`` where the matrix has no more.
        V: Right vectors (d, c).
        half: U = A half, (d, rank).
        passes: Passes so far.
        X: The columns (d, c).
    """

    s: np.ndarray
    V: np.ndarray
    half: np.ndarray

    def __init__(self, found: Sketch, rank: int, m: int, centring: Centring | None = None) -> None:
        self._found, self._rank, self._centring = found, rank, centring
        self._next = np.linalg.qr(found.spectrum(rank)[1][:, :m])[0]  # (d, m)
        m = self._next.shape[1]
        self.X, self._normal = self._next[:, :0], self._next[:, :0]
        self._expected, self._taken = norm_beyond(found, rank, m), outlook(found, rank, m)[0]
        self._whole, self.passes = found.energy, 0

    @property
    def open(self) -> bool:
        """Whether there is something to read."""
        return self._next.shape[1] > 0

    def read(self, rows: Rows, watch: Watch, fresh: int = 0) -> None:
        """One pass, and the choice of ``fresh`` columns for another; a pass more for |A|_F² where the sketch did not see it."""
        if self._whole is None and not self._found.power:
            work = Sum((), np.float64, lambda block: block.energy.sum())
            watch.run(rows, work, "energy")
            self._whole = float(work.total if self._centring is None else self._centring.energy(float(work.total)))
        self.X = np.hstack([self.X, self._next])  # (d, c)
        self._normal = np.hstack([self._normal, self._product(rows, watch)])
        self.passes += 1
        theta, W = np.linalg.eigh(self.X.conj().T @ self._normal)
        keep = np.flatnonzero(theta > LOST * max(theta[-1], 0.0))[::-1]
        theta, W = theta[keep], W[:, keep]
        self._energy = float(theta.sum())
        ritz, moved = self.X @ W, self._normal @ W  # (d, c)
        P, self.s, Vh = np.linalg.svd((moved / np.sqrt(theta)).conj().T, full_matrices=False)
        self.V, self.half = Vh.conj().T, (ritz / np.sqrt(theta)) @ P[:, : self._rank]
        fresh = min(fresh, len(keep), len(self.X) - self.X.shape[1])
        residual = (moved - ritz * theta)[:, :fresh]
        self._next = np.linalg.qr(np.hstack([self.X, residual]))[0][:, self.X.shape[1] :]

    def left_vectors(self, rows: Rows, watch: Watch) -> np.ndarray:
        """U (n, rank), in one pass."""
        work = Times(self.half)
        watch.run(rows, work, f"left-{digest(self.half)}")
        return work.finish()

    @property
    def mu(self) -> float:
        """Square of the norm of A beyond X."""
        found = self._found
        if self._whole is None or found.power:
            return self._expected
        left = max(self._whole - self._energy, ROUNDING * self._whole)
        if not np.isfinite(self._expected):
            return left
        # a sketch that missed rows that matter has less beyond X than A has; chosen after it, X takes some of that, and
        # leaves as much more of A
        seen = np.linalg.norm(found.matrix) ** 2 - np.linalg.norm(found.matrix @ self.X) ** 2
        missed = max(0.0, left - seen - 2 * self._taken)
        return float(min(left, self._expected + missed))

    def errors(self) -> Errors:
        """Bounds of the first ``rank`` triplets."""
        out = np.linalg.norm(self.V - self.X @ (self.X.conj().T @ self.V), axis=0)
        return errors_of(self.s, out, self.mu, self._rank)

    def bounds(self, flip: bool, alpha: float, spans: tuple[int, ...] = ()) -> ErrorBounds:
        """The same as a result has them, right and left turned if ``flip``."""
        k, found = self._rank, self.errors()
        left, right = (found.right, found.left) if flip else (found.left, found.right)
        each: dict[str, np.ndarray] = dict(zip(METRICS, (found.values, left, right)))
        null = np.zeros(k, bool)
        resolved = told_apart(self.s, found.values, null)
        angles = {m: found.subspace(m) for m in sorted({*spans, *cluster_ends(resolved, k)})}
        return ErrorBounds(
            each,
            {m: float(e.max()) for m, e in each.items()},
            angles,
            {m: e[None] for m, e in each.items()},
            self._found.size,
            alpha,
            resolved,
            ties(resolved, angles, null),
        )

    def _product(self, rows: Rows, watch: Watch) -> np.ndarray:
        """AᴴA times the next columns."""
        V = self._next if self._centring is None else self._centring.widen(self._next)
        work = Normal(V)
        watch.run(rows, work, f"normal-{digest(V)}")
        return work.finish() if self._centring is None else self._centring.product(work.finish(), self._next)


def refined(
    rows: Rows, found: Sketch, rank: int, m: int, flip: bool, left: bool, watch: Watch
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, ErrorBounds | None]:
    """U where ``left``, s, V and their bounds from m right vectors of a sketch, in one pass and one for U.

    Where the last of them is too small beside the first for a Gram matrix, in two passes and without bounds.
    """
    span = Span(found, rank, m)
    span.read(rows, watch)
    if len(span.s) < rank or span.s[rank - 1] < GRAM * span.s[0]:
        return *rayleigh_ritz(rows, found.spectrum(rank)[1][:, :m], rank, watch), None
    bounds = span.bounds(flip, 0.05) if np.isfinite(span.mu) else None
    return span.left_vectors(rows, watch) if left else None, span.s[:rank], span.V[:, :rank], bounds
