"""The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz, ``digit_speaker_index.wav``.

The usual test part is index < 5. ``speaker=NAME`` is the hard split: all recordings of one speaker are the test part.
"""

from __future__ import annotations

import re

import numpy as np

from .._checks import Integer, Text, nearest
from .._errors import DataError
from .archives import members
from .sequences import SequenceData, random_split
from .sounds import FEATURES_RULE, SECONDS, read_wav, sound_sequences
from .source import Source, find

_NAME = re.compile(r"(?:^|/)(\d)_([A-Za-z]+)_(\d+)\.wav$")
NEEDS = "fsdd_wav.zip or a folder fsdd/ with digit_speaker_index.wav"
PLACES = ("fsdd_wav.zip", "fsdd", "fsdd.zip", "free-spoken-digit-dataset*")


def fsdd(
    *, features: str = "raw", speaker: str = "", seconds: float = 0.0, limit: int = 0, seed: int = 0
) -> SequenceData:
    """Spoken digits; a tenth of what is not for tests is held out for validation, drawn within each digit."""
    path = find("fsdd", PLACES, NEEDS)
    found = []
    for name, raw in members(path, lambda n: _NAME.search(n) is not None):
        digit, who, index = _NAME.search(name).groups()  # type: ignore[union-attr]
        if not limit or int(index) < limit:
            found.append((int(digit), who, int(index), name, raw))
    if not found:
        raise DataError(f"fsdd: {path.name} holds no digit_speaker_index.wav; put {NEEDS} under GYROSTAT_DATA")
    found.sort(key=lambda f: f[:3])
    speakers = sorted({f[1] for f in found})
    if speaker and speaker not in speakers:
        raise DataError(
            f"fsdd: speaker must be one of {', '.join(speakers)}, got {speaker!r}{nearest(speaker, speakers)}"
        )
    waves = []
    for *_, name, raw in found:
        rate, wave = read_wav(name, raw)
        if rate != 8000:
            raise DataError(f"{name}: has {rate} samples per second, the set has 8000")
        waves.append(wave)
    y = np.array([f[0] for f in found])
    held = np.array([f[1] == speaker if speaker else f[2] < 5 for f in found])
    rest, test = np.flatnonzero(~held), np.flatnonzero(held)
    if len(rest) < 10 or not len(test):
        raise DataError(f"fsdd: {len(rest)} recordings to train on and {len(test)} to test; raise limit")
    part = random_split(y[rest], len(rest), seed, shares=(0.9, 0.1))
    train, valid = part["train"], np.concatenate([part["valid"], part["test"]])
    split = {"train": rest[np.sort(train)], "valid": rest[np.sort(valid)], "test": test}
    title = f"fsdd without {speaker}" if speaker else "fsdd"
    return sound_sequences(
        title, waves, y, tuple("0123456789"), split, 8000, features=features, seconds=seconds,
        licence="CC BY-SA 4.0", provenance=path.name,
    )  # fmt: skip


SOURCES = {
    "fsdd": Source(
        fsdd,
        "3,000 spoken digits of six speakers, 8 kHz",
        {"features": FEATURES_RULE, "speaker": Text(), "seconds": SECONDS, "limit": Integer(low=0)},
        licence="CC BY-SA 4.0",
        files=NEEDS,
    )
}
