"""Ã += S[:, rows] A[rows], with the columns of S keyed by row number: no cut of A into blocks changes the sketch.

Random numbers come in key blocks of 1024 rows, Philox(key = seed and method, counter = number of the key block), and rows
wait for the rest of their key block (those of ``scatter.py`` need not).
Sampling in one pass: t slots; a key block of weight w that brings the total to W replaces each slot with probability w/W
by one of its rows, drawn in proportion to its weight: the slots are then i.i.d. draws from all rows seen.

Source: Lopes, Erichson, Mahoney, arXiv:2003.04937. Differs from the released code: that reads A from memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import ArgumentError
from .._rng import derive_seed, numpy_stream
from .rows import Block
from .scatter import KEY_ROWS, SCATTERING, Scatter

SAMPLING = ("uniform", "length")
LINEAR = ("gaussian", "srht")


def accumulator(method: str, size: int, d: int, dtype: Any, seed: int, n: int | None = None) -> Accumulator | Scatter:
    """An empty sketch of ``method`` for rows to come; arguments as for :class:`Accumulator`."""
    if method in SCATTERING:
        return Scatter(method, size, d, dtype, seed)
    return Accumulator(method, size, d, dtype, seed, n)


class Accumulator:
    """The sketch of all rows seen so far; rows arrive in order, in blocks of any size.

    Args:
        method: One of gaussian, srht, uniform, length.
        size: Rows t of the sketch.
        d: Columns.
        dtype: float64 or complex128.
        seed: Key of the random numbers.
        n: Number of rows, needed by srht only.
        start: Number of the first row, for the part of a linear sketch that begins there.
    """

    def __init__(
        self, method: str, size: int, d: int, dtype: Any, seed: int, n: int | None = None, start: int = 0
    ) -> None:
        if method not in (*LINEAR, *SAMPLING):
            raise ArgumentError(f"{method} cannot be drawn from a stream; use countsketch, gaussian or length")
        if method == "srht" and n is None:
            raise ArgumentError("srht needs the number of rows in advance; use countsketch for a stream")
        self.method, self.size, self.d, self.seed, self.n = method, size, d, seed, n
        self.matrix = np.zeros((size, d), dtype)  # (t, d)
        self.rows, self.energy, self.largest = start, 0.0, 0.0
        self.index = np.zeros(size, np.int64)
        self.weight = np.zeros(size)
        self._key = derive_seed(seed, "sketch", method)
        self._held: list[tuple[Any, np.ndarray]] = []
        self._first = start
        self._before = 0.0
        if method == "srht":
            self._order = 1 << max(0, (max(1, n or 1) - 1).bit_length())
            self._picked = numpy_stream(seed, "srht rows").choice(self._order, size, replace=size > self._order)

    def update(self, block: Block) -> None:
        """Add the next rows."""
        self._keyed(block)
        self.energy += float(block.energy.sum())
        self.largest = max(self.largest, float(block.energy.max(initial=0.0)))

    def finish(self, last: bool = False) -> np.ndarray:
        """The scaled sketch (t, d) of the rows so far; more may follow."""
        done = self.closed()
        if self.method not in SAMPLING:
            return done.matrix
        # weights are one for uniform sampling, so the total is the number of rows
        safe = np.where(done.weight > 0, done.weight, 1.0)
        factor = np.sqrt(np.where(done.weight > 0, done._before / (self.size * safe), 0.0))
        return done.matrix * factor[:, None]

    def closed(self) -> Accumulator:
        """This sketch with the rows of an unfinished key block in it; itself stays as it is."""
        if not self._held:
            return self
        twin = copy.copy(self)
        twin.matrix, twin.index, twin.weight = self.matrix.copy(), self.index.copy(), self.weight.copy()
        twin._held = list(self._held)
        twin._close()
        return twin

    def maker(self) -> tuple[Callable[[int], Accumulator], float]:
        """What makes an empty one that begins at a given row, and its size; only linear sketches are sums of parts."""
        make = partial(Accumulator, self.method, self.size, self.d, self.matrix.dtype, self.seed, self.n)
        return make, self.matrix.nbytes if self.method in LINEAR else float("inf")

    def merge(self, part: Accumulator) -> None:
        """Add the rows that follow."""
        own, part = self.closed(), part.closed()
        self.matrix = own.matrix + part.matrix
        self._held, self._first, self.rows = [], part.rows, part.rows
        self.energy, self.largest = self.energy + part.energy, max(self.largest, part.largest)

    def state(self) -> dict[str, np.ndarray]:
        """What a later process needs to go on."""
        empty: tuple[Any, np.ndarray] = (np.zeros((0, self.d), self.matrix.dtype), np.zeros(0))
        held, energy = _stack(self._held) if self._held else empty
        return {
            "matrix": self.matrix,
            "numbers": np.array([self.rows, self.energy, self.largest, self._first, self._before]),
            "index": self.index,
            "weight": self.weight,
            "held": held.toarray() if sp.issparse(held) else held,
            "held_energy": energy,
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self.matrix, self.index, self.weight = state["matrix"].copy(), state["index"].copy(), state["weight"].copy()
        rows, self.energy, self.largest, first, self._before = map(float, state["numbers"])
        self.rows, self._first = int(rows), int(first)
        self._held = [(state["held"], state["held_energy"])] if len(state["held"]) else []

    def _random(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(counter=[0, 0, 0, number], key=[self._key, 0]))

    def _keyed(self, block: Block) -> None:
        at, count = 0, len(block.energy)
        while at < count:
            take = min(count - at, KEY_ROWS - self.rows % KEY_ROWS)
            part = block.data[at : at + take]
            whole = (self.rows + take) % KEY_ROWS == 0
            # rows that wait are copied: whoever made the block may use its memory again
            self._held.append((part if whole or sp.issparse(part) else part.copy(), block.energy[at : at + take]))
            at, self.rows = at + take, self.rows + take
            if whole:
                self._close()

    def _close(self) -> None:
        """Put the held rows, all of one key block, into the sketch."""
        data, energy = _stack(self._held)
        number, offset = divmod(self._first, KEY_ROWS)
        if self.method in SAMPLING:
            self._sample(data, np.ones(len(energy)) if self.method == "uniform" else energy, number)
        else:
            S = self._mixer(number)[offset : offset + len(energy)]
            self.matrix += np.asarray(data.T @ S).T if sp.issparse(data) else S.T @ data
        self._first, self._held = self._first + len(energy), []

    def _mixer(self, number: int) -> np.ndarray:
        """Rows of Sᵀ that belong to one key block, (1024, t)."""
        if self.method == "gaussian":
            return self._random(number).standard_normal((KEY_ROWS, self.size)) / np.sqrt(self.size)
        flips = self._random(number).integers(0, 2, KEY_ROWS) * 2.0 - 1.0
        odd = (number * KEY_ROWS + np.arange(KEY_ROWS))[:, None] & self._picked[None, :]
        for shift in (32, 16, 8, 4, 2, 1):
            odd ^= odd >> shift
        return (1.0 - 2.0 * (odd & 1)) * flips[:, None] / np.sqrt(self.size)

    def _sample(self, data: Any, weights: np.ndarray, number: int) -> None:
        inside = float(weights.sum())
        if inside <= 0:
            return
        random = self._random(number)
        taken = np.flatnonzero(random.random(self.size) < inside / (self._before + inside))
        rows = random.choice(len(weights), len(taken), p=weights / inside)
        chosen = data[rows]
        self.matrix[taken] = chosen.toarray() if sp.issparse(chosen) else chosen
        self.index[taken], self.weight[taken] = self._first + rows, weights[rows]
        self._before += inside


def _stack(parts: list[tuple[Any, np.ndarray]]) -> tuple[Any, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    data = [p for p, _ in parts]
    whole = sp.vstack(data, format="csr") if sp.issparse(data[0]) else np.concatenate(data)
    return whole, np.concatenate([e for _, e in parts])
