"""t₁ = t₀ (1.1 q/tol)²:  a sketch, its bound q, and from both the cheapest way to a tolerance.

While q is above 1/2, where the 1/√t law does not hold yet, the sketch grows by 4; then one more sketch of the planned size
is drawn. Where refining the sketch (``refine.py``) or an exact path (``exact.py``) costs less (``plan.py``), that is taken.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937.
Differs from the released code: exactly one planned resize, refinement with bounds of its own, an exact path.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from .._memory import plan_memory
from .bootstrap import ErrorBounds, bootstrap_error
from .centred import Centring
from .exact import check_scale, exact_from, left_vectors
from .passes import Sum, Watch, as_watch
from .plan import Plan, exact_cost, first_size, plan_refinement, refine_cost, sketch_cost, why_exact
from .refine import Errors, Span
from .result import SketchedSVDResult, turned
from .rows import Rows
from .sketches import METHODS, Sketch, sketch
from .warning import warn

PILOT = 0.5
COMMON = {"rank": Integer(low=1), "left": Boolean(), "seed": Integer(low=0)}
RULES = {
    **COMMON,
    "tol": Real(low=0, closed="neither"),
    "target": OneOf(("right", "left", "values", "subspace")),
    "alpha": Real(low=0, high=1, closed="neither"),
    "sketch_method": OneOf((*METHODS, "auto")),
    "method": OneOf(("two_stage", "iterate")),
    "replicates": Integer(low=2),
    "max_size": Integer(low=1, optional=True),
}


def to_tolerance(
    rows: Rows,
    flip: bool,
    rank: int,
    tol: float,
    *,
    target: str,
    alpha: float,
    sketch_method: str,
    method: str,
    replicates: int,
    max_size: int | None,
    left: bool,
    seed: int,
    memory_limit: float | None,
    progress: Any,
    resume: Path | str | None,
    centring: Centring | None = None,
) -> SketchedSVDResult:
    """:func:`gyrostat.svd` of rows, of centred ones with a ``centring``; its arguments have been checked."""
    check(RULES, locals(), "svd")
    watch = as_watch(progress, resume)
    if rows.one_shot:
        raise ArgumentError(
            "svd: A is an iterator that can be read only once; pass a function that returns a fresh iterator of blocks, "
            "or use sketched_svd"
        )
    if rows.n is None:
        count = Sum((), np.int64, lambda block: len(block.energy))
        watch.run(rows, count, "count")
        rows.n = int(count.total)
    check_rank(rows, rank, "svd")
    plan_left(rows, rank, left or flip, memory_limit)
    if max_size is not None and max_size < rank:
        raise ArgumentError(f"svd: max_size must be at least rank ({rank}), got {max_size}")
    search = _Search(
        rows, flip, rank, tol, target, alpha, flip or (left and centring is None), memory_limit, watch, centring
    )
    size = min(first_size(rows, rank, sketch_method), max_size or rows.n)
    spent, stage, planned, last = 0.0, 0, 0, 1 if method == "two_stage" else 6
    while True:
        if max_size is None and (reason := why_exact(rows, size, rank, sketch_method, memory_limit, spent)) is not None:
            return search.exactly(f"a sketch of {reason}")
        found = sketch(rows, size, method=sketch_method, seed=seed + stage, memory_limit=memory_limit, progress=watch)
        if centring is not None:
            energy = None if found.energy is None else centring.energy(found.energy)
            found = replace(found, matrix=centring.sketch(found.matrix), energy=energy)
        bounds, q = search.look(found, replicates, seed + stage)
        if planned == last or size == max_size or q <= tol:
            return search.sketched(found, bounds, q, max_size)
        grown = instead = int(np.ceil(size * max(1.1, (1.1 * q / tol) ** 2)))
        pilot = target != "values" and q > max(PILOT, tol)
        if pilot:
            # near its limit of one a sine says only how much is needed at least: look again before planning
            least = int(size * (q / tol) ** 2)
            grown = least if least >= rows.n / 2 and max_size is None else 4 * size
            instead = 4 * grown
        if max_size is None:
            plan = plan_refinement(rows, found, rank, tol, instead, memory_limit, search.error)
            if plan is not None:
                return search.refined(found, plan)
        spent += pilot * sketch_cost(rows, size, rank, sketch_method)
        size, stage, planned = min(grown, max_size or grown), stage + 1, planned + (not pilot)


def check_rank(rows: Rows, rank: int, where: str) -> None:
    """Refuse a rank that leaves nothing out."""
    small = rows.d if rows.n is None else min(rows.n, rows.d)
    if rank >= small:
        raise ArgumentError(f"{where}: rank must be below min(n, d) = {small}, got {rank}; a full SVD is numpy's")


def plan_left(rows: Rows, k: int, left: bool, limit: float | None) -> None:
    """Refuse left vectors that do not fit into memory."""
    if left and not rows.one_shot:
        need = 3.0 * (rows.n or 0) * k * rows.dtype.itemsize
        plan_memory(need, f"{k} left vectors of {rows.n} entries", "leave them out (left=False)", limit)


@dataclass
class _Search:
    """What is wanted of which rows, and how far it has come; ``left`` says whether vectors of their length are wanted."""

    rows: Rows
    flip: bool
    rank: int
    tol: float
    target: str
    alpha: float
    left: bool
    limit: float | None
    watch: Watch
    centring: Centring | None
    history: list[tuple[int, float]] = field(default_factory=list)

    @property
    def spans(self) -> tuple[int, ...]:
        return (self.rank,) if self.target == "subspace" else ()

    def look(self, found: Sketch, replicates: int, seed: int) -> tuple[ErrorBounds, float]:
        """Bounds of a sketch, and the one that counts."""
        s, V = found.spectrum(self.rank)
        check_scale(self.rows, float(s[0]), found.method)
        result = turned(None, s[: self.rank], V[:, : self.rank], self.flip, found)
        bounds = bootstrap_error(
            result, alpha=self.alpha, replicates=replicates, subspace=self.spans, seed=seed, quiet=True
        )
        return bounds, self._note(found, self._counts(bounds, s[0]))

    def error(self, errors: Errors) -> float:
        """The one that counts of the errors of a refinement."""
        if self.target == "subspace":
            return errors.subspace(self.rank)
        each = errors.right if (self.target == "right") != self.flip else errors.left
        return float(np.max(errors.values / errors.scale if self.target == "values" else each))

    def exactly(self, why: str) -> SketchedSVDResult:
        """The exact path."""
        result = exact_from(
            self.rows,
            self.rank,
            self.flip,
            f"{why}: exact",
            alpha=self.alpha,
            history=tuple(self.history),
            left=self.left,
            limit=self.limit,
            watch=self.watch,
            centre_gram=None if self.centring is None else self.centring.gram,
        )
        self.watch.forget()
        return result

    def sketched(self, found: Sketch, bounds: ErrorBounds, q: float, max_size: int | None) -> SketchedSVDResult:
        """The sketch as it is."""
        s, V = (part[..., : self.rank] for part in found.spectrum(self.rank))
        stages = "one stage" if len(self.history) == 1 else f"{len(self.history)} stages"
        way_out = (
            "max_size keeps it from growing" if found.size == max_size else "ask for a smaller tol or method='iterate'"
        )
        U = left_vectors(self.rows, V, self.watch) if self.left else None
        return self._result(found, (U, s, V), self._warned(bounds, q, way_out), stages)

    def refined(self, found: Sketch, plan: Plan) -> SketchedSVDResult:
        """The sketch refined to the tolerance; the exact path where that turns out to cost less."""
        span, q = Span(found, self.rank, plan.columns, self.centring), np.inf
        most = exact_cost(self.rows, self.rank, self.limit)
        while True:
            span.read(self.rows, self.watch, plan.fresh)
            if len(span.s) < self.rank:
                return self.exactly("the matrix has hardly more than that rank")
            before, q = q, self._note(found, self.error(span.errors()))
            if q <= self.tol:
                break
            gain = min(before / q, plan.gain) if before <= 1 else plan.gain
            more = np.log(q / self.tol) / np.log(gain) if gain > 1 and span.open else np.inf
            if more * refine_cost(self.rows, plan.fresh) > most:
                return self.exactly("refining a sketch would cost as much")
            if more == np.inf:
                break
        U = span.left_vectors(self.rows, self.watch) if self.left else None
        bounds = self._warned(span.bounds(self.flip, self.alpha, self.spans), q, "no exact path fits into memory")
        note = f"refined in {span.passes} pass{'es' * (span.passes > 1)} over {span.X.shape[1]} columns"
        factors = (U, span.s[: self.rank], span.V[:, : self.rank])
        return replace(self._result(found, factors, bounds, note), passes=span.passes)

    def _counts(self, bounds: ErrorBounds, scale: float) -> float:
        if self.target == "subspace":
            return bounds.subspace[self.rank]
        q = bounds.simultaneous[self.target]
        return q / scale if self.target == "values" and scale > 0 else q

    def _note(self, found: Sketch, q: float) -> float:
        self.history.append((found.size, q))
        return q

    def _warned(self, bounds: ErrorBounds, q: float, way_out: str) -> ErrorBounds:
        if q <= 1.25 * self.tol:
            return bounds
        above = f"the bound, {q:.3g}, is above the tolerance {self.tol:g}: {way_out}"
        return replace(bounds, warnings=(*bounds.warnings, above))

    def _result(
        self, found: Sketch, factors: tuple[np.ndarray | None, np.ndarray, np.ndarray], bounds: ErrorBounds, how: str
    ) -> SketchedSVDResult:
        for message in bounds.warnings:
            warn(message)
        self.watch.forget()
        note = f"{found.method} sketch of {found.size} rows, {how}"
        return turned(*factors, self.flip, found, bounds, tuple(self.history), note)
