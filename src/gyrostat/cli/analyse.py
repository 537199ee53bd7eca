"""``gyrostat analyse``: what does a trained recurrent model do?"""

from __future__ import annotations

from pathlib import Path


def analyse(
    run: Path,
    /,
    *,
    data: str | None = None,
    out: Path | None = None,
    sequences: int = 500,
    repeats: int = 5,
    seed: int = 0,
    json: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> int:
    """Stability, exponents, curvature and robustness of a trained model, on one page.

    Example: gyrostat analyse run --out analysis.html
    Takes 10 to 60 seconds for 500 sequences of 16 steps on one core.

    Args:
        run: Run directory of gyrostat train.
        data: The data of the run, where config.json does not name it in full (a file that moved, or options).
        out: The HTML page; RUN/analysis.html when left out. The numbers go
            beside it, as .numbers.json.
        sequences: Most sequences used for the Hessian and the robustness curves.
        repeats: Draws of each noise level.
        seed: Seed of every random vector and noise.
        json: Print the result as JSON.
        quiet: No progress.
        force: Replace an existing page.
    """
    import json as json_module

    from .._checks import Integer, check
    from ..report.page import write_atomically
    from ._analysis import measure, open_run, summary
    from ._analysis_page import build
    from ._shared import facts, page_file, print_json, stderr

    check({"sequences": Integer(low=2), "repeats": Integer(low=1)}, locals(), "analyse")
    page_path = page_file(out if out is not None else run / "analysis.html", force)
    opened = open_run(run, data)
    with stderr.status("reading the run") if not quiet else _nothing() as status:

        def tell(words: str) -> None:
            if status is not None:
                status.update(words)

        found = measure(opened, sequences=sequences, repeats=repeats, seed=seed, tell=tell)
        page = build(opened, found, facts())
    result = {"data": opened["data"].name, "model": opened["config"]["model"], **summary(found), "facts": facts()}
    write_atomically(
        page_path.with_suffix(".numbers.json"), json_module.dumps(result, indent=1, allow_nan=False).encode()
    )
    page.write(page_path)
    if json:
        print_json(result)
        return 0
    for layer, c in found.get("certificates", {}).items():
        print(f"layer {layer}: {c.reason}")
    if "exponents" in found:
        print(f"largest Lyapunov exponent (estimate): {float(found['exponents'].exponents[0]):+.4f}")
    H = found["hessian"]
    print(f"largest Hessian eigenvalue: {float(H.largest[0]):.4g}, trace (estimate): {H.trace.value:.4g}; {H.message}")
    for curve in found.get("curves", []):
        print(f"accuracy under {curve.perturbation} at {curve.levels[-1]:g}: {curve.accuracy[-1]:.3f}")
    print(f"page: {page_path}")
    return 0


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
