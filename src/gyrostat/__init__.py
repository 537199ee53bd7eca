"""Deep learning as a dynamical system, as one PyTorch library.

Names resolve on first use (PEP 562): ``import gyrostat`` costs no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module below gyrostat, grouped by the folder that answers for it
_PUBLIC: dict[str, str] = {
    # errors
    "GyrostatError": "_errors",
    # recurrent
    "LEM": "recurrent.lem",
    "LEMCell": "recurrent.lem",
    "Recurrent": "recurrent.layer",
    "cell_names": "recurrent.cell",
    "get_cell": "recurrent.cell",
}

__all__ = [*sorted(_PUBLIC), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


if TYPE_CHECKING:
    from ._errors import GyrostatError as GyrostatError
    from .recurrent.cell import cell_names as cell_names
    from .recurrent.cell import get_cell as get_cell
    from .recurrent.layer import Recurrent as Recurrent
    from .recurrent.lem import LEM as LEM
    from .recurrent.lem import LEMCell as LEMCell
