"""Ã = S A (t x d) with E[SᵀS] = I: seven sketches in one streaming pass each, keyed by row so that chunks do not matter.

uniform √(n/t) a_i, i ~ U;  length a_i/√(t p_i), p_i = |a_i|²/|A|²;  leverage the same with p from a first sketch;
gaussian gᵀA/√t;  countsketch Σ_{h(i)=r} ±a_i;  sparse_sign the same with 8 places a row;  srht √(N/t) (row of H/√N) D A.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937 (uniform,
length, gaussian); the others are standard. Differs from the released code: one pass over blocks, no copy of A.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._checks import Integer, OneOf, check
from .._errors import ArgumentError, DataError
from .._memory import plan_memory
from .._results import Result
from .._rng import derive_seed, numpy_stream
from .passes import Collect, Sum, Watch, as_watch, digest
from .rows import Rows, as_rows
from .scatter import KEY_ROWS, SCATTERING
from .spectrum import spectrum
from .stream import SAMPLING, accumulator

METHODS = ("gaussian", "uniform", "length", "leverage", "countsketch", "srht", "sparse_sign")
REMEDY = "use a smaller sketch or a lower rank"


@dataclass(frozen=True)
class Sketch(Result):
    """A sketch and what was learned on the way.

    Attributes:
        matrix: Ã, shape (t, d).
        method: Which sketch.
        n: Rows of the sketched matrix.
        seed: Seed of the draws.
        power: Number of power passes that went before.
        coherence: n max|a_i|²/|A|_F² over the rows read; where only the sampled rows were read, over those.
        draws: Row indices of a sampling sketch, else None.
        probabilities: Probability of each drawn row, for length and leverage sampling.
        energy: |A|_F²; None where rows that were not drawn were not read.
    """

    matrix: np.ndarray = field(repr=False)
    method: str
    n: int
    seed: int
    power: int = 0
    coherence: float = 1.0
    draws: np.ndarray | None = field(default=None, repr=False)
    probabilities: np.ndarray | None = field(default=None, repr=False)
    energy: float | None = None

    @property
    def size(self) -> int:
        """Number of rows t."""
        return self.matrix.shape[0]

    def spectrum(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Singular values and right vectors (d, r) of the matrix, the first k accurately; computed once for each k."""
        known = self.__dict__.setdefault("_spectra", {})
        if k not in known:
            known[k] = spectrum(self.matrix, k)
        return known[k]


RULES = {
    "sketch_size": Integer(low=1),
    "method": OneOf((*METHODS, "auto")),
    "power": Integer(low=0, high=2),
    "seed": Integer(low=0),
}


def sketch(
    A: Any,
    sketch_size: int,
    *,
    method: str = "auto",
    power: int = 0,
    seed: int = 0,
    draws: np.ndarray | None = None,
    memory_limit: float | None = None,
    progress: Any = None,
) -> Sketch:
    """Sketch a tall matrix from its rows.

    Args:
        A: Anything :func:`gyrostat.sketch.rows.as_rows` reads; (n, d) with n >= d.
        sketch_size: Rows t of the sketch.
        method: gaussian, uniform, length, leverage, countsketch, srht, sparse_sign; auto is countsketch.
        power: Extra factors (A Aᴴ)^power between sketch and matrix, one more pass each.
        seed: The result depends on it and on A alone, not on how A is cut into blocks.
        draws: Replay: row indices (uniform, length) or standard normals (t, n) (gaussian).
        memory_limit: Bytes that may be taken; None is what the machine has free.
        progress: Called with the number of rows after each block, or a :class:`gyrostat.sketch.passes.Watch`.

    Raises:
        MemoryBudgetError: The sketch does not fit; raised before it is allocated.
    """
    check(RULES, locals(), "sketch")
    rows, _ = as_rows(A, transpose=False)
    watch = as_watch(progress)
    method = "countsketch" if method == "auto" else method
    if method not in (*SAMPLING, "gaussian") and draws is not None:
        raise ArgumentError(f"sketch: draws cannot be given for method {method!r}")
    if (power or method == "leverage") and rows.one_shot:
        need = "power passes" if power else "leverage sampling"
        raise ArgumentError(
            f"sketch: {need} read A more than once, but A is an iterator that can be read only once; "
            "pass a function that returns a fresh iterator of blocks"
        )
    if not rows.random_access and (method == "leverage" or (draws is not None and method != "gaussian")):
        raise ArgumentError(
            f"sketch: method {method!r} {'with draws ' if draws is not None else ''}takes rows by their number, but A comes in "
            "blocks; use 'length' or 'countsketch', or pass an array"
        )
    waiting = 0 if method in SCATTERING else KEY_ROWS * (rows.d + 2 * sketch_size)
    plan_memory(
        float(3 * sketch_size * rows.d + waiting) * rows.dtype.itemsize + (1 << 24),
        f"a {method} sketch of {sketch_size} rows",
        REMEDY,
        memory_limit,
    )
    if draws is not None or method == "leverage" or (method == "uniform" and rows.random_access):
        found = _by_index(rows, sketch_size, method, seed, draws, watch)
    else:
        found = _streamed(rows, sketch_size, method, seed, watch)
    if power:
        found = _powered(rows, found, power, watch)
    return found


