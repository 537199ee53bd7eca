"""``gyrostat predict``: what a trained model says of new sequences."""

from __future__ import annotations

from pathlib import Path


def predict(run: Path, data: str, /, *, out: Path = Path("predictions.csv"), force: bool = False) -> int:
    """Write the predictions of a trained model for a data file as CSV.

    Example: gyrostat predict run new_series.npz --out predictions.csv
    Takes seconds. The file needs no labels, and labels in it are not used; values are standardised as in training.

    Args:
        run: Run directory of gyrostat train, or its model.safetensors.
        data: A .npz, .csv or .ts file, or a built-in set.
        out: The CSV file to write: row, prediction, and for classes the probability of each.
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

    if out.exists() and not force:
        raise ArgumentError(f"--out {out}: exists; add --force to replace it, or name another file")
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
    if model.config.task in ("predict", "tag"):
        raise ArgumentError(
            f"{run}: predicts a value at every step; gyrostat predict writes one line per sequence only"
        )
    batches = Batches(opened, "test", 256)
    batches.rows = np.arange(len(opened.x))
    classes = facts.get("classes", [])
    text = io.StringIO()
    writer = csv.writer(text)
    classify = model.config.task == "classify"
    writer.writerow(["row", "prediction", *(f"p_{c}" for c in classes)] if classify else ["row", "prediction"])
    row = 0
    with torch.no_grad():
        for batch in batches.epoch():
            output = model(batch.x, batch.lengths)
            for values in (output.softmax(-1) if classify else output).tolist():
                best = max(range(len(values)), key=values.__getitem__)
                told = [classes[best], *(f"{v:.6f}" for v in values)] if classify else [repr(v) for v in values]
                writer.writerow([row, *told])
                row += 1
    write_atomically(out, text.getvalue().encode())
    print(f"{row} predictions in {out}")
    return 0
