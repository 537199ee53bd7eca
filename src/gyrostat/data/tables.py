"""Sequences in a ``.csv``: long, ``id,time,<features...>,label`` and a line for every step, or wide, a line for a sequence.

A wide table has a column ``label`` or ``target``, perhaps ``id`` as its first, and the others are the steps of one feature
in their order; where the end of a line is empty the sequence is shorter.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._errors import DataError

ANSWERS = ("label", "target")
FORMS = (
    "the header must be id,time,<features...>,label with a line for every step, or <steps...>,label with a line for "
    "every sequence (or target instead of label)"
)


@dataclass(frozen=True)
class Table:
    """Sequences ``(T, F)`` with their answers as written: dashes where none were asked for."""

    sequences: list[np.ndarray]
    answers: list[str]
    kind: str
    features: tuple[str, ...]


def read_table(path: Path, *, answers: bool = True) -> Table:
    """Read one file.

    Args:
        path: The file.
        answers: Whether there must be answers; without them, a column of answers is not looked at.

    Raises:
        DataError: The file has neither form, or a cell is no number; the message says in which line.
    """
    try:
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        header = [h.strip() for h in next(reader, [])]
        lines = [(number, row) for number, row in enumerate(reader, 2) if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path.name}: cannot be read as CSV: {error}") from error
    long, at = header[:2] == ["id", "time"], [i for i, h in enumerate(header) if h in ANSWERS]
    named = 2 if long else int(header[:1] == ["id"])
    columns = [i for i in range(named, len(header)) if i not in at]
    if len(at) > 1 or (answers and not at) or not columns or all(map(_is_number, header)):
        raise DataError(f"{path.name}: {FORMS}, got {','.join(header)[:120]!r}")
    steps: dict[str, list[tuple[float, list[float]]]] = {}
    labels: dict[str, str] = {}
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(f"{path.name}: line {number} has {len(row)} fields, the header {len(header)}")
        key, kind = row[0].strip() if long else str(number), header[at[0]] if at else ""
        label = row[at[0]].strip() if answers else "-"
        if not label:
            raise DataError(f"{path.name}: line {number} has no {kind}")
        if labels.setdefault(key, label) != label:
            raise DataError(
                f"{path.name}: line {number}: sequence {key!r} has the {kind}s {labels[key]!r} and {label!r}"
            )
        filled = len(columns) if long else max((n for n, i in enumerate(columns, 1) if row[i].strip()), default=0)
        numbers = [_number(row[i], path.name, number, header[i]) for i in columns[:filled]]
        if long:
            steps.setdefault(key, []).append((_number(row[1], path.name, number, "time"), numbers))
        elif filled:
            steps[key] = [(float(t), [value]) for t, value in enumerate(numbers)]
        else:
            raise DataError(f"{path.name}: line {number} has an answer and no numbers")
    if not steps:
        raise DataError(f"{path.name}: has a header and no rows")
    for key, own in steps.items():
        own.sort(key=lambda s: s[0])
        if any(a[0] == b[0] for a, b in itertools.pairwise(own)):
            raise DataError(f"{path.name}: sequence {key!r} has two rows with the same time")
    sequences = [np.array([values for _, values in own]) for own in steps.values()]
    features = tuple(header[i] for i in columns) if long else ()
    return Table(sequences, list(labels.values()), header[at[0]] if at else "", features)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, name: str, line: int, column: str) -> float:
    if not _is_number(cell):
        raise DataError(f"{name}: line {line}, column {column}: {cell!r} is not a number")
    value = float(cell)
    if not np.isfinite(value):
        raise DataError(
            f"{name}: line {line}, column {column}: {cell.strip()} is not finite; fill the gap or drop the row"
        )
    return value
