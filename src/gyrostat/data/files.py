"""The user's own sequences: ``.npz``, long-format ``.csv`` and UCR/UEA ``.ts``; nothing in a file is ever executed.

Values are standardised per feature with the mean and deviation of the training part unless ``standardize=False``.
"""

from __future__ import annotations

import csv
import itertools
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import DataError
from .sequences import SequenceData, random_split


def open_file(path: Path, *, seed: int = 0, standardize: bool = True, **options: Any) -> SequenceData:
    """Read a file by its ending.

    Raises:
        DataError: The file is missing, damaged, or not of the form; the message says what to change.
    """
    if options:
        raise DataError(f"{path.name}: a file has no option {sorted(options)[0]!r}; it has standardize")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty")
    readers = {".npz": _read_npz, ".csv": _read_csv, ".ts": _read_ts}
    data = readers[path.suffix](path, seed) if path.suffix in readers else None
    if data is None:
        raise DataError(f"{path.name}: a data file must end in {', '.join(readers)}")
    return _standardized(data) if standardize else data


def _standardized(data: SequenceData) -> SequenceData:
    rows = data.split["train"]
    part = data.x[rows]
    if data.lengths is not None:
        part = part[np.arange(part.shape[1])[None, :] < data.lengths[rows][:, None]]
    flat = part.reshape(-1, data.n_features).astype(np.float64)
    deviation = flat.std(0)
    return rescaled(data, flat.mean(0), np.where(deviation > 0, deviation, 1.0))


def rescaled(data: SequenceData, center: np.ndarray, scale: np.ndarray) -> SequenceData:
    """The data with ``center`` subtracted from each feature and the rest divided by ``scale``."""
    x = ((data.x - center) / scale).astype(np.float32)
    return replace(data, x=x, center=tuple(map(float, center)), scale=tuple(map(float, scale)))