def _streamed(rows: Rows, t: int, method: str, seed: int, watch: Watch) -> Sketch:
    work = accumulator(method, t, rows.d, rows.dtype, seed, rows.n)
    watch.run(rows, work, f"{method}-{t}-{seed}")
    coherence = work.rows * work.largest / work.energy if work.energy > 0 else 1.0
    done = work.closed()
    index = done.index if method in SAMPLING else None
    return Sketch(done.finish(last=True), method, done.rows, seed, 0, coherence, index, None, done.energy)


def _powered(rows: Rows, found: Sketch, power: int, watch: Watch) -> Sketch:
    M = found.matrix
    for _ in range(power):
        M = M / (np.linalg.norm(M, 2) or 1.0)
        right = M.conj().T
        work = Sum(M.shape, M.dtype, lambda b, right=right: np.asarray(b.data.conj().T @ (b.data @ right)).conj().T)
        watch.run(rows, work, f"power-{digest(M)}")
        M = work.total
    # the scale that power passes lose is given back by the spectral norm of A as the sketch sees it
    top = np.linalg.svd(M, full_matrices=False)[2][0].conj()
    scale = Sum((), np.float64, lambda b: np.sum(np.abs(b.data @ top) ** 2))
    watch.run(rows, scale, f"scale-{digest(top)}")
    largest, exponent = float(np.sqrt(scale.total)), 2 * power + 1
    if largest > 0 and abs(np.log10(largest)) * exponent > 140:
        raise DataError(
            f"A: power={power} raises its singular values to the power {exponent}, beyond what float64 can square; "
            "divide A by its largest entry first"
        )
    M = M * (largest**exponent / (np.linalg.norm(M, 2) or 1.0))
    return replace(found, matrix=M, power=power)


def _by_index(rows: Rows, t: int, method: str, seed: int, draws: np.ndarray | None, watch: Watch) -> Sketch:
    """Sketches that need random access to rows, or a replay of given draws."""
    if method == "gaussian":
        normals = np.asarray(draws)
        out = np.zeros((t, rows.d), rows.dtype)
        for block in rows.blocks():
            out += np.asarray(block.data.T @ normals[:, block.start : block.start + len(block.energy)].T).T
        return Sketch(out / np.sqrt(t), method, rows.n or 0, seed)
    random = numpy_stream(seed, "rows", method)
    if method == "uniform":
        n = rows.n or 0
        index = random.integers(0, n, t) if draws is None else np.asarray(draws)
        taken = rows.take(index)
        energy = np.abs(taken) ** 2
        mean = float(energy.sum()) / t
        coherence = float(energy.sum(1).max()) / mean if mean > 0 else 1.0
        return Sketch(taken * np.sqrt(n / t), method, n, seed, 0, coherence, index)
    weights, first = _leverages(rows, t, seed, watch) if method == "leverage" else _energies(rows)
    total = float(weights.sum())
    p = weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))
    index = random.choice(len(p), t, p=p) if draws is None else np.asarray(draws)
    taken = rows.take(index)
    scaled = taken / np.sqrt(t * p[index])[:, None]
    return Sketch(scaled, method, len(p), seed, 0, first.coherence, index, p[index], first.energy)


def _energies(rows: Rows) -> tuple[np.ndarray, Sketch]:
    """Squared lengths of rows, and an empty sketch that knows what they say."""
    energy = np.concatenate([block.energy for block in rows.blocks()])
    total = float(energy.sum())
    coherence = float(len(energy) * energy.max() / total) if total > 0 else 1.0
    return energy, Sketch(np.zeros((0, rows.d)), "length", len(energy), 0, 0, coherence, energy=total)


def _leverages(rows: Rows, t: int, seed: int, watch: Watch) -> tuple[np.ndarray, Sketch]:
    """Half leverage scores of a first CountSketch, half squared lengths: no row with mass gets probability zero."""
    first = _streamed(rows, max(t, 4 * rows.d), "countsketch", derive_seed(seed, "leverage"), watch)
    _, s, Vh = np.linalg.svd(first.matrix, full_matrices=False)
    keep = s > s[0] * 1e-10 if s[0] > 0 else np.zeros(len(s), bool)
    basis = Vh[keep].conj().T / s[keep]
    work = Collect(lambda b: np.column_stack([np.sum(np.abs(b.data @ basis) ** 2, axis=1), b.energy]))
    watch.run(rows, work, f"leverage-{digest(basis)}")
    leverage, energy = work.finish().T
    both = [x / x.sum() for x in (leverage, energy) if x.sum() > 0]
    return np.mean(both, axis=0) if both else np.ones(len(energy)), first
