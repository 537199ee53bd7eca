"""Ã = S A (t x d) with E[SᵀS] = I: seven sketches in one streaming pass each, keyed by row so that chunks do not matter.

uniform √(n/t) a_i, i ~ U;  length a_i/√(t p_i), p_i = |a_i|²/|A|²;  leverage the same with p from a first sketch;
gaussian gᵀA/√t;  countsketch Σ_{h(i)=r} ±a_i;  sparse_sign the same with 8 places a row;  srht √(N/t) (row of H/√N) D A.

Source: Lopes, Erichson, Mahoney, "Error estimation for sketched SVD via the bootstrap", arXiv:2003.04937 (uniform,
length, gaussian); the others are standard. Differs from the released code: one pass over blocks, no copy of A.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import _sparsetools  # pyright: ignore[reportAttributeAccessIssue]

from .._checks import Integer, OneOf, check
from .._errors import ArgumentError
from .._memory import plan_memory
from .._results import Result
from .._rng import derive_seed, numpy_stream
from .rows import Block, Rows, as_rows

METHODS = ("gaussian", "uniform", "length", "leverage", "countsketch", "srht", "sparse_sign")
KEY_ROWS = 1024
PLACES = 8
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
        coherence: n max|a_i|²/|A|_F² over the rows read; for uniform sampling over the sampled rows.
        draws: Row indices of a sampling sketch, else None.
        probabilities: Probability of each drawn row, for length and leverage sampling.
    """

    matrix: np.ndarray = field(repr=False)
    method: str
    n: int
    seed: int
    power: int = 0
    coherence: float = 1.0
    draws: np.ndarray | None = field(default=None, repr=False)
    probabilities: np.ndarray | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of rows t."""
        return self.matrix.shape[0]


class Accumulator:
    """The sketch of all rows seen so far; rows arrive in order, in blocks of any size.

    Args:
        method: One of gaussian, countsketch, sparse_sign, srht, uniform, length.
        size: Rows t of the sketch.
        d: Columns.
        dtype: float64 or complex128.
        seed: Key of the random numbers.
        n: Number of rows, needed by srht only.
    """

    def __init__(self, method: str, size: int, d: int, dtype: Any, seed: int, n: int | None = None) -> None:
        if method == "srht" and n is None:
            raise ArgumentError("srht needs the number of rows in advance; use countsketch for a stream")
        self.method, self.size, self.d, self.seed, self.n = method, size, d, seed, n
        self.matrix = np.zeros((size, d), dtype)  # (t, d)
        self.rows, self.energy, self.largest = 0, 0.0, 0.0
        self.index = np.zeros(size, np.int64)
        self.weight = np.zeros(size)
        self._key = derive_seed(seed, "sketch", method)
        self._pending: list[Any] = []
        self._cached: tuple[int, Any] = (-1, None)
        if method == "srht":
            self._order = 1 << max(0, (max(1, n or 1) - 1).bit_length())
            self._picked = numpy_stream(seed, "srht rows").choice(self._order, size, replace=size > self._order)

    def update(self, block: Block) -> None:
        """Add the next rows."""
        if self.method in ("uniform", "length"):
            self._sample(block)
        elif self.method in ("countsketch", "sparse_sign"):
            self._scatter(block.data)
        else:
            self._mix(block.data)
        self.rows += len(block.energy)
        self.energy += float(block.energy.sum())
        self.largest = max(self.largest, float(block.energy.max(initial=0.0)))

    def finish(self) -> np.ndarray:
        """The scaled sketch (t, d); more rows may follow."""
        if self.method in ("uniform", "length"):
            scale = self.weight if self.method == "length" else np.ones(self.size)
            total = self.energy if self.method == "length" else float(self.rows)
            safe = np.where(scale > 0, scale, 1.0)
            return self.matrix * np.sqrt(np.where(scale > 0, total / (self.size * safe), 0.0))[:, None]
        if self._pending:
            self.matrix += self._mixed(_stack(self._pending), (self.rows - 1) // KEY_ROWS)
            self._pending = []
        return self.matrix

    def state(self) -> dict[str, np.ndarray]:
        """What a later process needs to go on."""
        held: Any = _stack(self._pending) if self._pending else np.zeros((0, self.d), self.matrix.dtype)
        held = held.toarray() if sp.issparse(held) else held
        numbers = np.array([self.rows, self.energy, self.largest])
        return {
            "matrix": self.matrix,
            "numbers": numbers,
            "index": self.index,
            "weight": self.weight,
            "pending": held,
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self.matrix, self.index, self.weight = state["matrix"].copy(), state["index"].copy(), state["weight"].copy()
        self.rows, self.energy, self.largest = int(state["numbers"][0]), *map(float, state["numbers"][1:])
        self._pending = [state["pending"]] if len(state["pending"]) else []

    def _random(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(counter=[0, 0, 0, number], key=[self._key, 0]))

    def _places(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Target rows (count, places) and signs for rows start .. start+count."""
        places, where, signs = PLACES if self.method == "sparse_sign" else 1, [], []
        for number in range(start // KEY_ROWS, (start + count - 1) // KEY_ROWS + 1):
            if self._cached[0] != number:
                random = self._random(number)
                spots = random.integers(0, self.size, (KEY_ROWS, places), dtype=np.int32)
                sign = random.integers(0, 2, (KEY_ROWS, places)) * 2.0 - 1.0
                self._cached = (number, (spots, sign / np.sqrt(places)))
            a, b = max(start - number * KEY_ROWS, 0), min(start + count - number * KEY_ROWS, KEY_ROWS)
            where.append(self._cached[1][0][a:b])
            signs.append(self._cached[1][1][a:b])
        return np.concatenate(where), np.concatenate(signs)

    def _scatter(self, data: Any) -> None:
        count = data.shape[0]
        if not count:
            return
        where, signs = self._places(self.rows, count)
        places = where.shape[1]
        if sp.issparse(data):
            of = np.repeat(np.arange(count), np.diff(data.indptr))
            flat = self.matrix.reshape(-1)
            for p in range(places):
                np.add.at(flat, where[of, p] * np.int64(self.d) + data.indices, data.data * signs[of, p])
            return
        # scipy's own kernel adds in place and in order of rows: one read of A, and no chunking can change the sum
        pointers = np.arange(0, count * places + 1, places, dtype=np.int32)
        factors = signs.ravel().astype(self.matrix.dtype)
        _sparsetools.csc_matvecs(
            self.size,
            count,
            self.d,
            pointers,
            where.ravel(),
            factors,
            data.ravel(),
            self.matrix.reshape(-1),
        )

    def _mix(self, data: Any) -> None:
        at, held = 0, self.rows % KEY_ROWS
        while at < data.shape[0]:
            part = data[at : at + KEY_ROWS - held]
            self._pending.append(part if sp.issparse(part) else part.copy())
            at, held = at + part.shape[0], held + part.shape[0]
            if held == KEY_ROWS:
                self.matrix += self._mixed(_stack(self._pending), (self.rows + at - 1) // KEY_ROWS)
                self._pending, held = [], 0

    def _mixed(self, data: Any, number: int) -> np.ndarray:
        """S[:, block] A[block] for one key block."""
        count = data.shape[0]
        if self.method == "gaussian":
            S = self._random(number).standard_normal((KEY_ROWS, self.size))[:count] / np.sqrt(self.size)
        else:
            flips = self._random(number).integers(0, 2, KEY_ROWS)[:count] * 2.0 - 1.0
            column = number * KEY_ROWS + np.arange(count)
            odd = column[:, None] & self._picked[None, :]
            for shift in (32, 16, 8, 4, 2, 1):
                odd ^= odd >> shift
            odd &= 1
            S = (1.0 - 2.0 * odd) * flips[:, None] / np.sqrt(self.size)
        return np.asarray(data.T @ S).T if sp.issparse(data) else S.T @ data

    def _sample(self, block: Block) -> None:
        weights = np.ones(len(block.energy)) if self.method == "uniform" else block.energy
        inside = float(weights.sum())
        if inside <= 0:
            return
        before = float(self.rows) if self.method == "uniform" else self.energy
        random = self._random(self.rows)
        taken = np.flatnonzero(random.random(self.size) < inside / (before + inside))
        rows = random.choice(len(weights), len(taken), p=weights / inside)
        chosen = block.data[rows]
        self.matrix[taken] = chosen.toarray() if sp.issparse(chosen) else chosen
        self.index[taken], self.weight[taken] = block.start + rows, weights[rows]


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
        power: Extra factors (A Aᵀ)^power between sketch and matrix, one more pass each.
        seed: The result depends on it and on A alone, not on how A is cut into blocks (uniform and length
            sampling of a stream: in distribution).
        draws: Replay: row indices (uniform, length) or standard normals (t, n) (gaussian).
        memory_limit: Bytes that may be taken; None is what the machine has free.
        progress: Called with the number of rows after each block.

    Raises:
        MemoryBudgetError: The sketch does not fit; raised before it is allocated.
    """
    check(RULES, locals(), "sketch")
    rows, _ = as_rows(A, transpose=False)
    method = "countsketch" if method == "auto" else method
    if method not in ("uniform", "length") and draws is not None and method != "gaussian":
        raise ArgumentError(f"sketch: draws cannot be given for method {method!r}")
    need = 3.0 * sketch_size * rows.d * rows.dtype.itemsize + (1 << 24)
    plan_memory(need, f"a sketch of {sketch_size} rows", REMEDY, memory_limit)
    if draws is not None or method == "leverage" or (method == "uniform" and rows.random_access):
        found = _by_index(rows, sketch_size, method, seed, draws)
    else:
        accumulator = Accumulator(method, sketch_size, rows.d, rows.dtype, seed, rows.n)
        for block in rows.blocks():
            accumulator.update(block)
            if progress is not None:
                progress(accumulator.rows)
        coherence = accumulator.rows * accumulator.largest / accumulator.energy if accumulator.energy > 0 else 1.0
        found = Sketch(
            accumulator.finish(),
            method,
            accumulator.rows,
            seed,
            0,
            coherence,
            accumulator.index if method in ("uniform", "length") else None,
        )
    matrix = found.matrix
    for _ in range(power):
        matrix = _power_pass(rows, matrix / (np.linalg.norm(matrix, 2) or 1.0))
    if power:
        # the scale that power passes lose is given back by the spectral norm of A as the sketch sees it
        top = _scale(rows, matrix)
        matrix = matrix * (top ** (2 * power + 1) / (np.linalg.norm(matrix, 2) or 1.0))
    return Sketch(matrix, method, found.n, seed, power, found.coherence, found.draws, found.probabilities)


def _power_pass(rows: Rows, M: np.ndarray) -> np.ndarray:
    out = np.zeros_like(M)  # (t, d)
    for block in rows.blocks():
        right = block.data @ M.conj().T
        out += np.asarray(block.data.conj().T @ right).conj().T
    return out


def _scale(rows: Rows, M: np.ndarray) -> float:
    _, _, Vh = np.linalg.svd(M, full_matrices=False)
    return float(np.sqrt(sum(np.linalg.norm(b.data @ Vh[0].conj()) ** 2 for b in rows.blocks())))


def _by_index(rows: Rows, t: int, method: str, seed: int, draws: np.ndarray | None) -> Sketch:
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
    weights = _leverages(rows, t, seed) if method == "leverage" else _energies(rows)
    total = float(weights.sum())
    p = weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))
    index = random.choice(len(p), t, p=p) if draws is None else np.asarray(draws)
    taken = rows.take(index)
    coherence = float(len(p) * weights.max() / total) if total > 0 else 1.0
    return Sketch(taken / np.sqrt(t * p[index])[:, None], method, len(p), seed, 0, coherence, index, p[index])


def _energies(rows: Rows) -> np.ndarray:
    return np.concatenate([block.energy for block in rows.blocks()])


def _leverages(rows: Rows, t: int, seed: int) -> np.ndarray:
    """Half leverage scores of a first CountSketch, half squared lengths: no row with mass gets probability zero."""
    first = Accumulator("countsketch", max(t, 4 * rows.d), rows.d, rows.dtype, derive_seed(seed, "leverage"))
    for block in rows.blocks():
        first.update(block)
    _, s, Vh = np.linalg.svd(first.finish(), full_matrices=False)
    keep = s > s[0] * 1e-10 if s[0] > 0 else np.zeros(len(s), bool)
    basis = Vh[keep].conj().T / s[keep]
    scores = [(np.sum(np.abs(b.data @ basis) ** 2, axis=1), b.energy) for b in rows.blocks()]
    leverage = np.concatenate([a for a, _ in scores])
    energy = np.concatenate([b for _, b in scores])
    both = [x / x.sum() for x in (leverage, energy) if x.sum() > 0]
    return np.mean(both, axis=0) if both else np.ones(len(energy))


def _stack(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
