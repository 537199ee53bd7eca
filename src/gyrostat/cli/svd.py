"""``gyrostat svd``: leading singular triplets of a matrix file, with error bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    right_only: Flag = False,
    out: Path | None = None,
    report: Path | None = None,
    seed: int = 0,
    json: Flag = False,
    quiet: Flag = False,
    force: Flag = False,
) -> int:
    """Leading singular triplets of a matrix, with 95 % error bars; the matrix may be larger than memory.

    Example: gyrostat svd matrix.npy --rank 20 --tol 0.05 --out factors.npz --report svd.html

    Expected time: two to six reads of the file, more the smaller the tolerance. Ctrl-C stops after the current block; the same
    line goes on from there.

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
    right_only
        Leave out U, which has as many rows as the matrix, and the read it takes.
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

    from .._errors import ArgumentError
    from ..report.page import write_atomically
    from ..sketch.svd import svd as decompose
    from ..sketch.warning import SketchWarning
    from ._matrix import open_matrix
    from ._shared import out_file

    for name, path in (("--out", out), ("--report", report)):
        if path is not None:
            out_file(path, force, file, option=name)
    if out is not None and report is not None and out.resolve() == report.resolve():
        raise ArgumentError(f"--report {report}: is what --out names; give it a name of its own")
    rows = open_matrix(file, dataset)
    place = _place(file, out or report, dataset, rank, tol, target, method, max_size, seed)
    with warnings.catch_warnings(record=True) as caught, _watched(place, quiet, rows.n) as watch:
        warnings.simplefilter("always", SketchWarning)
        result = decompose(
            rows,
            rank,
            tol,
            target=target,
            sketch_method=method,
            max_size=max_size,
            left=not right_only,
            seed=seed,
            progress=watch,
        )
    notes = [str(w.message) for w in caught if issubclass(w.category, SketchWarning)]
    if out is not None:
        write_atomically(out, _factors(result))
    if report is not None:
        command = f"gyrostat svd {file.name} --rank {rank} --tol {tol:g} --target {target} --seed {seed}"
        _page(result, command, tol, target, notes).write(report)
    _say(result, notes, json)
    return 0


def _place(file: Path, beside: Path | None, *settings: object) -> Path | None:
    """Where the state of an interrupted run is kept: beside its output, or in the user's cache; None if nowhere."""
    import hashlib
    import os

    found = file.stat()
    text = repr((str(file.resolve()), found.st_size, found.st_mtime_ns, settings))
    key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    if beside is not None:
        return beside.parent / f".{beside.name}.{key}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gyrostat" / f"svd-{key}" if _writable(cache / "gyrostat") else None


def _writable(folder: Path) -> bool:
    import os

    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


@contextmanager
def _watched(place: Path | None, quiet: bool, total: int | None) -> Iterator[Any]:
    """Progress on stderr, and states of the passes in ``place`` so that Ctrl-C loses at most the current block."""
    import signal
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .._errors import GyrostatError
    from ..sketch.passes import Watch

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())
    task = bar.add_task("", total=total)
    watch = Watch(lambda rows: bar.update(task, completed=rows, description=_pass_in_words(watch.name)), place)

    def stop(*_: object) -> None:
        if watch.stop:
            raise KeyboardInterrupt
        watch.stop = True
        print("gyrostat: stopping after this block; press Ctrl-C again to stop at once", file=sys.stderr)

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if ours else None
    try:
        with bar:
            yield watch
    except GyrostatError:
        # bad input leaves nothing behind
        watch.forget()
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _pass_in_words(name: str) -> str:
    kind, _, rest = name.partition("-")
    words = {"left": "left vectors", "gram": "exact Gram matrix", "count": "counting rows", "energy": "sum of squares"}
    words |= dict.fromkeys(("normal", "range", "ritz"), "refining")
    return words.get(kind, f"{kind} sketch of {rest.partition('-')[0]} rows")


def _factors(result: Any) -> bytes:
    import io

    import numpy as np

    bounds = {f"bound_{m}": q for m, q in result.bounds.per_component.items()}
    buffer = io.BytesIO()
    left = {} if result.U is None else {"U": result.U}
    np.savez(buffer, allow_pickle=False, **left, s=result.s, Vt=result.Vt, **bounds)
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
    sure = (
        "It comes from residuals, and holds more surely than with 95 %."
        if result.passes
        else "It holds with about 95 %."
    )
    page.verdict(
        f"Bound on the error ({target}): {kept:.3g}, tolerance {tol:g}.",
        "These factors are exact to rounding." if result.exact else sure,
        kind="good" if kept <= tol else "bad",
    )
    for note in notes:
        page.text(note[0].upper() + note[1:].rstrip(".") + ".")
    figure, axes = new_figure()
    result.plot(axes[0])
    page.figure(figure, "Singular values with 95 % error bars.")
    if result.passes:
        figure, axes = new_figure()
        _steps(result, tol, axes[0])
        page.figure(
            figure, f"Bound on the error ({target}) of each sketch and after each pass over A; dashed: the tolerance."
        )
    elif not result.exact:
        figure, axes = new_figure()
        result.bounds.plot(axes[0])
        axes[0].axhline(tol, color="#666666", linestyle="--", linewidth=1)
        if target in ("left", "right"):
            axes[0].plot(*zip(*result.history), "x", color="#666666", label="stages of this run")
            axes[0].legend()
        page.figure(
            figure, "Expected error against sketch size (95 % bound over all components); dashed: the tolerance."
        )
    page.table(COLUMNS, _table(result), text_columns=(5,))
    page.facts({"command": command, "stages (sketch size, bound)": list(result.history)})
    return page


def _steps(result: Any, tol: float, ax: Any) -> None:
    """The bound of every stage, sketches first."""
    from ..report.figures import style

    sizes, bounds = zip(*result.history)
    count = len(sizes) - result.passes
    names = [f"{size:,} rows" for size in sizes[:count]] + [f"pass {i + 1}" for i in range(result.passes)]
    ax.plot(range(len(names)), bounds, **style(0))
    ax.axhline(tol, color="#666666", linestyle="--", linewidth=1)
    ax.set(yscale="log", ylabel="bound")
    ax.set_xticks(range(len(names)), names)
