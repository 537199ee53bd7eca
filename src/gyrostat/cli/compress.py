"""``gyrostat compress``: fewer weights and fewer steps for a trained network, without retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def compress(
    run: Path,
    /,
    *,
    tol: float | None = None,
    basis: str | None = None,
    solver: str | None = None,
    data: str | None = None,
    out: Path = Path("compressed"),
    limit: int = 2000,
    seed: int = 0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Compress the depth of a trained network; nothing is retrained.

    Example: gyrostat compress run --tol 0.05 --out small
    Example: gyrostat compress run --basis hat:4 --solver euler:4 --out small
    Takes seconds to minutes: the test part is evaluated for each size on the picture. Writes model.safetensors,
    report.html and report.json.

    Args:
        run: Run directory of gyrostat train-depth, or one of its model files.
        tol: Largest relative error over depth of any parameter; the smallest basis of each block's family is taken.
        basis: Or the basis itself, such as hat:4 or piecewise_constant:2.
        solver: Scheme and steps of the new network, such as euler:4; as trained when left out.
        data: Data to measure accuracy on; that of the run when left out.
        out: Folder for the compressed network and its page.
        limit: Measure accuracy on the first so many test examples.
        seed: Seed of the data's split.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace a finished result.
    """
    import json as json_format
    import warnings

    from .._checks import Integer
    from .._errors import ArgumentError
    from ..depth.change import blocks, project, relative_errors, set_solver
    from ..depth.compress import compress as compress_model
    from ..depth.stages import GridAlignmentWarning
    from ..numerics.families import parse_basis
    from ..report.page import write_atomically
    from ..train.levels import load_levels
    from ..train.state import save_state
    from ._depth import latencies, measure, solver_and_steps
    from ._depth import test_part as examples
    from ._shared import out_folder, print_json, stderr

    if (tol is None) == (basis is None):
        raise ArgumentError("compress: give --tol (largest relative error) or --basis (such as hat:4), one of the two")
    Integer(low=1).check("limit", limit, "compress")
    model, facts = load_levels(run)
    scheme, steps = solver_and_steps(solver)
    target = None if basis is None else parse_basis(basis)
    x, y = examples(data or facts.get("source", ""), facts, limit, seed)
    folder = out_folder(out, force, "report.json", run, data)
    trained = blocks(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GridAlignmentWarning)
        small = compress_model(model, tol)[0] if target is None else project(model, target)
        if scheme or steps:
            caught.clear()
            set_solver(small, scheme, steps)
    for sentence in dict.fromkeys(str(w.message) for w in caught):
        stderr.print(f"warning: {sentence}", markup=False)
    before, after = measure(model, x, y), measure(small, x, y)
    before["milliseconds"], after["milliseconds"] = latencies([model, small], x)
    family = target or next(iter(trained.values())).basis
    curve: list[dict[str, Any]] = []
    for k in _thinned([k for k in range(1, max(b.basis.K for b in trained.values()) + 1) if family.fits(k)], 8):
        if not quiet:
            stderr.print(f"K = {k}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GridAlignmentWarning)
            tried = project(model, family.resized(k))
        curve.append({"K": k, "error": _worst(model, family.resized(k)), **measure(tried, x, y)})
    changed = {name: block.basis for name, block in blocks(small).items()}
    result = {
        "before": before,
        "after": after,
        "ratio": before["parameters"] / after["parameters"],
        "blocks": {
            name: {"before": b.basis.spec(), "after": changed[name].spec(), "error": relative_errors(b, changed[name])}
            for name, b in trained.items()
        },
        "solver": {name: f"{b.solver}:{b.n_steps}" for name, b in blocks(small).items()},
        "curve": curve,
        "test_examples": len(x),
    }
    save_state(folder / "model.safetensors", small.state_dict(), facts)
    _page(folder, result, family.spec())
    write_atomically(folder / "report.json", json_format.dumps(result, indent=1).encode())
    if json:
        print_json(result)
    else:
        print(
            f"{before['parameters']} -> {after['parameters']} parameters ({result['ratio']:.2f}x smaller), accuracy "
            f"{before['accuracy']:.4f} -> {after['accuracy']:.4f}, {before['milliseconds']:.1f} -> "
            f"{after['milliseconds']:.1f} ms per batch; {folder / 'report.html'}"
        )
        if result["ratio"] == 1 and tol is not None:
            least = min((c["error"] for c in curve[:-1]), default=None)
            print(f"no smaller basis is within --tol {tol:g}" + (f"; the least error is {least:.3g}" if least else ""))
    return 0


def _thinned(sizes: list[int], most: int) -> list[int]:
    if len(sizes) <= most:
        return sizes
    return sorted({sizes[round(i * (len(sizes) - 1) / (most - 1))] for i in range(most)})


def _worst(model: Any, target: Any) -> float:
    from ..depth.change import blocks, relative_errors

    return max(max(relative_errors(b, target).values(), default=0.0) for b in blocks(model).values())


def _page(folder: Path, result: dict[str, Any], family: str) -> None:
    from ..report.figures import new_figure, style
    from ..report.page import Page
    from ._shared import facts

    before, after, curve = result["before"], result["after"], result["curve"]
    page = Page("Compressed in depth", f"no retraining, {result['test_examples']} test examples")
    lost = before["accuracy"] - after["accuracy"]
    page.verdict(
        f"{result['ratio']:.2f} times smaller, {before['evaluations']} -> {after['evaluations']} unit calls.",
        f"Accuracy {before['accuracy']:.4f} before, {after['accuracy']:.4f} after; "
        f"{before['milliseconds']:.1f} ms a batch of 32 before, {after['milliseconds']:.1f} after.",
        kind="good" if lost <= 0.01 else "bad" if lost > 0.05 else "",
    )
    page.table(
        ["", "parameters", "unit calls", "accuracy", "ms per batch"],
        [[name, r["parameters"], r["evaluations"], r["accuracy"], r["milliseconds"]]
         for name, r in (("before", before), ("after", after))],
    )  # fmt: skip
    page.heading("Error against size")
    figure, (left, right) = new_figure(1, 2, width=8.0)
    sizes = [c["K"] for c in curve]
    left.plot(sizes, [c["accuracy"] for c in curve], **style(0))
    left.axhline(before["accuracy"], linestyle=":", color="0.5")
    low, high = left.get_ylim()
    # a thousandth must not look like a cliff
    left.set_ylim(min(low, (low + high) / 2 - 0.025), min(max(high, (low + high) / 2 + 0.025), 1.001))
    left.set(xlabel="basis functions K", ylabel="accuracy", title="Accuracy (dotted: as trained)")
    right.plot(sizes, [c["error"] for c in curve], **style(1))
    right.set(xlabel="basis functions K", ylabel="relative L2 error", title="Worst parameter")
    for ax in (left, right):
        ax.set_xticks(sizes)
    page.figure(figure, f"The family {family.partition(':')[0]} with fewer functions, steps as trained, no retraining.")
    page.heading("Blocks")
    page.table(
        ["block", "basis", "solver", "worst parameter", "error"],
        [_block_row(name, b, result["solver"][name]) for name, b in result["blocks"].items()],
        text_columns=(0, 1, 2, 3),
    )
    page.facts(facts())
    page.write(folder / "report.html")


def _block_row(name: str, block: dict[str, Any], solver: str) -> list[Any]:
    worst = max(block["error"], key=block["error"].__getitem__)
    return [name or "model", f"{block['before']} -> {block['after']}", solver, worst, block["error"][worst]]
