"""Results are frozen dataclasses that know how to become JSON.

``Result.to_dict()`` gives plain Python values (tensors and arrays become lists, NaN and Inf become ``None``), so that
every result can be written to a report without a second thought.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any


def to_plain(value: Any) -> Any:
    """Turn a value into what ``json.dumps(..., allow_nan=False)`` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(v) for v in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, complex):
        return {"re": to_plain(value.real), "im": to_plain(value.imag)}
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if isinstance(value, Path):
        return str(value)
    array: Any = value
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return to_plain(array.tolist()) if hasattr(array, "tolist") else str(value)


class Result:
    """Mixin for frozen result dataclasses: ``to_dict()``. Fields with ``repr=False`` stay out of the dictionary."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for ``json.dumps``."""
        return to_plain(self)
