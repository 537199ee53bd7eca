"""UCR/UEA ``.ts`` files: ``@`` lines, then one case per line, dimensions separated by colons, the answer last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._errors import DataError


@dataclass(frozen=True)
class TsFile:
    """Cases ``(T, F)`` with their answers as written; ``kind`` is ``"class"``, ``"target"`` or empty when unsaid."""

    cases: list[np.ndarray]
    answers: list[str]
    kind: str
    classes: tuple[str, ...]


def read_ts(path: Path) -> TsFile:
    """Read one file.

    Raises:
        DataError: The file is damaged, holds time stamps or missing values, or no answers; the message says in which line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file in UTF-8") from error
    cases: list[np.ndarray] = []
    answers: list[str] = []
    kind, classes, begun = "", (), False
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if not begun:
            if not line.startswith("@"):
                raise DataError(f"{path.name}: line {number}: expected an @ line before @data")
            word, *rest = line.split()
            word, says = word.lower(), bool(rest) and rest[0].lower() == "true"
            if word == "@timestamps" and says:
                raise DataError(f"{path.name}: cases with time stamps are not read; resample them or use a .csv")
            if word == "@classlabel" and says:
                kind, classes = "class", tuple(rest[1:])
            elif word == "@targetlabel" and says:
                kind = "target"
            elif word == "@classlabel" and rest and not kind:
                kind = "none"
            begun = word == "@data"
            if begun and kind == "none":
                raise DataError(f"{path.name}: says @classLabel false and no @targetLabel; there is nothing to learn")
            continue
        *dimensions, answer = line.split(":")
        answer = answer.strip()
        if not dimensions:
            raise DataError(f"{path.name}: line {number} has no answer after a colon")
        if classes and answer not in classes:
            raise DataError(
                f"{path.name}: line {number} has the label {answer!r}; @classLabel names {' '.join(classes)}"
            )
        columns = [_numbers(part, path.name, number, d) for d, part in enumerate(dimensions)]
        if len({len(c) for c in columns}) != 1 or (cases and len(columns) != cases[0].shape[1]):
            raise DataError(f"{path.name}: line {number}: the dimensions of a case must have equal length and number")
        cases.append(np.stack(columns, 1))
        answers.append(answer)
    if not cases:
        raise DataError(f"{path.name}: has no cases after @data")
    return TsFile(cases, answers, kind, classes)


def _numbers(part: str, name: str, line: int, dimension: int) -> np.ndarray:
    words = part.split(",")
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        values = np.array([])
    if len(values) and np.isfinite(values).all():
        return values
    for word in words:
        try:
            fine = np.isfinite(float(word))
        except ValueError:
            fine = False
        if not fine:
            told = "is a missing value" if word.strip() in ("?", "NaN", "nan") else "is not a finite number"
            raise DataError(f"{name}: line {line}, dimension {dimension}: {word.strip()!r} {told}; fill the gap first")
    raise DataError(f"{name}: line {line}, dimension {dimension}: cannot be read as numbers")