def _read_npz(path: Path, seed: int) -> SequenceData:
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path.name}: not a whole .npz file; save it with numpy.savez")
        # the file is opened here, because numpy leaves it open when the archive is damaged
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except DataError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickle" in str(error):
            raise DataError(
                f"{path.name}: holds Python objects, which could execute code; save plain numbers, "
                "ragged data as X (sum of lengths, F) with lengths (N,)"
            ) from error
        raise DataError(f"{path.name}: cannot be read as .npz: {error}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise DataError(f"{path.name}: not a whole .npz file: {error}") from error
    except (SyntaxError, TypeError, AttributeError, OverflowError, MemoryError, IndexError) as error:
        raise DataError(f"{path.name}: an array header inside is damaged") from error
    for key in ("X", "y"):
        if key not in arrays:
            raise DataError(
                f"{path.name}: has no array {key!r}; it needs X (N, T, F) and y (N,), and has {', '.join(arrays) or 'none'}"
            )
    X, y, lengths = arrays["X"], arrays["y"], arrays.get("lengths")
    for key, array in arrays.items():
        if array.dtype.kind not in "fiubUS":
            raise DataError(f"{path.name}: {key} must hold numbers, got {array.dtype}")
    if X.dtype.kind not in "fiub":
        raise DataError(f"{path.name}: X must hold numbers, got {X.dtype}")
    if X.ndim < 2 or y.ndim < 1:
        raise DataError(f"{path.name}: X must have shape (N, T, F) and y (N,), got {X.shape} and {y.shape}")
    if lengths is not None and X.ndim == 2:
        X = _unflatten(X, lengths, path.name)
    if X.ndim == 2:
        X = X[:, :, None]
    y, classes, task = _labels(y, path.name)
    split = {k: arrays[k] for k in ("train", "valid", "test") if k in arrays}
    if split and len(split) < 3:
        raise DataError(
            f"{path.name}: a split needs the arrays train, valid and test; {', '.join(split)} alone will not do"
        )
    split = split or random_split(y if task == "classify" and y.ndim == 1 and len(y) == len(X) else None, len(X), seed)
    return SequenceData(path.stem, X, y, task, lengths=lengths, split=split, classes=classes, provenance=path.name)


def _unflatten(X: np.ndarray, lengths: np.ndarray, name: str) -> np.ndarray:
    if (
        lengths.ndim != 1
        or not len(lengths)
        or lengths.dtype.kind not in "iu"
        or (lengths < 1).any()
        or int(lengths.sum()) != len(X)
    ):
        raise DataError(f"{name}: lengths must be positive integers that add up to the {len(X)} rows of X")
    padded = np.zeros((len(lengths), int(lengths.max()), X.shape[1]), dtype=X.dtype)
    for n, piece in enumerate(np.split(X, np.cumsum(lengths)[:-1])):
        padded[n, : len(piece)] = piece
    return padded


def _labels(y: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Class numbers, names and task: words and integers are labels, other numbers are targets."""
    if y.dtype.kind in "US" or (y.dtype.kind in "iub" and y.ndim == 1):
        classes, index = np.unique(y, return_inverse=True)
        return index.reshape(y.shape).astype(np.int64), tuple(str(c) for c in classes), "classify"
    if y.dtype.kind != "f":
        raise DataError(f"{name}: y must hold labels (integers or words) or targets (numbers), got {y.dtype}")
    return y, (), "predict" if y.ndim == 3 else "regress"


def _read_csv(path: Path, seed: int) -> SequenceData:
    """Long format: columns id, time, then features, then label; a header line names them."""
    rows: dict[str, list[tuple[float, list[float]]]] = {}
    labels: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file in UTF-8") from error
    reader = csv.reader(text)
    try:
        header = [h.strip() for h in next(reader, [])]
        if len(header) < 4 or header[0] != "id" or header[1] != "time" or header[-1] != "label":
            raise DataError(
                f"{path.name}: the header must be id,time,<features...>,label, got {','.join(header)[:120]!r}"
            )
        for number, row in enumerate(reader, 2):
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path.name}: line {number} has {len(row)} fields, the header {len(header)}")
            key, label = row[0].strip(), row[-1].strip()
            if labels.setdefault(key, label) != label:
                raise DataError(
                    f"{path.name}: line {number}: sequence {key!r} has the labels {labels[key]!r} and {label!r}"
                )
            numbers = [_number(cell, path.name, number, header[i + 1]) for i, cell in enumerate(row[1:-1])]
            rows.setdefault(key, []).append((numbers[0], numbers[1:]))
    except csv.Error as error:
        raise DataError(f"{path.name}: cannot be read as CSV: {error}") from error
    if not rows:
        raise DataError(f"{path.name}: has a header and no rows")
    sequences = []
    for key, steps in rows.items():
        steps.sort(key=lambda s: s[0])
        if any(a[0] == b[0] for a, b in itertools.pairwise(steps)):
            raise DataError(f"{path.name}: sequence {key!r} has two rows with the same time")
        sequences.append(np.array([s[1] for s in steps]))
    return _ragged(path, sequences, list(labels.values()), tuple(header[2:-1]), seed)


def _number(cell: str, name: str, line: int, column: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise DataError(f"{name}: line {line}, column {column}: {cell!r} is not a number") from error
    if not np.isfinite(value):
        raise DataError(
            f"{name}: line {line}, column {column}: {cell.strip()} is not finite; fill the gap or drop the row"
        )
    return value


def _read_ts(path: Path, seed: int) -> SequenceData:
    """UCR/UEA: ``@`` lines, then one case per line, dimensions separated by colons, the class label last."""
    sequences, labels, data_begun = [], [], False
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file in UTF-8") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not data_begun:
            low = line.lower()
            if not low.startswith("@"):
                raise DataError(f"{path.name}: line {number}: expected an @ line before @data")
            if low.startswith("@timestamps") and "true" in low:
                raise DataError(f"{path.name}: cases with time stamps are not read; resample them or use a .csv")
            data_begun = low.startswith("@data")
            continue
        *dimensions, label = line.split(":")
        if not dimensions:
            raise DataError(f"{path.name}: line {number} has no class label after a colon")
        columns = [
            [_number(c, path.name, number, f"dimension {d}") for c in part.split(",")]
            for d, part in enumerate(dimensions)
        ]
        if len({len(c) for c in columns}) != 1 or (sequences and len(columns) != sequences[0].shape[1]):
            raise DataError(f"{path.name}: line {number}: the dimensions of a case must have equal length and number")
        sequences.append(np.array(columns).T)
        labels.append(label.strip())
    if not sequences:
        raise DataError(f"{path.name}: has no cases after @data")
    return _ragged(path, sequences, labels, (), seed)


def _ragged(
    path: Path, sequences: list[np.ndarray], labels: list[str], features: tuple[str, ...], seed: int
) -> SequenceData:
    lengths = np.array([len(s) for s in sequences])
    X = _unflatten(np.concatenate(sequences), lengths, path.name)
    y, classes, task = _labels(np.array(labels), path.name)
    even = bool((lengths == lengths[0]).all())
    return SequenceData(
        path.stem, X, y, task, lengths=None if even else lengths, split=random_split(y, len(X), seed), classes=classes,
        features=features, provenance=path.name,
    )  # fmt: skip
