"""Recordings as sequences: raw samples, log-mel frames or MFCC; shared by the sources of speech."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._checks import OneOf, Real
from .._errors import DataError
from .files import standardized
from .rows import Rows
from .sequences import SequenceData
from .spectra import log_mel, mfcc

FEATURES = ("raw", "logmel", "mfcc")
FEATURES_RULE, SECONDS = OneOf(FEATURES), Real(low=0, high=3600)


def read_wav(name: str, raw: bytes) -> tuple[int, np.ndarray]:
    """Rate and int16 samples of one channel.

    Raises:
        DataError: Not a whole wav file, or neither 8 nor 16 bit.
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that hold no samples
            rate, samples = wavfile.read(io.BytesIO(raw))
    except (ValueError, EOFError, IndexError, TypeError, KeyError) as error:
        raise DataError(f"{name}: not a whole wav file ({error})") from error
    except Exception as error:  # scipy lets struct.error and others through for damaged headers
        raise DataError(f"{name}: not a wav file ({type(error).__name__})") from error
    if samples.ndim > 1:
        samples = samples[:, 0]
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128) << 8
    if samples.dtype != np.int16 or not len(samples):
        raise DataError(f"{name}: has {len(samples)} samples of {samples.dtype}; 16-bit samples are read")
    return rate, samples


def sound_sequences(
    name: str,
    waves: Sequence[np.ndarray],
    y: np.ndarray,
    classes: tuple[str, ...],
    split: dict[str, np.ndarray],
    rate: int,
    *,
    features: str,
    seconds: float,
    licence: str,
    provenance: str,
) -> SequenceData:
    """Recordings of one rate as sequences of their lengths.

    Args:
        name: Name of the data set.
        waves: int16 samples of each recording.
        y: Labels.
        classes: Their names.
        split: Row numbers of the parts.
        rate: Samples per second.
        features: ``raw`` (samples in [-1, 1]), ``logmel`` (40 bands every 10 ms) or ``mfcc`` (13 coefficients), the
            latter two standardised over the training part.
        seconds: Cut longer recordings; 0 keeps them whole.
        licence: Licence of the data.
        provenance: Where it comes from.
    """
    if seconds:
        waves = [w[: max(1, round(seconds * rate))] for w in waves]
    told: dict[str, Any] = {"split": split, "classes": classes, "licence": licence}
    if features == "raw":
        stored, lengths = padded([w[:, None] for w in waves], np.int16)
        rows = Rows(stored, lambda s, _: s / np.float32(32768), stored.shape[1], 1, "raw")
        return SequenceData(
            f"{name} raw", rows, y, "classify", lengths=lengths, features=("sample",), provenance=provenance, **told
        )
    n_fft = 1 << int(np.ceil(np.log2(0.025 * rate)))
    frames = [log_mel(w, rate, n_fft=n_fft, hop=rate // 100, n_mels=40) for w in waves]
    frames = [mfcc(f) for f in frames] if features == "mfcc" else frames
    x, lengths = padded(frames, np.float32)
    how = f"{provenance}; {features} every 10 ms"
    data = SequenceData(f"{name} {features}", x, y, "classify", lengths=lengths, provenance=how, **told)
    return standardized(data)


def padded(pieces: Sequence[np.ndarray], dtype: type) -> tuple[np.ndarray, np.ndarray | None]:
    """Pieces ``(T_n, F)`` as one array ``(N, T, F)``, and their lengths unless all are equal."""
    lengths = np.array([len(p) for p in pieces])
    x = np.zeros((len(pieces), int(lengths.max()), pieces[0].shape[1]), dtype=dtype)
    for row, piece in zip(x, pieces):
        row[: len(piece)] = piece
    return x, None if (lengths == lengths[0]).all() else lengths
