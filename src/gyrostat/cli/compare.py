"""``gyrostat compare``: which recurrent model should I take for my sequences?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def compare(
    data: str,
    /,
    *,
    models: str = "lem,lipschitz,noisy,lstm",
    seeds: int = 3,
    out: Path = Path("compare"),
    epochs: int = 40,
    batch_size: int = 64,
    lr: float = 5e-3,
    hidden_size: int = 64,
    num_layers: int = 1,
    same: Literal["hidden-size", "parameters"] = "hidden-size",
    workers: int = 0,
    picture: Path | None = None,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Train several models on one data set and report accuracy, robustness and cost.

    Example: gyrostat compare my_series.npz --models lem,lipschitz,lstm --seeds 3 --out which
    Takes about half a minute per model and seed for 1,000 sequences of 16 steps on one core. Interrupt it and type the
    same line again: finished runs are kept, the others go on.

    Args:
        data: A .npz, .csv or .ts file, or a built-in set such as digits:layout=16x4.
        models: Names with commas between; gyrostat cells lists them, lstm, gru and rnn are torch's.
        seeds: Runs of each model.
        out: Folder for report.html, report.json and the runs.
        epochs: Passes over the training part.
        batch_size: Sequences per step.
        lr: Learning rate of Adam, divided by ten for the last tenth of the epochs.
        hidden_size: Units of each layer.
        num_layers: Stacked layers.
        same: hidden-size gives all models the same number of units, parameters the parameter count of the first.
        workers: Processes at a time; 0 takes one per core.
        picture: Also write the pictures to this PNG file.
        json: Print the result as JSON instead of a table.
        quiet: No progress.
        force: Replace a finished result in the folder.
    """
    import json as json_module
    import os

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from .._checks import Integer, check
    from ..data.catalogue import open_data
    from ..report.page import write_atomically
    from ..train.compare import make_jobs, recommend, run_jobs, summarise, work
    from ..train.compare_page import build_page, format_score, save_picture
    from ..train.config import TrainConfig
    from ..train.task import LABELS
    from ._shared import facts, out_folder, print_json, result_console, stderr

    rules = {"seeds": Integer(1, 100), "hidden_size": Integer(1), "num_layers": Integer(1), "workers": Integer(0)}
    check(rules, locals(), "compare")
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "decay_after": max(0, round(0.9 * epochs) - 1)}
    TrainConfig(**settings)
    opened = open_data(data)
    names = [m.strip() for m in models.split(",") if m.strip()]
    sizes = {"hidden_size": hidden_size, "num_layers": num_layers, "same": same}
    make_jobs(data, opened, names, seeds, out, train=settings, **sizes)
    folder = out_folder(out, force, "report.json", data)
    jobs = make_jobs(data, opened, names, seeds, folder, train=settings, **sizes)
    config = {"command": "compare", "data": data, "models": names, "seeds": seeds, **settings, **sizes}
    write_atomically(folder / "config.json", json_module.dumps(config, indent=1).encode())
    same_words = (
        f"hidden size {hidden_size}" if same == "hidden-size" else f"parameters as {names[0]} of size {hidden_size}"
    )
    count = workers or min(os.cpu_count() or 1, len(jobs))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} runs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, disable=quiet) as progress:
        task = progress.add_task(opened.name, total=len(jobs))
        results = run_jobs(jobs, count, lambda job, _: progress.update(task, advance=1, description=job.label), work)
    rows = summarise(results)
    verdict = recommend(rows, opened.task)
    report = {"data": opened.describe(), "verdict": list(verdict), "models": rows, "settings": config, "facts": facts()}
    page = build_page(
        "Which recurrent model?", opened.describe(), verdict, rows, results, opened.task,
        {**report["facts"], "licence of the data": opened.licence, "provenance": opened.provenance, "same": same_words},
    )  # fmt: skip
    page.write(folder / "report.html")
    write_atomically(folder / "report.json", json_module.dumps({**report, "runs": results}, indent=1).encode())
    if picture is not None:
        save_picture(picture, rows, results, opened.task)
    if json:
        print_json(report)
        return 0
    score = "accuracy" if opened.task in LABELS else "RMSE"
    table = Table(box=None, header_style="bold")
    heads = ("model", f"test {score}", "± seeds", "white σ=0.2", "s&p 5 %", "params", "hidden", "s/epoch")
    for i, column in enumerate(heads):
        table.add_column(column, justify="left" if i == 0 else "right")
    for r in rows:
        number = format_score(opened.task)
        table.add_row(
            r["model"], number(r["score"]), number(r["spread"]), number(r["white"]["0.2"]), number(r["salt_pepper"]["0.05"]),
            str(r["parameters"]), str(r["hidden_size"]), f"{r['seconds_per_epoch']:.2f}",
        )  # fmt: skip
    console = result_console()
    console.print(f"{opened.describe()}\nsame {same_words} for all models", soft_wrap=True)
    console.print(table)
    console.print(f"\n{verdict[0]} {verdict[1]}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return 0
