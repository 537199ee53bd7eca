"""Speech Commands: one-second recordings of 35 words, 16 kHz, ``word/speaker_nohash_index.wav``.

The parts are those of ``validation_list.txt`` and ``testing_list.txt``, or of the hash that made them. Options of the
released LEM experiment (arXiv:2110.04744): ``words=google12`` (10 words, ``unknown`` = every other word, unbalanced, and
``silence`` = the beginnings of the long background files, all for training) and ``features=released`` (80 mel bands of the
magnitude, 126 frames, padded with 0 dB, which is the loudest level, each clip with mean 0 and deviation 1).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import Integer, OneOf
from .._errors import DataError
from .archives import members
from .sequences import SequenceData
from .sounds import FEATURES, SECONDS, read_wav, sound_sequences
from .source import Source, find
from .spectra import log_mel

TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE, FRAMES = 16_000, 126
BACKGROUND = "_background_noise_"
NEEDS = "speech_commands_v0.02.tar.gz or a folder speech_commands/ with word/*.wav"
PLACES = (
    "speech_commands", "speech-commands", "speech_commands_v0*", "data_speech_commands_v0*", "SpeechCommands/speech_commands*",
)  # fmt: skip
_WAV = re.compile(r"(?:^|/)([^/]+)/([^/]+\.wav)$")
_LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}


def part_of(name: str) -> str:
    """The part of a file by its speaker's hash, as the authors of the set assign it (10 % valid, 10 % test)."""
    speaker = re.sub(r"_nohash_.*$", "", name)
    share = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (1 << 27) * 100 / ((1 << 27) - 1)
    return "valid" if share < 10 else "test" if share < 20 else "train"


def _read(path: Path, kept: tuple[str, ...] | None, background: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """Recordings by ``word/file`` and the parts that the lists name."""
    sounds: dict[str, bytes] = {}
    listed: dict[str, str] = {}

    def wanted(name: str) -> bool:
        word = _WAV.search(name)
        if word is None:
            return name.rsplit("/", 1)[-1] in _LISTS
        return background if word[1] == BACKGROUND else kept is None or word[1] in kept

    for name, raw in members(path, wanted):
        word = _WAV.search(name)
        if word:
            sounds[f"{word[1]}/{word[2]}"] = raw
        else:
            part = _LISTS[name.rsplit("/", 1)[-1]]
            listed |= dict.fromkeys(raw.decode("utf-8", "replace").split(), part)
    return sounds, listed


def released_frames(wave: np.ndarray) -> np.ndarray:
    """The 126 frames of 80 bands of the released experiment."""
    frames = log_mel(wave / 32768, RATE, n_fft=1024, hop=128, n_mels=80, power=1.0)[:FRAMES]
    frames = np.pad(frames, ((0, FRAMES - len(frames)), (0, 0)))
    return (frames - frames.mean()) / max(float(frames.std()), 1e-8)


def speech_commands(
    *, words: str = "all", features: str = "raw", seconds: float = 1.0, limit: int = 0, seed: int = 0
) -> SequenceData:
    """Spoken words; ``limit`` keeps the first so many recordings of each word and part. Nothing is drawn from the seed."""
    path = find("speech-commands", PLACES, NEEDS)
    sounds, listed = _read(path, TEN if words == "ten" else None, words == "google12")
    if not sounds:
        raise DataError(f"speech-commands: {path.name} holds no word/*.wav; put {NEEDS} under GYROSTAT_DATA")
    named = sorted({key.split("/")[0] for key in sounds} - {BACKGROUND})
    classes = (*TEN, "unknown", "silence") if words == "google12" else TEN if words == "ten" else tuple(named)
    waves, y, parts = [], [], []
    counts: dict[tuple[str, str], int] = {}
    for key in sorted(sounds):
        word, file = key.split("/")
        part = "train" if word == BACKGROUND else listed.get(key, "train") if listed else part_of(file)
        counts[word, part] = counts.get((word, part), 0) + 1
        if limit and counts[word, part] > limit:
            continue
        rate, wave = read_wav(key, sounds[key])
        if rate != RATE:
            raise DataError(f"{key}: has {rate} samples per second, the set has {RATE}")
        label = "silence" if word == BACKGROUND else word if word in classes else "unknown"
        waves.append(wave)
        y.append(classes.index(label))
        parts.append(part)
    split = {p: np.flatnonzero(np.array(parts) == p) for p in ("train", "valid", "test")}
    told: dict[str, Any] = {"licence": "CC BY 4.0", "provenance": path.name}
    if features != "released":
        return sound_sequences(
            f"speech-commands {words}",
            waves,
            np.array(y),
            classes,
            split,
            RATE,
            features=features,
            seconds=seconds,
            **told,
        )
    x = np.stack([released_frames(w[: FRAMES * 128]) for w in waves])
    return SequenceData(
        f"speech-commands {words} released", x, np.array(y), "classify", split=split, classes=classes, **told
    )


SOURCES = {
    "speech-commands": Source(
        speech_commands,
        "spoken words of one second, 16 kHz",
        {
            "words": OneOf(("all", "ten", "google12")),
            "features": OneOf((*FEATURES, "released")),
            "seconds": SECONDS,
            "limit": Integer(low=0),
        },
        licence="CC BY 4.0",
        files=NEEDS,
    )
}
