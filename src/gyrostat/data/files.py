"""The user's own sequences: ``.npz``, ``.csv`` and UCR/UEA ``.ts``; nothing in a file is ever executed.

What the answers mean is decided in :mod:`gyrostat.data.answers`; a ``.csv`` column ``target`` and a ``.ts`` line
``@targetLabel true`` hold targets, ``@classLabel true`` classes.

Values are standardised per feature with the mean and deviation of the training part unless ``standardize=False``.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Boolean, check
from .._errors import ArgumentError, ArgumentTypeError, DataError
from .answers import TASK, read_answers
from .sequences import SequenceData, random_split
from .tables import read_table
from .ts import read_ts


def open_file(
    path: Path, *, seed: int = 0, standardize: bool = True, task: str = "auto", answers: bool = True, **options: Any
) -> SequenceData:
    """Read a file by its ending.

    Args:
        path: The file.
        seed: Seed of the split, where the file brings none.
        standardize: Whether to standardise each feature.
        task: ``"auto"`` (see :mod:`gyrostat.data.answers`), ``"classify"`` or ``"regress"``.
        answers: Whether the file has labels or targets; without them, all sequences are for prediction, one is enough,
            and nothing is standardised.
        **options: None are known.

    Raises:
        DataError: The file is missing, damaged, or not of the form; the message says what to change.
    """
    if options:
        raise DataError(f"{path.name}: a file has no option {sorted(options)[0]!r}; it has standardize, task")
    try:
        check({"standardize": Boolean(), "task": TASK}, {"standardize": standardize, "task": task}, path.name)
    except (ArgumentError, ArgumentTypeError) as error:
        raise DataError(str(error)) from None
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty")
    readers = {".npz": _read_npz, ".csv": _read_csv, ".ts": _read_ts}
    data = readers[path.suffix](path, seed, task if answers else "none") if path.suffix in readers else None
    if data is None:
        raise DataError(f"{path.name}: a data file must end in {', '.join(readers)}")
    return standardized(data) if standardize and answers else data


def standardized(data: SequenceData) -> SequenceData:
    """Every feature with mean 0 and deviation 1 over the training part."""
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


def _read_npz(path: Path, seed: int, task: str) -> SequenceData:
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path.name}: not a whole .npz file; save it with numpy.savez")
        # the file is opened here, because numpy leaves it open when the archive is damaged
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays: dict[str, Any] = {key: file[key] for key in file.files}
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
    if "X" not in arrays and "x" in arrays:
        arrays["X"] = arrays.pop("x")
    if task == "none" and "X" in arrays:
        lengths = arrays.get("lengths")
        count = len(lengths) if lengths is not None and arrays["X"].ndim == 2 and lengths.ndim else len(arrays["X"])
        arrays = {k: v for k, v in arrays.items() if k in ("X", "lengths")} | {"y": np.zeros(count)}
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
    answers = read_answers(y, path.name, task, steps=X.shape[1])
    split = {k: arrays[k] for k in ("train", "valid", "test") if k in arrays}
    if split and len(split) < 3:
        raise DataError(
            f"{path.name}: a split needs the arrays train, valid and test; {', '.join(split)} alone will not do"
        )
    by_class = answers.task == "classify" and len(y) == len(X)
    split = split or split_of(answers.y if by_class else None, len(X), seed, task)
    return SequenceData(
        path.stem, X, answers.y, answers.task, lengths=lengths, split=split, classes=answers.classes,
        provenance=f"{path.name}; {answers.how}",
    )  # fmt: skip


def split_of(labels: np.ndarray | None, n: int, seed: int, task: str) -> dict[str, np.ndarray]:
    """A random split, or everything as test where there are no answers to learn from."""
    return {"test": np.arange(n)} if task == "none" else random_split(labels, n, seed)


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


def _read_csv(path: Path, seed: int, task: str) -> SequenceData:
    table = read_table(path, answers=task != "none")
    task = "regress" if table.kind == "target" and task == "auto" else task
    return ragged(path, table.sequences, np.array(table.answers), table.features, seed, task)


def _read_ts(path: Path, seed: int, task: str) -> SequenceData:
    file = read_ts(path)
    if file.kind == "target":
        task = "regress" if task == "auto" else task
    elif file.kind == "class":
        task = "classify" if task == "auto" else task
    return ragged(path, file.cases, np.array(file.answers), (), seed, task)


def ragged(
    path: Path, sequences: list[np.ndarray], y: np.ndarray, features: tuple[str, ...], seed: int, task: str
) -> SequenceData:
    """Sequences ``(T_n, F)`` of any lengths with their answers, split at random."""
    lengths = np.array([len(s) for s in sequences])
    X = _unflatten(np.concatenate(sequences), lengths, path.name)
    answers = read_answers(y, path.name, task)
    even = bool((lengths == lengths[0]).all())
    split = split_of(answers.y if answers.task == "classify" else None, len(X), seed, task)
    return SequenceData(
        path.stem, X, answers.y, answers.task, lengths=None if even else lengths, split=split, classes=answers.classes,
        features=features, provenance=f"{path.name}; {answers.how}",
    )  # fmt: skip
