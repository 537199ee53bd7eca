"""``gyrostat svd``: leading singular triplets of a matrix file, with error bars."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative="")]
Method = Literal["auto", "gaussian", "uniform", "length", "leverage", "countsketch", "srht", "sparse_sign"]


def svd(
    file: Path,
    *,
    rank: int = 20,
    tol: float = 0.05,
    target: Literal["right", "left", "values", "subspace"] = "right",
    method: Method = "auto",
    max_size: int | None = None,
    dataset: str | None = None,
    out: Path | None = None,
    report: Path | None = None,
    seed: int = 0,
    json: Flag = False,
    quiet: Flag = False,
    force: Flag = False,
) -> int:
    """Leading singular triplets of a matrix, with 95 % error bars; the matrix may be larger than memory.

    Example: gyrostat svd matrix.npy --rank 20 --tol 0.05 --out factors.npz --report svd.html

    Expected time: a few reads of the file.

    Parameters
    ----------
    file
        The matrix: .npy (memory-mapped), sparse .npz, .zarr, .h5, .csv or .parquet.
    rank
        Number of triplets.
    tol
        Largest error: sine of the angle; relative to the first value for --target values.
    target
        What the tolerance is about.
    method
        Sketch; auto is countsketch.
    max_size
        Largest sketch allowed.
    dataset
        Name of the array inside an HDF5 file or zarr group.
    out
        Write U, s, Vt and the bounds to this .npz file.
    report
        Write a page with pictures to this .html file.
    seed
        Seed of the sketch.
    json
        Print JSON.
    quiet
        No progress.
    force
        Overwrite what --out and --report name.
    """
    import warnings

    from ..report.page import write_atomically
    from ..sketch.svd import svd as decompose
    from ..sketch.warning import SketchWarning
    from ._matrix import open_matrix

    for name, path in (("--out", out), ("--report", report)):
        _check_target(name, path, force)
    rows = open_matrix(file, dataset)
    with warnings.catch_warnings(record=True) as caught, _Progress(quiet, rows.n) as progress:
        warnings.simplefilter("always", SketchWarning)
        result = decompose(
            rows, rank, tol, target=target, sketch_method=method, max_size=max_size, seed=seed, progress=progress
        )
    notes = [str(w.message) for w in caught if issubclass(w.category, SketchWarning)]
    if out is not None:
        write_atomically(out, _factors(result))
    if report is not None:
        command = f"gyrostat svd {file.name} --rank {rank} --tol {tol:g} --target {target} --seed {seed}"
        _page(result, command, tol, target, notes).write(report)
    _say(result, notes, json)
    return 0


def _check_target(name: str, path: Path | None, force: bool) -> None:
    import os

    from .._errors import ArgumentError

    if path is None:
        return
    if path.exists() and not force:
        raise ArgumentError(f"{name}: {path} exists; add --force to overwrite it")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ArgumentError(f"{name}: {path} cannot be written; give a file in a folder that exists and is writable")


class _Progress:
    """Rows read so far on stderr."""

    def __init__(self, quiet: bool, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())
        self._task = self._bar.add_task("rows read", total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda rows: self._bar.update(self._task, completed=rows)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _factors(result: Any) -> bytes:
    import io

    import numpy as np

    bounds = {f"bound_{m}": q for m, q in result.bounds.per_component.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, U=result.U, s=result.s, Vt=result.Vt, **bounds)
    return buffer.getvalue()


def _table(result: Any) -> list[list[Any]]:
    q = result.bounds.per_component
    return [
        [j + 1, float(s), *(float(q[m][j]) for m in ("values", "left", "right")), result.bounds.resolved[j]]
        for j, s in enumerate(result.s)
    ]


COLUMNS = ["j", "singular value", "± (95 %)", "left, sine", "right, sine", "told apart"]


def _say(result: Any, notes: list[str], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps({**result.to_dict(), "warnings": notes}, allow_nan=False))
        return
    print(result.note)
    print(f"{'j':>3}  {'value':>12}  {'± (95 %)':>10}  {'left':>8}  {'right':>8}")
    for j, s, value, left, right, word in _table(result):
        print(f"{j:>3}  {s:>12.6g}  {value:>10.2g}  {left:>8.2g}  {right:>8.2g}  {'' if word == 'resolved' else word}")
    for note in notes:
        print(f"gyrostat: note: {note}", file=sys.stderr)


def _page(result: Any, command: str, tol: float, target: str, notes: list[str]) -> Any:
    from ..report.figures import new_figure
    from ..report.page import Page

    page = Page("Singular values with their error bars", result.note)
    kept = result.history[-1][1] if result.history and not result.exact else 0.0
    page.verdict(
        f"Bound on the error ({target}): {kept:.3g}, tolerance {tol:g}.",
        "These factors are exact to rounding." if result.exact else "It holds with probability about 95 %.",
        kind="good" if kept <= tol else "bad",
    )
    for note in notes:
        page.text(note[0].upper() + note[1:] + ".")
    figure, axes = new_figure()
    result.plot(axes[0])
    page.figure(figure, "Singular values with 95 % error bars.")
    if not result.exact:
        figure, axes = new_figure()
        result.bounds.plot(axes[0])
        axes[0].axhline(tol, color="#666666", linestyle="--", linewidth=1)
        page.figure(
            figure, "Expected error against sketch size (95 % bound over all components); dashed: the tolerance."
        )
    page.table(COLUMNS, _table(result), text_columns=(5,))
    page.facts({"command": command, "stages (sketch size, bound)": list(result.history)})
    return page
