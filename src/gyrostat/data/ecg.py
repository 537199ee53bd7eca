"""Electrocardiograms and other signals of WFDB records, read with the package ``wfdb``: ``ecg:100``.

    task=next   x_t = sample t of all channels, y_t = sample t + 1, in windows of ``length`` steps, in order
    task=beats  x = the ``length`` samples around an annotated beat, label = its symbol (symbols with at least 20 beats)

The first 70 % of the record are for training, then 15 % each for validation and tests; values are standardised.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Integer, OneOf, Text
from .._errors import DataError, missing_extra
from .files import standardized
from .sequences import SequenceData
from .source import Source, find

NEEDS = "RECORD.hea with its .dat or .mat, and .atr for beats, in a folder wfdb/"
FEWEST = 20
_BEATS = set("NLRBAaJSVrFejnE/fQ?")


def _read(reader: Any, path: Path, what: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what wfdb's own use of pandas deprecates is no news to our user
            return reader(str(path))
    except FileNotFoundError as error:
        raise DataError(f"ecg: {what} of record {path.name} is missing: {Path(error.filename or '').name}") from error
    except Exception as error:  # wfdb raises whatever its parsing meets
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"ecg: {what} of record {path.name} cannot be read ({type(error).__name__}: {reason})"
        ) from error


def ecg(*, record: str = "", task: str = "next", length: int = 500, limit: int = 0, seed: int = 0) -> SequenceData:
    """Windows of one record; ``limit`` keeps the first so many samples. Nothing is drawn from the seed."""
    path = Path(record).with_suffix("")
    if path.name == record:
        places = tuple(f"{folder}{record}.hea" for folder in ("wfdb/", "", "ecg/", "mitdb/"))
        path = find(f"ecg:{record}", places, NEEDS.replace("RECORD", record)).with_suffix("")
    try:
        wfdb = importlib.import_module("wfdb")
    except ImportError:
        raise missing_extra("wfdb", "ecg", "reading an electrocardiogram") from None
    found = _read(wfdb.rdrecord, path, "the signal")
    signal = np.asarray(found.p_signal, dtype=np.float32)[: limit or None]  # (samples, channels)
    if not np.isfinite(signal).all():
        first = int(np.argwhere(~np.isfinite(signal))[0][0])
        raise DataError(f"ecg: record {path.name} has a gap at sample {first}; use limit={first} to stop before it")
    told: dict[str, Any] = {
        "features": tuple(found.sig_name),
        "licence": "as stated by PhysioNet",
        "provenance": f"record {path.name}, {found.fs:g} Hz",
    }
    if task == "next":
        N = (len(signal) - 1) // length
        x = signal[: N * length].reshape(N, length, -1)
        y = signal[1 : N * length + 1].reshape(N, length, -1)
        data = SequenceData(f"ecg {path.name}", x, y, "predict", split=_in_order(N, path.name), **told)
        scaled = standardized(data)
        scale, center = np.array(scaled.scale), np.array(scaled.center)
        object.__setattr__(scaled, "y", ((data.y - center) / scale).astype(np.float32))
        return scaled
    notes = _read(lambda p: wfdb.rdann(p, "atr"), path, "the annotation")
    half = length // 2
    places = [
        (int(s), k)
        for s, k in zip(notes.sample, notes.symbol)
        if k in _BEATS and half <= s <= len(signal) - (length - half)
    ]
    symbols = [k for _, k in places]
    classes = tuple(sorted(k for k in set(symbols) if symbols.count(k) >= FEWEST))
    places = [(s, k) for s, k in places if k in classes]
    if len(classes) < 2:
        raise DataError(f"ecg: record {path.name} has fewer than two kinds of beats with at least {FEWEST} of each")
    x = np.stack([signal[s - half : s - half + length] for s, _ in places])
    y = np.array([classes.index(k) for _, k in places])
    split = _in_order(len(y), path.name)
    return standardized(SequenceData(f"ecg {path.name} beats", x, y, "classify", split=split, classes=classes, **told))


def _in_order(n: int, name: str) -> dict[str, np.ndarray]:
    if n < 7:
        raise DataError(f"ecg: record {name} gives {n} windows; lower length")
    a, b = round(0.7 * n), round(0.85 * n)
    return {"train": np.arange(a), "valid": np.arange(a, b), "test": np.arange(b, n)}


SOURCES = {
    "ecg": Source(
        ecg,
        "predict a WFDB record one sample ahead, or tell its beats apart, as in ecg:100",
        {
            "record": Text(),
            "task": OneOf(("next", "beats")),
            "length": Integer(low=2, high=1_000_000),
            "limit": Integer(low=0),
        },
        licence="as stated by PhysioNet",
        files=NEEDS + " (needs gyrostat[ecg])",
        subject="record",
    )
}
