"""``gyrostat predict``: what a trained model says of new sequences."""

from __future__ import annotations

from pathlib import Path


def _columns(classes: list[str] | None, size: int) -> list[str]:
    if classes is not None:
        return ["prediction", *(f"p_{c}" for c in classes)]
    return ["prediction"] if size == 1 else [f"prediction_{k}" for k in range(size)]


def _told(values: list[float], classes: list[str] | None) -> list[str]:
    if classes is None:
        return [repr(v) for v in values]
    return [classes[max(range(len(values)), key=values.__getitem__)], *(f"{v:.6f}" for v in values)]


def predict(run: Path, data: str, /, *, out: Path = Path("predictions.csv"), force: bool = False) -> int:
    """Write the predictions of a trained model for a data file as CSV.

    Example: gyrostat predict run new_series.npz --out predictions.csv
    Takes seconds. The file needs no labels, and labels in it are not used; values are standardised as in training.

    Args:
        run: Run directory of gyrostat train, or its model.safetensors.
        data: A .npz, .csv or .ts file, or a built-in set.
        out: The CSV file to write: row, prediction, and for classes the probability of each; where the model
            answers at every step, one line per step, with its number.
        force: Replace an existing file.
    """
    import csv
    import io

    import numpy as np
    import torch

    from .._errors import ArgumentError
    from ..data.batches import Batches
    from ..data.catalogue import open_data, split_file_spec
    from ..data.files import rescaled
    from ..report.page import write_atomically
    from ..train.loop import load_model
    from ._shared import out_file

    out_file(out, force, data, run / "model.safetensors", run / "config.json")
    model, facts = load_model(run)
    if split_file_spec(data)[0] is not None:
        opened = open_data(data, answers=False)
        if facts.get("scale") and len(facts["scale"]) == opened.n_features:
            opened = rescaled(opened, np.array(facts["center"]), np.array(facts["scale"]))
    else:
        opened = open_data(data)
    if opened.n_features != model.config.input_size:
        raise ArgumentError(
            f"{data}: has {opened.n_features} features, the model was trained on {model.config.input_size}"
        )
    batches = Batches(opened, "test", 256)
    batches.rows = np.arange(len(opened.x))
    text = io.StringIO()
    writer = csv.writer(text)
    by_step = model.config.task in ("predict", "tag")
    classes = facts.get("classes", []) if model.config.task in ("classify", "tag") else None
    count = 0
    for batch in batches.epoch():
        with torch.no_grad():
            output = model(batch.x, batch.lengths)
        lengths = batch.lengths.tolist() if batch.lengths is not None else [batch.x.shape[1]] * len(output)
        for values, length in zip((output if classes is None else output.softmax(-1)).tolist(), lengths):
            if not count:
                writer.writerow(["row", *(["step"] if by_step else []), *_columns(classes, output.shape[-1])])
            for step, numbers in enumerate(values[:length] if by_step else [values]):
                writer.writerow([count, *([step] if by_step else []), *_told(numbers, classes)])
            count += 1
    write_atomically(out, text.getvalue().encode())
    print(f"predictions for {count} {'sequence' if count == 1 else 'sequences'} in {out}")
    return 0
