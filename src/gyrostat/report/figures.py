"""Pictures of the report: matplotlib (Agg), written as inline SVG that follows the page's light or dark mode.

Never uses ``pyplot`` (no global state), so figures can be made from threads and inside a user's notebook.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito without the yellow, which no white page can carry: told apart with any colour vision
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666", "#8C510A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, GRID = "#1c2330", "#c9ced6"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "gyrostat",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the ``index``-th series, as keyword arguments for ``Axes.plot``."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def new_figure(
    n_rows: int = 1, n_cols: int = 1, *, width: float = 7.0, height: float = 3.2, **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes in reading order.

    Args:
        n_rows: Rows of axes.
        n_cols: Columns of axes.
        width: Width of the whole figure in inches.
        height: Height of the whole figure in inches.
        **subplots: Passed on to ``Figure.subplots``.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(n_rows, n_cols, squeeze=False, **subplots)
    return figure, list(axes.ravel())


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element without XML prologue, metadata or anything fetched from elsewhere."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # ink becomes the page's own text colour, so that the picture is readable on a dark page too
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(re.escape(GRID), "var(--grid, #c9ced6)", text, flags=re.IGNORECASE)
    return _scope_ids(text)


_counter = 0


def _scope_ids(svg: str) -> str:
    """Make ids unique on a page that holds several pictures."""
    global _counter
    _counter += 1
    tag = f"f{_counter}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{tag}\1"', svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{tag}\2"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{tag}\1)", svg)


def save_png(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write the figure as a PNG on a white ground, for README and docs."""
    figure.savefig(path, format="png", dpi=dpi, facecolor="white")


def image_tag(pixels: Any, alt: str, *, scale: int = 1) -> str:
    """An array ``(H, W)`` or ``(H, W, 3)`` in [0, 1] as an inline ``<img>`` with crisp pixels."""
    import numpy as np
    from matplotlib.image import imsave

    array = np.clip(np.asarray(pixels, dtype=float), 0.0, 1.0)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    buffer = io.BytesIO()
    imsave(buffer, np.repeat(np.repeat(array, scale, axis=0), scale, axis=1), format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="pixels" alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def legend_below(figure: Figure, axes: Axes, labels: Sequence[str] | None = None) -> None:
    """One legend for all axes, under the figure, taken from ``axes``."""
    handles, found = axes.get_legend_handles_labels()
    figure.legend(handles, labels or found, loc="outside lower center", ncols=min(len(found), 5), frameon=False)
