"""``gyrostat calibrate``: titrate clean models of one make and keep what they do as a reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

USAGE_EXIT = 4
Flag = Annotated[bool, Parameter(negative="")]


def calibrate(
    *models: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    input_shape: str | None = None,
    base: Path | None = None,
    clip: str | None = None,
    method: Literal["white", "structured", "combined", "inside"] = "white",
    architecture: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    step: int | None = None,
    paper: Flag = False,
    quiet: Flag = False,
    force: Flag = False,
) -> int:
    """Titrate at least three clean models of one architecture and training recipe, and write a reference for scan.

    Example: gyrostat calibrate clean1.onnx clean2.onnx clean3.onnx --out clean.json

    Parameters
    ----------
    models
        Files of clean models, as for scan.
    out
        JSON file of the reference.
    input_shape
        Shape of one input, as 3,224,224, where the files do not say it.
    base
        Folder of images to start from, instead of images drawn from the seed.
    clip
        Valid range of an input, by default 0,1; a model that takes other values needs its own, as --clip=-1,1.
    method
        white noise; or structured, patches and waves over drawn textures, which finds local triggers of images better; or
        combined, both of them, which finds most; or inside, for weights with --architecture: combined, and noise in the
        features that the last layer reads.
    architecture
        MODULE:NAME of your function that builds the model that weights belong to.
    n
        Number of base inputs.
    seed
        Of base and noise.
    step
        For models that answer at every step: the step that counts, as --step=-1 for the last.
    paper
        The settings of the paper's authors.
    quiet
        No progress.
    force
        Overwrite what --out names.
    """
    import numpy as np

    from .._errors import ArgumentError, GyrostatError
    from ..audit.calibration import calibrate as learn
    from ..audit.load import load_model
    from ._audit import build_architecture, parse_range, parse_shape, progress_bar
    from ._shared import out_file

    out_file(out, force, *models)
    if len(models) < 3:
        raise ArgumentError(f"calibrate: at least 3 clean models are needed, got {len(models)}")
    shape, build = parse_shape(input_shape), build_architecture(architecture)
    options = {
        k: v
        for k, v in {"n": n, "seed": seed, "step": step, "paper": paper or None, "clip": parse_range(clip)}.items()
        if v is not None
    }
    with progress_bar(quiet, "asking the models") as on_batch:
        asking = ""
        opened = []
        try:
            for path in models:
                asking = path.name
                opened.append(load_model(path, architecture=build))
                shape = shape or opened[0].input_shape
                if opened[-1].input_shape not in (None, shape):
                    raise ArgumentError(f"takes inputs of shape {opened[-1].input_shape}, and the others {shape}")

            def one_by_one() -> Iterator[Any]:
                nonlocal asking
                for path, model in zip(models, opened, strict=True):
                    asking = path.name
                    yield model.predict
                asking = ""

            reference = learn(
                one_by_one(), input_shape=shape, base_images=base, method=method, on_batch=on_batch, **options
            )
        except GyrostatError as error:
            raise ArgumentError(str(error) if asking in str(error) else f"{asking}: {error}") from error
        finally:
            for model in opened:
                model.close()
    reference.save(out)
    spread = float(np.max(reference.spread))
    print(f"{out}: reference of {len(models)} models, {reference.mean.shape[1]} classes, largest spread {spread:.3f}")
    return 0
