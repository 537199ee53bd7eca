"""Sentences with a tag for every word: tab-separated treebank extracts, ``word TAB UPOS TAB XPOS``."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._checks import Integer, OneOf
from .._errors import DataError
from .rows import Rows
from .sequences import IGNORED, SequenceData
from .source import Source, find
from .text import one_hot

PAD, UNKNOWN = 0, 1
_LIMIT = 200_000_000


@dataclass(frozen=True)
class TaggedData:
    """Sentences as numbers.

    Attributes:
        name: What the data set is called in reports.
        x: ``(N, L)`` int64 word numbers, 0 for padding, 1 for words that the training part does not have.
        y: ``(N, L)`` int64 tag numbers, -100 for padding.
        split: Row numbers of ``"train"``, ``"valid"`` and ``"test"``.
        words: Words by number; the first two are padding and unknown.
        tags: Tags by number.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    split: dict[str, np.ndarray]
    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_sentences(path: Path, column: int) -> list[list[tuple[str, str]]]:
    """The sentences of one file, split at blank lines."""
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read(_LIMIT + 1)
        text = raw.decode("utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a whole gzip file of UTF-8 text; fetch it again") from error
    if len(raw) > _LIMIT:
        raise DataError(f"{path.name}: unpacks to more than {_LIMIT} bytes")
    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t")
        if not line.strip():
            sentences.append([])
        elif len(fields) <= column:
            raise DataError(f"{path.name}: line {number} has {len(fields)} columns, tags are in column {column + 1}")
        else:
            sentences[-1].append((fields[0], fields[column]))
    return [s for s in sentences if s]


def ud_english_ewt(*, tags: str = "upos", limit: int = 0, max_length: int = 64) -> TaggedData:
    """Universal Dependencies English EWT from GYROSTAT_DATA (CC BY-SA 4.0).

    Args:
        tags: ``"upos"`` (17 classes) or ``"xpos"``.
        limit: Keep the first so many training sentences, and a fifth of that of the others.
        max_length: Longer sentences are cut.

    Raises:
        DataError: A file is missing or damaged.
    """
    OneOf(("upos", "xpos")).check("tags", tags, "ud_english_ewt")
    Integer(low=0).check("limit", limit, "ud_english_ewt")
    Integer(low=1).check("max_length", max_length, "ud_english_ewt")
    parts: dict[str, list[list[tuple[str, str]]]] = {}
    for name, stem in (("train", "train"), ("valid", "dev"), ("test", "test")):
        file = f"ud_english_ewt_{stem}.tsv.gz"
        path = find("ud-english-ewt", (file, f"ud/{file}"), f"the file {file}")
        found = read_sentences(path, 1 if tags == "upos" else 2)
        share = limit if name == "train" else max(limit // 5, 1)
        parts[name] = found[:share] if limit else found
    counts = Counter(w for s in parts["train"] for w, _ in s)
    words = ("<pad>", "<unknown>", *(w for w, _ in counts.most_common()))
    classes = tuple(sorted({t for part in parts.values() for s in part for _, t in s}))
    word_number, tag_number = {w: i for i, w in enumerate(words)}, {t: i for i, t in enumerate(classes)}
    sentences = [s[:max_length] for part in parts.values() for s in part]
    length = max(len(s) for s in sentences)
    x = np.full((len(sentences), length), PAD, dtype=np.int64)
    y = np.full((len(sentences), length), IGNORED, dtype=np.int64)
    for i, sentence in enumerate(sentences):
        x[i, : len(sentence)] = [word_number.get(w, UNKNOWN) for w, _ in sentence]
        y[i, : len(sentence)] = [tag_number[t] for _, t in sentence]
    ends = np.cumsum([0, *(len(p) for p in parts.values())])
    split = {name: np.arange(a, b) for name, a, b in zip(parts, ends[:-1], ends[1:], strict=True)}
    return TaggedData(f"ud-english-ewt {tags}", x, y, split, words, classes)


def tagged_sequences(
    *, tags: str = "upos", vocabulary: int = 2000, limit: int = 0, max_length: int = 64, seed: int = 0
) -> SequenceData:
    """The same sentences for recurrent models: one-hot words of the ``vocabulary`` most frequent, a tag at every word."""
    data = ud_english_ewt(tags=tags, limit=limit, max_length=max_length)
    kept = np.where(data.x >= vocabulary, UNKNOWN, data.x).astype(np.int32) - 1  # padding becomes -1, a row of zeros
    size = min(vocabulary, len(data.words)) - 1
    L = kept.shape[1]
    return SequenceData(
        data.name, Rows(kept, lambda stored, _: one_hot(stored, size), L, size, f"one-hot {size}"), data.y, "tag",
        lengths=(data.x != PAD).sum(1), split=data.split, classes=data.tags, features=data.words[1 : size + 1],
        licence="CC BY-SA 4.0", provenance="ud_english_ewt_*.tsv.gz",
    )  # fmt: skip


SOURCES = {
    "ud-english-ewt": Source(
        tagged_sequences,
        "the part of speech of every word: Universal Dependencies English EWT",
        {
            "tags": OneOf(("upos", "xpos")),
            "vocabulary": Integer(low=3, high=50_000),
            "limit": Integer(low=0),
            "max_length": Integer(low=1),
        },
        licence="CC BY-SA 4.0",
        files="ud_english_ewt_train.tsv.gz, ..._dev.tsv.gz, ..._test.tsv.gz",
    )
}
