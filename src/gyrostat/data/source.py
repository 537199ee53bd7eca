"""What a source of data is: a function, the rules of its options, where its files go."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import Rule, Text, check, nearest
from .._errors import ArgumentError, ArgumentTypeError, DataError

if TYPE_CHECKING:
    from .images import ImageData
    from .sequences import SequenceData

HUB_HINT = "or add hub=true to download it (needs a network and gyrostat[hub])"


@dataclass(frozen=True)
class Source:
    """One data set that opens by name.

    Attributes:
        make: Builds the sequences; takes ``seed`` and the options by keyword.
        about: What it is, in a few words.
        options: Rule of each option; every option has a default in ``make``.
        licence: Licence of the data.
        files: Where its files go, from ``GYROSTAT_DATA`` on; empty when it needs none.
        images: Builds the same data as images.
        subject: The option that a word without ``=`` sets, as the name in ``ucr:NAME``.
    """

    make: Callable[..., SequenceData]
    about: str
    options: Mapping[str, Rule] = field(default_factory=dict)
    licence: str = "synthetic"
    files: str = ""
    images: Callable[..., ImageData] | None = None
    subject: str = ""

    def defaults(self, function: Callable[..., Any] | None = None) -> dict[str, Any]:
        """Options that ``make`` (or another function of the source) takes, with their defaults."""
        found = inspect.signature(function or self.make).parameters.values()
        return {p.name: p.default for p in found if p.name in self.options}

    def call(self, function: Callable[..., Any], name: str, seed: int, words: Mapping[str, Any]) -> Any:
        """Check the options against their rules and build.

        Raises:
            DataError: An option is unknown, of the wrong type or out of its range; the message names it.
        """
        accepted = self.defaults(function)
        given = {(self.subject or key) if key == "" else key: value for key, value in words.items()}
        for key in given:
            if key not in accepted:
                told = f"no option {key!r}{nearest(key, accepted)}" if key else "options written key=value only"
                raise DataError(f"{name} has {told}; it has {', '.join(accepted) or 'none'}")
            if isinstance(self.options[key], Text):
                given[key] = str(given[key])
        if self.subject and not given.get(self.subject):
            raise DataError(f"{name}: say which, as in {name}:{self.subject.upper()}; {self.files}")
        try:
            check(self.options, given, name)
        except (ArgumentError, ArgumentTypeError) as error:
            raise DataError(str(error)) from None
        try:
            return function(seed=seed, **given)
        except MemoryError:
            raise DataError(f"{name}: does not fit into memory with these options; make it smaller") from None


def data_folder(name: str = "this data set", needs: str = "its files") -> Path:
    """The folder named by ``GYROSTAT_DATA``, where sources look for files that are not built in."""
    word = os.environ.get("GYROSTAT_DATA")
    if not word:
        raise DataError(f"{name} is not built in: set GYROSTAT_DATA to the folder that holds {needs}")
    folder = Path(word)
    if not folder.is_dir():
        raise DataError(f"GYROSTAT_DATA names {word!r}, which is not a folder")
    return folder


def find(name: str, candidates: tuple[str, ...], needs: str, hint: str = "") -> Path:
    """The first of some files or folders that exists under ``GYROSTAT_DATA``.

    Args:
        name: The source, for the message.
        candidates: Paths relative to the folder; ``*`` matches anything.
        needs: What has to be there, in words.
        hint: What else helps, in words.
    """
    folder = data_folder(name, needs)
    for pattern in candidates:
        for path in sorted(folder.glob(pattern)):
            return path
    raise DataError(f"{name}: found nothing under GYROSTAT_DATA; put {needs} there{', ' + hint if hint else ''}")
