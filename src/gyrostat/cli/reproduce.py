"""``gyrostat reproduce``: a published experiment, our number beside the published one."""

from __future__ import annotations

from pathlib import Path


def reproduce(
    name: str | None = None,
    /,
    *,
    scale: str | None = None,
    out: Path | None = None,
    workers: int = 0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Run a published experiment and print the measured number beside the published one; without a name, list them.

    Example: gyrostat reproduce lem-fitzhugh-nagumo --scale smoke
    Takes what the list says for each scale. Interrupt it and type the same line again: what is finished is kept.

    Args:
        name: A recipe of the list.
        scale: smoke (minutes), small, or paper (the paper's own setting); small where there is one when left out.
        out: Folder for report.html, report.json and the runs; reproduced/NAME-SCALE when left out.
        workers: Runs at a time; 0 takes one per core.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished result.
    """
    import json as json_module
    import os

    from rich.table import Table

    from .._checks import Integer, check
    from ..experiments.recipe import get_recipe, recipes, report
    from ._shared import out_folder, print_json, result_console, stderr

    check({"workers": Integer(0)}, locals(), "reproduce")
    console = result_console()
    if name is None:
        known = recipes()
        if json:
            print_json({k: {"title": r.title, "source": r.source, "takes": dict(r.takes)} for k, r in known.items()})
            return 0
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in ("recipe", "what it shows", "known for", "scales: time on one core"):
            table.add_column(column)
        for key, recipe in known.items():
            found = recipe.headline()
            told = "" if found is None else f"{found[0]} {found[1].value:g} ({found[1].source})"
            scales = "; ".join(f"{k}: {v}" for k, v in recipe.takes.items())
            table.add_row(key, f"{recipe.title} (arXiv:{recipe.source})", told, scales)
        console.print(table)
        return 0
    recipe, scale = get_recipe(name, scale)
    recipe.check(scale)
    folder = out_folder(out or Path("reproduced") / f"{name}-{scale}", force, "report.json")
    from ..report.page import write_atomically

    write_atomically(folder / "config.json", json_module.dumps({"recipe": name, "scale": scale}).encode())
    if not quiet:
        stderr.print(f"{recipe.title}. Scale {scale}: about {recipe.takes[scale]} on one core.", soft_wrap=True)

    def say(word: str) -> None:
        if not quiet:
            stderr.print(word)

    findings = recipe.run(scale, folder, workers=workers or os.cpu_count() or 1, say=say)
    result = report(recipe, scale, findings)
    _page(result, folder)
    write_atomically(folder / "report.json", json_module.dumps(result, indent=1).encode())
    if json:
        print_json(result)
        return 0
    table = Table(box=None, header_style="bold")
    for i, column in enumerate(("", "quantity", "measured", "± seeds", "beside it", "which is")):
        table.add_column(column, justify="right" if i in (2, 3, 4) else "left")
    for row in _rows(result):
        table.add_row(*row)
    console.print(f"{recipe.title}, scale {scale}", soft_wrap=True)
    console.print(table)
    for line in _words(result):
        console.print(line, soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return 0


def _rows(result: dict) -> list[list[str]]:
    rows = []
    for f in result["findings"]:
        beside = f["reference"]
        rows.append(
            [
                f["what"], f["quantity"], f"{f['value']:.4g}", "–" if f["spread"] is None else f"{f['spread']:.2g}",
                "–" if beside is None else f"{beside['value']:.4g}", "" if beside is None else beside["source"],
            ]
        )  # fmt: skip
    return rows


def _words(result: dict) -> list[str]:
    changed = "; ".join(result["differences"])
    lines = [
        f"Measured here at scale {result['scale']}" + (f": {changed}." if changed else ", the setting of the table.")
    ]
    return [*lines, result["note"]] if result["note"] else lines


def _page(result: dict, folder: Path) -> None:
    from ..report.page import Page
    from ._shared import facts

    page = Page(result["title"], f"{result['source']}, scale {result['scale']}")
    page.table(["", "quantity", "measured", "± seeds", "beside it", "which is"], _rows(result), text_columns=(1, 5))
    for line in _words(result):
        page.text(line)
    page.facts(facts())
    page.write(folder / "report.html")
