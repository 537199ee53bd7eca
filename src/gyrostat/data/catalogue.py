"""Open a data set by name or a file by path: ``open_data("digits:layout=16x4")``, ``open_data("my_series.npz")``.

A source is a file of this folder with a ``SOURCES`` table of name to :class:`Source`; its options follow a colon as
``key=value`` pairs with commas between, each declared with its type and range.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import nearest
from .._errors import DataError
from .sequences import SequenceData
from .source import Source

if TYPE_CHECKING:
    from .images import ImageData

FILE_ENDINGS = (".npz", ".csv", ".ts")


def sources() -> dict[str, Source]:
    """All sources by name.

    Example:
        >>> "digits" in sources()
        True
    """
    found: dict[str, Source] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        found |= getattr(importlib.import_module(f"{__package__}.{module.name}"), "SOURCES", {})
    return dict(sorted(found.items()))


def open_data(spec: str | os.PathLike[str], *, seed: int = 0, **options: Any) -> SequenceData:
    """The sequences that ``spec`` names, or the user's own file.

    Args:
        spec: ``name`` or ``name:key=value,key=value`` of a source, or a path that ends in .npz, .csv or .ts, which takes
            options in the same way: ``my.csv:task=regress``.
        seed: Seed of everything that is drawn: synthetic data, a split that the file does not bring.
        **options: Further options of the source.

    Raises:
        DataError: There is no such source, option or file, or the file cannot be used; the message says why.

    Example:
        >>> open_data("digits:layout=16x4").x.shape
        (1797, 16, 4)
    """
    text = os.fspath(spec)
    path, tail = split_file_spec(text)
    if path is not None:
        from .files import open_file

        return open_file(path, seed=seed, **{**parse_options(tail.split(","), text), **options})
    name, source, words = _look_up(text)
    return source.call(source.make, name, seed, {**words, **options})


def open_images(spec: str, *, seed: int = 0, **options: Any) -> ImageData:
    """The images that ``spec`` names, as images.

    Args:
        spec: ``digits``, ``mnist``, ``fashion-mnist`` or ``cifar10``, with options after a colon.
        seed: Seed of a split that the source does not bring.
        **options: Further options of the source.

    Raises:
        DataError: The source is unknown, holds no images, or its files are missing or damaged.

    Example:
        >>> open_images("digits").pixels.shape
        (1797, 1, 8, 8)
    """
    name, source, words = _look_up(spec)
    if source.images is None:
        having = ", ".join(n for n, s in sources().items() if s.images is not None)
        raise DataError(f"{name} holds no images; {having} do")
    return source.call(source.images, name, seed, {**words, **options})


def split_file_spec(text: str) -> tuple[Path | None, str]:
    """The path and the options of a user's file, ``my.csv:task=regress``; no path when ``text`` names a source."""
    head, colon, tail = text.rpartition(":")
    if text.split(":")[0] in sources():
        return None, ""
    if colon and head.endswith(FILE_ENDINGS):
        return Path(head), tail
    return (Path(text), "") if text.endswith(FILE_ENDINGS) or os.sep in text else (None, "")


def _look_up(text: str) -> tuple[str, Source, dict[str, Any]]:
    name, _, tail = text.partition(":")
    known = sources()
    if name not in known:
        if Path(text).exists():
            raise DataError(f"{text}: a data file must end in {', '.join(FILE_ENDINGS)}")
        raise DataError(
            f"no data set is called {name!r}{nearest(name, known)}; known are {', '.join(known)}, or give a file"
        )
    first, _, rest = tail.partition(",")
    words: dict[str, Any] = {}
    if first and "=" not in first and known[name].subject:
        words[""], tail = first.strip(), rest
    return name, known[name], {**words, **parse_options(tail.split(","), text)}


def parse_options(pairs: Iterable[str], where: str) -> dict[str, Any]:
    """Options from ``key=value`` words; values that look like numbers, true/false or JSON lists become them."""
    options: dict[str, Any] = {}
    for pair in filter(None, pairs):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise DataError(f"{where}: options are written key=value, got {pair!r}")
        try:
            options[key.strip()] = _value(value.strip())
        except json.JSONDecodeError:
            raise DataError(
                f"{where}: {key.strip()} must be a JSON list such as [[0,1],[1,2]], got {value!r}"
            ) from None
    return options


def _value(word: str) -> Any:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.startswith("["):
        return json.loads(word)
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
