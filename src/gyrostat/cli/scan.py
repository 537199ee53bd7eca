"""``gyrostat scan``: audit a model file by its response to noise, without executing it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

USAGE_EXIT = 4
Flag = Annotated[bool, Parameter(negative="")]


def scan(
    model: Path,
    *,
    reference: Path | None = None,
    input_shape: str | None = None,
    base: Path | None = None,
    clip: str | None = None,
    architecture: str | None = None,
    format: Literal["text", "json", "html", "sarif", "md"] | None = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    n: int | None = None,
    seed: int | None = None,
    step: int | None = None,
    paper: Flag = False,
    strict: Flag = False,
    fail_on_score: float | None = None,
    trust: Flag = False,
    timeout: float = 120.0,
    memory: float = 8.0,
    quiet: Flag = False,
    force: Flag = False,
) -> int:
    """Audit a model file by its response to noise; nothing that the file brings along is executed.

    Example: gyrostat scan model.onnx --reference clean.json --format html --out audit.html

    Expected time: seconds.

    Exit code: 0 no finding or uncalibrated, 1 suspicious, 2 the model could not be asked, 3 the file is refused, 4 usage.

    Parameters
    ----------
    model
        ONNX; or safetensors or a torch checkpoint of weights, with --architecture.
    reference
        Clean references made by gyrostat calibrate; their settings are used.
    input_shape
        Shape of one input, as 3,224,224, where the file does not say it.
    base
        Folder of images to start from, instead of images drawn from the seed.
    clip
        Valid range of an input, by default 0,1; a model that takes other values needs its own, as --clip=-1,1.
    architecture
        MODULE:NAME of your function that builds the model that weights belong to.
    format
        What to write: text, json, html, sarif or md; by default what the ending of --out says, else text.
    out
        Where to write it; by default stdout (html needs a file).
    n
        Number of base inputs.
    seed
        Of base and noise.
    step
        For a model that answers at every step: the step that counts, as --step=-1 for the last.
    paper
        The settings of the paper's authors.
    strict
        Inconclusive is a finding too.
    fail_on_score
        Exit 1 when the area under the curve is above this.
    trust
        Load formats that execute code (pickle, TorchScript, .pt2), in a process with limits. Not a sandbox.
    timeout
        Seconds to wait for one answer of the model.
    memory
        GiB of address space for the model's process.
    quiet
        No progress.
    force
        Overwrite what --out names.
    """
    from ..audit.scan import scan as audit
    from ._audit import (
        build_architecture,
        by_ending,
        child_limits,
        parse_range,
        parse_shape,
        progress_bar,
        render,
    )
    from ._shared import out_file, stderr

    if out is not None:
        out_file(out, force, model, reference)
    options = {"n": n, "seed": seed, "step": step, "paper": paper or None, "clip": parse_range(clip)}
    with progress_bar(quiet, "asking the model") as on_batch:
        report = audit(
            model, reference=reference, input_shape=parse_shape(input_shape), base_images=base,
            architecture=build_architecture(architecture), trust=trust,
            limits=child_limits(memory, timeout), on_batch=on_batch,
            **{k: v for k, v in options.items() if v is not None},
        )  # fmt: skip
    text = render(report, format or by_ending(out), model, out)
    if text:
        sys.stdout.write(text)
    for warning in report.warnings:
        stderr.print(f"gyrostat: note: {warning}", markup=False, soft_wrap=True)
    return report.exit_code(strict=strict, fail_on_score=fail_on_score)
