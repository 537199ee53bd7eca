"""``gyrostat cells``: the recurrent cells and their equations."""

from __future__ import annotations


def cells(action: str | None = None, name: str | None = None, /) -> int:
    """List the recurrent cells, or print the equation of one.

    Example: gyrostat cells show lem
    Takes a second.

    Args:
        action: Leave it out to list; show prints one cell.
        name: The cell to show.
    """
    import sys

    from .._errors import ArgumentError
    from ..recurrent.cell import cell_names, get_cell

    if action is None:
        for known in cell_names():
            text = (sys.modules[get_cell(known).__module__].__doc__ or "").strip().splitlines()[0]
            print(f"{known:15} {text}")
        return 0
    if action == "show" and name is None:
        raise ArgumentError(f"gyrostat cells show needs the name of a cell; there are {', '.join(cell_names())}")
    if action != "show" or name is None:
        raise ArgumentError(f"gyrostat cells takes nothing or: show NAME; got {action!r}")
    print((sys.modules[get_cell(name).__module__].__doc__ or "").strip())
    return 0
