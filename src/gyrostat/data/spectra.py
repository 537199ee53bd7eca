"""Sound as frames of a spectrum.

    log-mel  10 log10 Σ_f M(m, f) |STFT(t, f)|^p, relative to the loudest value, at least -80 dB
    MFCC     the first 13 terms of the orthonormal DCT-II of the log-mel frame

M has Slaney's scale (linear below 1 kHz, logarithmic above) and triangles of equal area; frames are centred.
"""

from __future__ import annotations

import numpy as np

FLOOR_DB = 80.0


def mel_filters(rate: int, n_fft: int, n_mels: int, low: float, high: float) -> np.ndarray:
    """Triangles of equal area on Slaney's scale, ``(n_mels, n_fft // 2 + 1)``."""
    ends = _to_mel(np.array([low, high]))
    edges = _from_mel(np.linspace(ends[0], ends[1], n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _to_mel(hertz: np.ndarray) -> np.ndarray:
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def _from_mel(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def log_mel(
    wave: np.ndarray, rate: int, *, n_fft: int, hop: int, n_mels: int, low: float = 40.0, power: float = 2.0
) -> np.ndarray:
    """Frames ``(1 + len(wave) // hop, n_mels)`` in dB below the loudest.

    Args:
        wave: Samples.
        rate: Samples per second.
        n_fft: Samples of a window (Hann).
        hop: Samples between frames.
        n_mels: Bands.
        low: Lowest frequency in Hz; the highest is half the rate.
        power: 2 for power, 1 for magnitude.
    """
    padded = np.pad(np.asarray(wave, dtype=np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][: 1 + len(wave) // hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    spectrum = np.abs(np.fft.rfft(frames * window, axis=1)) ** power
    energy = np.maximum(spectrum @ mel_filters(rate, n_fft, n_mels, low, rate / 2).T, 1e-10)
    decibel = 10 * np.log10(energy / energy.max())
    return np.maximum(decibel, -FLOOR_DB)


def mfcc(frames: np.ndarray, count: int = 13) -> np.ndarray:
    """The first ``count`` cepstral coefficients of log-mel frames ``(T, n_mels)``."""
    from scipy.fft import dct

    return np.asarray(dct(frames, type=2, norm="ortho", axis=1))[:, :count]
