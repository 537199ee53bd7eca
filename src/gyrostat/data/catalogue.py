"""Open a data set by name or a file by path: ``open_data("digits:layout=16x4")``, ``open_data("my_series.npz")``.

A built-in source is a file of this folder with a ``SOURCES`` table of name to function; the function's keyword arguments
are its options, written after a colon as ``key=value`` pairs with commas between.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .._checks import nearest
from .._errors import DataError
from .sequences import SequenceData

Source = Callable[..., SequenceData]
FILE_ENDINGS = (".npz", ".csv", ".ts")


def sources() -> dict[str, Source]:
    """All built-in sources by name.

    Example:
        >>> "digits" in sources()
        True
    """
    found: dict[str, Source] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        found |= getattr(importlib.import_module(f"{__package__}.{module.name}"), "SOURCES", {})
    return dict(sorted(found.items()))


def open_data(spec: str | os.PathLike[str], *, seed: int = 0, **options: Any) -> SequenceData:
    """The data set that ``spec`` names, or the user's own file.

    Args:
        spec: ``name`` or ``name:key=value,key=value`` of a built-in source, or a path that ends in .npz, .csv or .ts.
        seed: Seed of everything that is drawn: synthetic data, a split that the file does not bring.
        **options: Further options of the source.

    Raises:
        DataError: There is no such source, option or file, or the file cannot be used; the message says why.

    Example:
        >>> open_data("digits:layout=16x4").x.shape
        (1797, 16, 4)
    """
    text = os.fspath(spec)
    if text.endswith(FILE_ENDINGS) or os.sep in text:
        from .files import open_file

        return open_file(Path(text), seed=seed, **options)
    name, _, tail = text.partition(":")
    known = sources()
    if name not in known:
        if Path(text).exists():
            raise DataError(f"{text}: a data file must end in {', '.join(FILE_ENDINGS)}")
        raise DataError(
            f"no data set is called {name!r}{nearest(name, known)}; built in are {', '.join(known)}, or give a file"
        )
    given = {**parse_options(tail.split(","), text), **options}
    accepted = [k for k in inspect.signature(known[name]).parameters if k != "seed"]
    for key in given:
        if key not in accepted:
            raise DataError(
                f"{name} has no option {key!r}{nearest(key, accepted)}; it has {', '.join(accepted) or 'none'}"
            )
    return known[name](seed=seed, **given)


def parse_options(pairs: Iterable[str], where: str) -> dict[str, Any]:
    """Options from ``key=value`` words; values that look like numbers or true/false become them."""
    options: dict[str, Any] = {}
    for pair in filter(None, pairs):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise DataError(f"{where}: options are written key=value, got {pair!r}")
        options[key.strip()] = _value(value.strip())
    return options


def _value(word: str) -> Any:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def data_folder() -> Path:
    """The folder named by ``GYROSTAT_DATA``, where sources look for files that are not built in."""
    name = os.environ.get("GYROSTAT_DATA")
    if not name:
        raise DataError("this data set is not built in: set GYROSTAT_DATA to the folder that holds its files")
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"GYROSTAT_DATA names {name!r}, which is not a folder")
    return folder
