"""The page of a comparison: the answer, the table, and the pictures behind it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..report.figures import legend_below, new_figure, save_png, style
from ..report.page import Page
from .task import LABELS

LAW_NAMES = {"white": "white noise σ", "salt_pepper": "salt and pepper, share α"}


def format_score(task: str) -> Callable[[float | None], str]:
    """How scores and their spreads are written: four decimals of an accuracy, four digits of an error."""
    written = "{:.4f}".format if task in LABELS else "{:.4g}".format
    return lambda value: "–" if value is None else written(value)


def build_page(
    title: str, subtitle: str, verdict: tuple[str, str], rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]],
    task: str, facts: dict[str, Any],
) -> Page:  # fmt: skip
    """The whole page of ``gyrostat compare``."""
    page = Page(title, subtitle)
    page.verdict(*verdict, kind="good")
    score = "test accuracy" if task in LABELS else "test error (RMSE)"
    columns = ["model", score, "± over seeds", "white σ=0.2", "salt & pepper 5 %", "parameters", "hidden", "s / epoch"]
    chosen = next((i for i, r in enumerate(rows) if f" {r['model']}." in verdict[0]), None)
    number = format_score(task)
    table = [
        [r["model"], number(r["score"]), number(r["spread"]), number(r["white"]["0.2"]), number(r["salt_pepper"]["0.05"]),
         r["parameters"], r["hidden_size"], f"{r['seconds_per_epoch']:.2f}"] for r in rows
    ]  # fmt: skip
    page.table(columns, table, best_row=chosen)
    page.heading("Under noise")
    page.figure(noise_figure(rows, task), f"{score.capitalize()} as the test inputs are perturbed; five draws each.")
    page.heading("Learning")
    page.figure(
        learning_figure(rows, results, task),
        "Validation score after each epoch, mean over seeds; the band spans the seeds.",
    )
    spectrum = spectrum_figure(results)
    if spectrum is not None:
        page.heading("Where the eigenvalues are")
        page.figure(
            spectrum,
            "Eigenvalues of the linear part A and of W after training (first seed). Left of the line, A alone decays; "
            "right of it, it grows.",
        )
    page.heading("Cost")
    page.text(
        "Seconds per epoch were measured on this machine with one thread per run, while other runs of the comparison "
        "were under way; read them as ratios between models."
    )
    page.facts(facts)
    return page


def noise_figure(rows: Sequence[dict[str, Any]], task: str) -> Any:
    """Score against the level of both perturbations, the clean score at 0."""
    figure, axes = new_figure(1, 2, width=8.2, height=3.4, sharey=True)
    for axis, (law, label) in zip(axes, LAW_NAMES.items()):
        for i, row in enumerate(rows):
            levels = [0.0, *(float(k) for k in row[law])]
            axis.plot(levels, [row["score"], *row[law].values()], label=row["model"], markersize=4.5, **style(i))
        axis.set_xlabel(label)
    axes[0].set_ylabel("accuracy" if task in LABELS else "RMSE")
    legend_below(figure, axes[0])
    return figure


def learning_figure(rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], task: str) -> Any:
    """Validation score against epochs."""
    figure, (axis,) = new_figure(width=8.2, height=3.4)
    for i, row in enumerate(rows):
        runs = [[h["valid_score"] for h in r["history"]] for r in results if r["model"]["model"] == row["model"]]
        steps = min(map(len, runs))
        epochs = range(1, steps + 1)
        values = [[run[e] for run in runs] for e in range(steps)]
        colour = style(i)["color"]
        axis.plot(epochs, [statistics.mean(v) for v in values], color=colour, label=row["model"])
        if len(runs) > 1:
            axis.fill_between(
                epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0
            )
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation accuracy" if task in LABELS else "validation RMSE")
    legend_below(figure, axis)
    return figure


def spectrum_figure(results: Sequence[dict[str, Any]]) -> Any:
    """Eigenvalues in the complex plane, for the models that have matrices A and W."""
    first = {r["model"]["model"]: r for r in reversed(results) if r.get("eigenvalues")}
    if not first:
        return None
    figure, axes = new_figure(1, len(first), width=min(8.2, 3.6 * len(first) + 0.6), height=3.3)
    for axis, name in zip(axes, dict.fromkeys(r["model"]["model"] for r in results if r.get("eigenvalues"))):
        for i, (symbol, values) in enumerate(first[name]["eigenvalues"].items()):
            axis.plot(
                [v[0] for v in values],
                [v[1] for v in values],
                ls="",
                markersize=3.5,
                label=symbol,
                alpha=0.8,
                **style(i),
            )
        axis.axvline(0, color="#888888", lw=0.9)
        axis.set_title(name)
        axis.set_xlabel("real part")
        axis.legend(loc="best")
    axes[0].set_ylabel("imaginary part")
    return figure


def save_picture(path: Path, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], task: str) -> None:
    """The three pictures of the page as one PNG, for a README."""
    figure, axes = new_figure(1, 3, width=11.5, height=3.6)
    for axis, (law, label) in zip(axes, LAW_NAMES.items()):
        for i, row in enumerate(rows):
            levels = [0.0, *(float(k) for k in row[law])]
            axis.plot(levels, [row["score"], *row[law].values()], label=row["model"], markersize=4.5, **style(i))
        axis.set_xlabel(label)
        axis.set_ylabel("test accuracy" if task in LABELS else "RMSE")
    shown = [r for r in results if "A" in r.get("eigenvalues", {})]
    for i, name in enumerate(dict.fromkeys(r["model"]["model"] for r in shown)):
        values = next(r for r in shown if r["model"]["model"] == name)["eigenvalues"]["A"]
        index = [r["model"] for r in rows].index(name)
        axes[2].plot(
            [v[0] for v in values], [v[1] for v in values], ls="", markersize=3.5 - i * 0.3, label=name, **style(index)
        )
    axes[2].axvline(0, color="#888888", lw=0.9)
    axes[2].set_title("eigenvalues of A after training")
    axes[2].set_xlabel("real part")
    legend_below(figure, axes[0])
    save_png(figure, path)
