"""Argument rules declared as data, with one uniform message.

A class or function states its rules once, ``RULES = {"dt": Real(low=0, closed="neither"), "solver": OneOf(SOLVERS)}``,
and calls ``check(RULES, locals(), "LipschitzRNN")``. The message is always the same sentence:
``LipschitzRNN: solver must be one of 'euler', 'midpoint', got 'eular'; did you mean 'euler'?``
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import ArgumentError, ArgumentTypeError


def nearest(word: object, choices: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the choice that looks most like ``word``, or an empty string."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


@dataclass(frozen=True)
class _Number:
    low: float = -math.inf
    high: float = math.inf
    closed: str = "both"
    optional: bool = False

    noun = "a number"
    beyond = math.inf

    def _is_kind(self, value: Any) -> bool:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)

    def describe(self) -> str:
        """The rule in words."""
        words = self.noun
        if self.low > -math.inf:
            words += f" {'>=' if self.closed in ('both', 'left') else '>'} {self.low:g}"
        if self.high < math.inf:
            joint = " and" if self.low > -math.inf else ""
            words += f"{joint} {'<=' if self.closed in ('both', 'right') else '<'} {self.high:g}"
        return words + (" or None" if self.optional else "")

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise if ``value`` breaks the rule."""
        if value is None and self.optional:
            return
        if value is None or not self._is_kind(value):
            raise ArgumentTypeError(f"{where}: {name} must be {self.describe()}, got {value!r}")
        above = value >= self.low if self.closed in ("both", "left") else value > self.low
        below = value <= self.high if self.closed in ("both", "right") else value < self.high
        if not (above and below):
            raise ArgumentError(f"{where}: {name} must be {self.describe()}, got {value!r}")
        if not abs(value) < self.beyond:
            raise ArgumentError(f"{where}: {name} must be {self.describe()}, got {value!r}, which is too large")


@dataclass(frozen=True)
class Real(_Number):
    """A real number in an interval; ``closed`` is ``"both"``, ``"left"``, ``"right"`` or ``"neither"``."""


@dataclass(frozen=True)
class Integer(_Number):
    """An integer in an interval; bool is not an integer here."""

    noun = "an integer"
    beyond = 2.0**63  # torch and Python's own iterators count no further

    def _is_kind(self, value: Any) -> bool:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    choices: tuple[Any, ...]
    optional: bool = False

    def describe(self) -> str:
        """The rule in words."""
        return " or ".join(str(c) for c in self.choices) + (" or None" if self.optional else "")

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise if ``value`` is none of the choices."""
        if value is None and self.optional:
            return
        if value not in self.choices:
            words = ", ".join(repr(c) for c in self.choices) + (" or None" if self.optional else "")
            raise ArgumentError(f"{where}: {name} must be one of {words}, got {value!r}{nearest(value, self.choices)}")


@dataclass(frozen=True)
class Boolean:
    """``True`` or ``False``, not merely something truthy."""

    def describe(self) -> str:
        """The rule in words."""
        return "true or false"

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise if ``value`` is not a bool."""
        if not isinstance(value, bool):
            raise ArgumentTypeError(f"{where}: {name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class Text:
    """A word, such as the name of a file."""

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise if ``value`` is not a word."""
        if not isinstance(value, str) or not value.strip():
            raise ArgumentTypeError(f"{where}: {name} must be a word, got {value!r}")

    def describe(self) -> str:
        """The rule in words."""
        return "a word"


Rule = _Number | OneOf | Boolean | Text


def check(rules: Mapping[str, Rule], values: Mapping[str, Any], where: str) -> None:
    """Check every rule against ``values[name]``.

    Args:
        rules: Argument name to rule.
        values: Argument name to value, typically ``locals()``; names without a rule are ignored.
        where: Name of the class or function, the first word of the message.

    Raises:
        ArgumentError: A value is outside its rule (also a ``ValueError``).
        ArgumentTypeError: A value is of the wrong type (also a ``TypeError``).
    """
    for name, rule in rules.items():
        if name in values:
            rule.check(name, values[name], where)
