"""UCR/UEA and TSR archives: ``ucr:NAME`` reads NAME_TRAIN.ts and NAME_TEST.ts.

``split=archive`` keeps the archive's test part and holds out 15 % of its training part. Released experiments of LEM
(arXiv:2110.04744) merge both files: ``split=eigenworms`` divides them 70 / 15 / 15 with scikit-learn's state 1234 (181, 39
and 39 worms), ``split=heart-rate`` with torch's generator 123456 (5,565, 1,192 and 1,192 records); both use raw values,
``standardize=false``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._checks import Boolean, OneOf, Text
from .._errors import DataError
from .answers import TASK, read_answers
from .files import standardized
from .sequences import SequenceData, random_split
from .sounds import padded
from .source import Source, find
from .ts import read_ts

NEEDS = "NAME/NAME_TRAIN.ts and NAME/NAME_TEST.ts from timeseriesclassification.com"


def _files(name: str) -> tuple[Path, Path]:
    path = Path(name)
    if name.endswith(".ts"):
        stem = path.name.removesuffix(".ts").removesuffix("_TRAIN").removesuffix("_TEST")
        folder = path.parent
    elif path.is_dir():
        folder, stem = path, path.name
    else:
        if path.name != name or any(c in name for c in "*?["):
            raise DataError(f"ucr: {name!r} is neither a folder nor the name of a data set")
        needs = NEEDS.replace("NAME", name)
        places = tuple(f"{top}{name}_TRAIN.ts" for top in (f"{name}/", f"ucr/{name}/", f"uea/{name}/", "ucr/", ""))
        folder, stem = find(f"ucr:{name}", places, needs).parent, name
    both = folder / f"{stem}_TRAIN.ts", folder / f"{stem}_TEST.ts"
    for file in both:
        if not file.is_file():
            raise DataError(f"ucr: {file} is missing; both NAME_TRAIN.ts and NAME_TEST.ts are needed")
    return both


def _split(how: str, n_train: int, n_test: int, labels: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    n = n_train + n_test
    if how == "archive":
        part = random_split(labels, n_train, seed, shares=(0.85, 0.15))
        valid = np.concatenate([part["valid"], part["test"]])
        return {"train": part["train"], "valid": np.sort(valid), "test": np.arange(n_train, n)}
    if how == "eigenworms":
        from sklearn.model_selection import train_test_split

        train, rest = train_test_split(np.arange(n), test_size=0.3, random_state=1234)
        valid, test = train_test_split(rest, test_size=0.5, random_state=1234)
    else:
        import torch

        order = torch.randperm(n, generator=torch.Generator().manual_seed(123456)).numpy()
        held = round(0.15 * n)
        train, valid, test = np.split(order, [n - 2 * held, n - held])
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}


def ucr(
    *, name: str = "", split: str = "archive", standardize: bool = True, task: str = "auto", seed: int = 0
) -> SequenceData:
    """A data set of the archives, ragged or not, with classes or targets as its files say."""
    train, test = (read_ts(path) for path in _files(name))
    stem = _files(name)[0].name.removesuffix("_TRAIN.ts")
    if train.cases[0].shape[1] != test.cases[0].shape[1] or train.kind != test.kind:
        raise DataError(f"ucr: {stem}_TRAIN.ts and {stem}_TEST.ts do not belong together")
    if task == "auto" and train.kind:
        task = {"class": "classify", "target": "regress"}[train.kind]
    answers = read_answers(np.array(train.answers + test.answers), stem, task)
    x, lengths = padded(train.cases + test.cases, np.float32)
    labels = answers.y[: len(train.cases)] if answers.task == "classify" else None
    data = SequenceData(
        stem,
        x,
        answers.y,
        answers.task,
        lengths=lengths,
        split=_split(split, len(train.cases), len(test.cases), labels, seed),
        classes=answers.classes,
        licence="as stated by the archive",
        provenance=f"{stem}_TRAIN.ts and {stem}_TEST.ts; {answers.how}; split {split}",
    )
    return standardized(data) if standardize else data


SOURCES = {
    "ucr": Source(
        ucr,
        "a data set of the UCR/UEA or TSR archives, as in ucr:EigenWorms",
        {
            "name": Text(),
            "split": OneOf(("archive", "eigenworms", "heart-rate")),
            "standardize": Boolean(),
            "task": TASK,
        },
        licence="as stated by the archive",
        files=NEEDS,
        subject="name",
    )
}
