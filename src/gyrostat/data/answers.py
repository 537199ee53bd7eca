"""What a column of answers means: words and whole numbers are classes, numbers with a fraction are targets.

``task=classify`` and ``task=regress`` decide otherwise. Whole numbers of which more than half (and more than 20) differ
are refused until the user says which of the two they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._checks import OneOf
from .._errors import DataError

TASK = OneOf(("auto", "classify", "regress"))


@dataclass(frozen=True)
class Answers:
    """Labels or targets ``y``, the task, the names of the classes, and how ``y`` was read, in words."""

    y: np.ndarray
    task: str
    classes: tuple[str, ...]
    how: str


def read_answers(y: np.ndarray, name: str, task: str = "auto", *, steps: int | None = None) -> Answers:
    """Decide what ``y`` is.

    Args:
        y: ``(N,)`` words or numbers, ``(N, K)`` or ``(N, T, K)`` numbers, ``(N, T)`` whole numbers.
        name: The file, for messages.
        task: ``"auto"``, ``"classify"`` or ``"regress"``; ``"none"`` leaves them unread.
        steps: T of the sequences; integers of shape ``(N, T)`` are labels of steps.

    Raises:
        DataError: It cannot be read as what was asked for.
    """
    if task == "none":
        return Answers(np.zeros((len(y), 1)), "regress", (), "answers not read")
    TASK.check("task", task, name)
    if y.dtype.kind not in "USfiub":
        raise DataError(f"{name}: y must hold labels (integers or words) or targets (numbers), got {y.dtype}")
    numbers = _as_numbers(y)
    if task == "regress":
        if numbers is None:
            word = next(w for w in y.ravel().tolist() if _number(w) is None)
            raise DataError(f"{name}: targets must be numbers, got {word!r}; leave task=regress out for classes")
        return Answers(numbers, "predict" if y.ndim == 3 else "regress", (), "y read as targets")
    if task == "classify" or numbers is None or _counts(y, numbers):
        if y.ndim > 2 or (y.ndim == 2 and y.shape[1] != steps):
            raise DataError(f"{name}: labels must have shape (N,) or (N, T), got {y.shape}")
        values = y if numbers is None else numbers
        found, index = np.unique(values, return_inverse=True)
        N = len(y)
        if task == "auto" and numbers is not None and y.ndim == 1 and len(found) > max(20, N / 2):
            raise DataError(
                f"{name}: y holds {len(found)} different whole numbers in {N} sequences: "
                "say task=regress if they are targets, task=classify if they are classes"
            )
        names = tuple(str(c) if numbers is None else f"{c:.12g}" for c in found.tolist())
        kind = "words" if numbers is None else "numbers"
        return Answers(
            index.reshape(y.shape).astype(np.int64),
            "classify" if y.ndim == 1 else "tag",
            names,
            f"{kind} read as classes",
        )
    return Answers(numbers, "predict" if y.ndim == 3 else "regress", (), "y read as targets")


def _counts(y: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether whole numbers stand where classes can: integers, or text without a fraction."""
    if y.dtype.kind in "US":
        return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())
    return y.dtype.kind in "iub" and y.ndim <= 2


def _number(word: object) -> float | None:
    try:
        return float(word)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _as_numbers(y: np.ndarray) -> np.ndarray | None:
    if y.dtype.kind not in "US":
        return y.astype(np.float64)
    found = [_number(w) for w in y.ravel().tolist()]
    return None if None in found else np.array(found, dtype=np.float64).reshape(y.shape)
