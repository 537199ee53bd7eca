"""The one warning class of the sketches: the answer stands, but read it with care."""

from __future__ import annotations

import warnings


class SketchWarning(UserWarning):
    """An error bound rests on an assumption that this matrix strains; the message says which and what to do."""


def warn(message: str) -> None:
    """Emit a :class:`SketchWarning` at the caller of the public function."""
    warnings.warn(message, SketchWarning, stacklevel=4)
