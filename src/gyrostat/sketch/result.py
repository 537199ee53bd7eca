"""A ≈ U diag(s) Vᵀ and what is known about its error: the result of every sketched SVD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._results import Result
from .bootstrap import ErrorBounds
from .sketches import Sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SketchedSVDResult(Result):
    """Leading singular triplets of a matrix.

    Attributes:
        U: Left vectors (n, rank); None where the source could be read only once.
        s: Singular values (rank,).
        Vt: Right vectors, conjugate transposed (rank, d).
        sketch: The sketch they come from; None for an exact result.
        transposed: The matrix was wide and its transpose was sketched.
        bounds: Error bounds, where they were asked for.
        history: (sketch size, simultaneous bound) of each stage: of each sketch, then after each pass of a refinement.
        note: How the result came about, in a sentence.
        passes: Passes of a refinement.
    """

    U: np.ndarray | None = field(repr=False)
    s: np.ndarray
    Vt: np.ndarray = field(repr=False)
    sketch: Sketch | None = field(default=None, repr=False)
    transposed: bool = False
    bounds: ErrorBounds | None = None
    history: tuple[tuple[int, float], ...] = ()
    note: str = ""
    passes: int = 0

    @property
    def exact(self) -> bool:
        """Whether no sketch was involved."""
        return self.sketch is None

    def plot(self, ax: Axes | None = None) -> Axes:
        """Singular values with their error bars."""
        from matplotlib.ticker import MaxNLocator

        from ..report.figures import new_figure, style

        ax = ax or new_figure()[1][0]
        at, look = np.arange(1, len(self.s) + 1), {**style(0), "markersize": 3}
        if self.bounds is not None and "values" in self.bounds.per_component:
            bar = self.bounds.per_component["values"]
            # bars of a few percent would hide behind a marker of the usual size
            ax.errorbar(at, self.s, yerr=bar, linestyle="none", capsize=7, elinewidth=1.5, capthick=1.5, **look)
        else:
            ax.plot(at, self.s, linestyle="none", **look)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(bottom=0)
        ax.set(xlabel="component", ylabel="singular value")
        return ax


def turned(
    U: np.ndarray | None,
    s: np.ndarray,
    V: np.ndarray,
    flip: bool,
    found: Sketch | None = None,
    bounds: ErrorBounds | None = None,
    history: tuple[tuple[int, float], ...] = (),
    note: str = "",
) -> SketchedSVDResult:
    """The factors of A from those of the matrix that was read: Aᵀ = U s Vᴴ gives A = conj(V) s Uᵀ."""
    if flip:
        # only a result of an inner stage has no tall-side vectors here
        Vt = np.zeros((len(s), 0)) if U is None else U.T
        return SketchedSVDResult(V.conj(), s, Vt, found, True, bounds, history, note)
    return SketchedSVDResult(U, s, V.conj().T, found, False, bounds, history, note)
