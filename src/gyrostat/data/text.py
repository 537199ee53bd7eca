"""The next character or word of a text: ``text:kjv.txt.gz``.

    x_t = one-hot(s_t),  y_t = s_{t+1},  loss in nats; divided by ln 2 it is bits per symbol

The text is cut into windows of ``length`` symbols, in order: the first 90 % train, then 5 % valid and 5 % test. The
vocabulary is that of the training part, most frequent first; number 0 stands for all other symbols.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from .._checks import Boolean, Integer, OneOf, Text
from .._errors import DataError
from .rows import Rows
from .sequences import SequenceData
from .source import Source, find

UNKNOWN = "<unknown>"
NEEDS = "a UTF-8 text, FILE.txt or FILE.txt.gz"
_LIMIT = 500_000_000


def read_text(path: Path) -> str:
    """The text of a file, gzipped or not.

    Raises:
        DataError: It is damaged, empty or no text.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
        found = raw.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: not a whole gzip file; fetch it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file in UTF-8") from error
    if len(raw) > _LIMIT:
        raise DataError(f"{path.name}: unpacks to more than {_LIMIT} bytes")
    return found


def one_hot(numbers: np.ndarray, size: int) -> np.ndarray:
    """``(n, T)`` numbers as ``(n, T, size)`` float32; negative numbers become zeros."""
    x = np.zeros((*numbers.shape, size), dtype=np.float32)
    np.put_along_axis(x, np.maximum(numbers, 0)[..., None].astype(np.int64), (numbers >= 0)[..., None], -1)
    return x


def number_words(train: list[str], vocabulary: int) -> tuple[str, ...]:
    """The unknown symbol, then the most frequent ones of the training part, ``vocabulary`` in all."""
    counts = Counter(train)
    ranked = sorted(counts, key=lambda w: (-counts[w], w))
    return (UNKNOWN, *ranked[: vocabulary - 1])


def text(
    *,
    file: str = "",
    unit: str = "chars",
    length: int = 150,
    vocabulary: int = 2000,
    lower: bool = False,
    limit: int = 0,
    seed: int = 0,
) -> SequenceData:
    """Windows of a text; ``limit`` keeps the first so many symbols. Nothing is drawn from the seed."""
    path = Path(file)
    if not path.is_file():
        path = find(f"text:{file}", (path.name,), f"the file {file}") if path.name == file else path
    if not path.is_file():
        raise DataError(f"{path}: no such file; {NEEDS}")
    found = read_text(path)
    found = found.lower() if lower else found
    symbols = list(found) if unit == "chars" else re.findall(r"\w+(?:'\w+)*|[^\w\s]|\n", found)
    symbols = symbols[:limit] if limit else symbols
    N = (len(symbols) - 1) // length
    held = max(1, round(0.05 * N))
    if N < 4:
        raise DataError(f"{path.name}: {len(symbols)} symbols give {max(N, 0)} windows of {length}; lower length")
    split = {
        "train": np.arange(N - 2 * held),
        "valid": np.arange(N - 2 * held, N - held),
        "test": np.arange(N - held, N),
    }
    classes = number_words(symbols[: (N - 2 * held) * length], vocabulary)
    index = {word: i for i, word in enumerate(classes)}
    numbers = np.fromiter((index.get(s, 0) for s in symbols), np.int32, len(symbols))
    now = numbers[: N * length].reshape(N, length)
    size = len(classes)
    return SequenceData(
        f"{path.name} {unit}",
        Rows(now, lambda stored, _: one_hot(stored, size), length, size, f"one-hot {size}"),
        numbers[1 : N * length + 1].reshape(N, length).astype(np.int64),
        "tag",
        split=split,
        classes=classes,
        features=classes,
        provenance=f"{path.name}; windows of {length} {unit} in order",
    )


SOURCES = {
    "text": Source(
        text,
        "the next character or word of a text, as in text:kjv.txt.gz",
        {
            "file": Text(),
            "unit": OneOf(("chars", "words")),
            "length": Integer(low=1, high=1_000_000),
            "vocabulary": Integer(low=2, high=50_000),
            "lower": Boolean(),
            "limit": Integer(low=0),
        },
        licence="as given by its owner",
        files=NEEDS,
        subject="file",
    )
}
