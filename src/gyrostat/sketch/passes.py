"""One pass over the rows, block by block, that can be watched, interrupted between two blocks, and gone on with.

A pass is any :class:`Work`: it takes blocks in order and can put all it knows into a dictionary of arrays. The state is
saved now and then (never for more than a twentieth of the time) and when somebody asks to stop; a state is taken up
again only by the same work on a matrix of the same size and the same first block.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from .._errors import DataError
from . import native
from .rows import Block, Rows


class Work(Protocol):
    """What a pass does with the rows."""

    rows: int

    def update(self, block: Block) -> None:
        """Take the next rows; ``self.rows`` counts them."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """All that a later process needs to go on."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        ...


class Watch:
    """Progress, saved states and the wish to stop.

    Args:
        progress: Called with the rows read so far in the current pass.
        folder: Where states are kept; None keeps none.
        every: Seconds between two saves, at least.

    Attributes:
        name: The pass that runs.
        stop: Set to True, from a signal handler say, to stop after the current block with the state saved.
    """

    def __init__(
        self, progress: Callable[[int], Any] | None = None, folder: Path | None = None, *, every: float = 10.0
    ) -> None:
        self.progress, self.folder, self.every = progress, folder, every
        self.stop = False
        self.name = ""

    def run(self, rows: Rows, work: Any, name: str) -> None:
        """Feed every block to ``work``; ``name`` says what it is and with what settings."""
        self.name = name
        file = None if self.folder is None or rows.one_shot else self.folder / f"{name}.pass.npz"
        mark = self._take_up(rows, work, file)
        pause, saved = self.every, time.monotonic()
        if file is not None and mark is None:
            mark = _mark(rows)
        for _ in rows.feed(work):
            if self.progress is not None:
                self.progress(work.rows)
            if file is not None and mark is not None and (self.stop or time.monotonic() - saved > pause):
                begun = time.monotonic()
                self._save(work, file, mark)
                saved = time.monotonic()
                pause = max(self.every, 20 * (saved - begun))
            if self.stop:
                raise KeyboardInterrupt
        if file is not None and mark is not None:
            self._save(work, file, mark)

    def forget(self) -> None:
        """Remove the states: the result is there."""
        if self.folder is not None:
            for file in self.folder.glob("*.pass.npz"):
                file.unlink(missing_ok=True)
            # somebody else's files stay
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                shutil.rmtree(self.folder)

    def _take_up(self, rows: Rows, work: Any, file: Path | None) -> str | None:
        if file is None or not file.is_file():
            return None
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
                state = {key: held[key] for key in held.files}
            mark = str(state.pop("mark"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # a state cut short by a crash is worth nothing; the pass starts again
            return None
        if mark != _mark(rows):
            raise DataError(f"{file} belongs to another matrix; name another folder for resume, or delete this one")
        work.restore(state)
        return mark

    def _save(self, work: Any, file: Path, mark: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".tmp")
        with fresh.open("wb") as stream:
            np.savez(stream, allow_pickle=False, mark=np.array(mark), **work.state())
        fresh.replace(file)


def as_watch(progress: Any, resume: Path | str | None = None) -> Watch:
    """``progress`` itself where it is a watch already."""
    return progress if isinstance(progress, Watch) else Watch(progress, None if resume is None else Path(resume))


def _mark(rows: Rows) -> str:
    """Fingerprint of the matrix: its shape and its first row."""
    size = f"{rows.n} {rows.d} {rows.source_dtype} {rows.transposed} ".encode()
    for block in rows.blocks():
        row = block.data[:1]
        row = row.toarray() if sp.issparse(row) else np.ascontiguousarray(row)
        return hashlib.blake2b(size + row.tobytes(), digest_size=16).hexdigest()
    return hashlib.blake2b(size, digest_size=16).hexdigest()


def digest(*arrays: np.ndarray) -> str:
    """A name for a pass that depends on ``arrays``."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Collect:
    """``of(block)`` for each block, (rows of the block, m), one below the other: A V, row norms."""

    def __init__(self, of: Callable[[Block], Any], start: int = 0) -> None:
        self.rows, self._of = start, of
        self._parts: list[np.ndarray] = []

    def update(self, block: Block) -> None:
        """Take the next rows."""
        self._parts.append(np.asarray(self._of(block)))
        self.rows += len(block.energy)

    def finish(self) -> np.ndarray:
        """All rows (n, m)."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)

    def maker(self) -> tuple[Callable[[int], Collect], int]:
        """What makes an empty one that begins at a given row, and its size in bytes."""
        return partial(Collect, self._of), 0

    def merge(self, part: Collect) -> None:
        """Append what follows."""
        self._parts, self.rows = self._parts + part._parts, part.rows

    def state(self) -> dict[str, np.ndarray]:
        """The rows so far."""
        return {"rows": self.finish()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self._parts, self.rows = [state["rows"]], len(state["rows"])


class Times(Collect):
    """A V for few columns: (n, k), each row taken where it lies if the kernel is here."""

    def __init__(self, V: np.ndarray, start: int = 0) -> None:
        super().__init__(lambda block: block.data @ V, start)
        self._V = V

    @property
    def takes_rows(self) -> bool:
        """Whether :meth:`take` can be used."""
        return native.ready() and self._V.dtype == np.float64

    def take(self, data: np.ndarray, threads: int = 1) -> float:
        """Take the next rows; a number that is finite where all of theirs are."""
        found = native.times(data, self._V, threads)
        self._parts.append(found)
        self.rows += len(data)
        return float(found.sum())

    def maker(self) -> tuple[Callable[[int], Times], int]:
        """What makes an empty one that begins at a given row, and its size in bytes."""
        return partial(Times, self._V), 0


class Sum:
    """Σ over blocks of ``term(block)``, an array of one shape: AᴴA, Bᴴ A, |A v|²."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, term: Callable[[Block], Any], start: int = 0) -> None:
        self.total, self.rows, self._term = np.zeros(shape, dtype), start, term

    def update(self, block: Block) -> None:
        """Add the next rows."""
        term = self._term(block)
        self.total += term.toarray() if sp.issparse(term) else term
        self.rows += len(block.energy)

    def maker(self) -> tuple[Callable[[int], Sum], int]:
        """What makes an empty one that begins at a given row, and its size in bytes."""
        return partial(Sum, self.total.shape, self.total.dtype, self._term), self.total.nbytes

    def merge(self, part: Sum) -> None:
        """Add a part."""
        self.total, self.rows = self.total + part.total, part.rows

    def state(self) -> dict[str, np.ndarray]:
        """The sum so far."""
        return {"total": self.total, "rows": np.array(self.rows)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self.total, self.rows = state["total"], int(state["rows"])


class Normal:
    """Σ over blocks of Aᴴ(A V) for few columns: (d, m), each row taken where it lies if the kernel is here."""

    def __init__(self, V: np.ndarray, start: int = 0) -> None:
        self.rows, self._V = start, V
        # even and odd key blocks apart, so that the number of threads changes nothing
        self._sums = native.normal_sums(*V.shape) if self.takes_rows else np.zeros((2, *V.shape), V.dtype)

    @property
    def takes_rows(self) -> bool:
        """Whether :meth:`take` can be used."""
        return native.ready() and self._V.dtype == np.float64

    def take(self, data: np.ndarray, threads: int = 1) -> float:
        """Take the next rows; a number that is finite where all of theirs are."""
        square = native.normal(data, self._V, self._sums, self.rows, threads) if len(data) else 0.0
        self.rows += len(data)
        return square

    def update(self, block: Block) -> None:
        """Take the next rows."""
        self._sums[0, :, : self._V.shape[1]] += np.asarray(block.data.conj().T @ (block.data @ self._V))
        self.rows += len(block.energy)

    def finish(self) -> np.ndarray:
        """Aᴴ A V (d, m)."""
        return self._sums.sum(axis=0)[:, : self._V.shape[1]]

    def maker(self) -> tuple[Callable[[int], Normal], int]:
        """What makes an empty one that begins at a given row, and its size in bytes."""
        return partial(Normal, self._V), self._sums.nbytes

    def merge(self, part: Normal) -> None:
        """Add a part."""
        self._sums, self.rows = self._sums + part._sums, part.rows

    def state(self) -> dict[str, np.ndarray]:
        """The sums so far."""
        return {"sums": self._sums[:, :, : self._V.shape[1]], "rows": np.array(self.rows)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`state`."""
        self._sums[:, :, : self._V.shape[1]], self.rows = state["sums"], int(state["rows"])
