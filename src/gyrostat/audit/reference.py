"""Is this response unusual?  A titration curve against those of clean models of the same make.

    h[k, c] = mean over σ > 0 of the share of inputs given class c,   k ∈ {all, confident, changed and confident}
    z[k, c] = (h - μ) / (s + ε),   μ, s over R clean references (ddof 1),      D = max z,   target = argmax_c max_k z[k, c]

What D and the deviations D_r of the references from each other decide stands in ``verdict.py``, several curves together in
``panel.py``.

Source: the decision is ours; the curve is that of arXiv:2008.00123, which leaves it open.
Differs from the released code: there, thresholds fitted to one competition round decide; here, nothing does without references.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .._errors import ArgumentError, DataError
from .._results import Result
from .stages import titrate_last_stage
from .titration import OF_THE_MODEL, TitrationCurve, settings_hash, titrate
from .verdict import Verdict, decide

FORMAT = "gyrostat-reference-1"
SUSPICIOUS = 4.0
SOFTENING = 0.05
ALIKE = 1.25  # exporting a model changes the number of its weights a little
_CONDITIONS = ("all", "confident", "changed and confident")
_NOT_ONE = "not a reference of gyrostat, or damaged; make one with  gyrostat calibrate"


@dataclass(frozen=True)
class Reference(Result):
    """Features of clean models of one architecture and training recipe, kept as JSON.

    Attributes:
        features: ``(R, 3, K)``.
        settings: Of the curves; a curve of other settings is refused.
        version: Library version that made it.
        softening: ε, added to the deviations.
        peaks: ``(R, K)`` of the curves, ``None`` where the models answer labels; ``combined`` references use them.

    Example:
        >>> import torch
        >>> from gyrostat import calibrate
        >>> clean = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)) for _ in range(3)]
        >>> reference = calibrate(clean, input_shape=(1, 4, 4), n=32)
        >>> reference.score(titrate(clean[0], input_shape=(1, 4, 4), n=32)).label
        'no finding'
    """

    features: np.ndarray
    settings: dict[str, Any]
    version: str = __version__
    softening: float = SOFTENING
    peaks: np.ndarray | None = None

    @classmethod
    def of(cls, curves: list[TitrationCurve], softening: float = SOFTENING) -> Reference:
        """The reference that the curves of clean models make.

        Raises:
            ArgumentError: The curves were made differently, or the models differ in the number of classes.
        """
        if len({settings_hash(c.settings) for c in curves}) > 1:
            raise ArgumentError(
                "calibrate: the models differ in the number of classes; they must be of one architecture"
            )
        peaks = [c.peaks for c in curves if c.peaks is not None]
        kept = np.stack(peaks) if len(peaks) == len(curves) else None
        return cls(np.stack([c.features() for c in curves]), curves[0].settings, softening=softening, peaks=kept)

    @property
    def count(self) -> int:
        """How many clean models it stands on, R."""
        return len(self.features)

    @property
    def mean(self) -> np.ndarray:
        """μ ``(3, K)``."""
        return self.features.mean(0)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviations s ``(3, K)``."""
        return self.features.std(0, ddof=1)

    def asked(self, base_images: Any = None) -> dict[str, Any]:
        """The settings to titrate a model with, so that its curve may be compared.

        Raises:
            ArgumentError: The references were made with base images or noise of their own, which are not at hand.
        """
        kept = self.settings
        names = ("sigmas", "gammas", "reps", "seed", "units", "temperature", "step")
        found = {k: kept[k] for k in names if k in kept}
        found["clip"] = None if kept.get("clip") is None else tuple(kept["clip"])
        if kept.get("noise") == "given":
            raise ArgumentError("the reference was made with noise of its own: titrate with it, and score the curve")
        found["noise_law"] = kept.get("noise", "white")
        if kept.get("base") == "given":
            if base_images is None:
                raise ArgumentError(
                    "the reference was made with base images of its own: give the same ones with --base"
                )
            return found
        return {**found, "base": kept["base"], "n": kept["n"]}

    def ask(self, model: Any, base_images: Any = None, **settings: Any) -> TitrationCurve:
        """The curve of a model, made as those of the references were; settings as in :func:`titrate`, such as ``device``."""
        shape = settings.pop("input_shape", None) or tuple(self.settings["input_shape"])
        if "stage" in self.settings:
            kept = {k: v for k, v in settings.items() if k in ("n", "clip", "preprocess", "seed")}
            kept = {"n": self.settings["n"], "seed": self.settings["seed"], "clip": self.settings["clip"], **kept}
            return titrate_last_stage(model, input_shape=shape, **kept)
        return titrate(model, base_images, input_shape=shape, **{**self.asked(base_images), **settings})

    def require_alike(self, curve: TitrationCurve) -> None:
        """Refuse a curve that was made otherwise than the references.

        Raises:
            ArgumentError: With the settings that differ.
        """
        if settings_hash(curve.settings) == settings_hash(self.settings):
            return
        keys = sorted({*curve.settings, *self.settings} - {*OF_THE_MODEL})
        different = [
            f"{k} {self.settings.get(k)!r} against {curve.settings.get(k)!r}"
            for k in keys
            if curve.settings.get(k) != self.settings.get(k)
        ]
        raise ArgumentError(
            f"the reference and the curve were made differently: {'; '.join(different)}; make both the same way"
        )

    def doubts(self, curve: TitrationCurve) -> list[str]:
        """What speaks against comparing a curve with the references although both were made the same way."""
        own, theirs = curve.settings.get("weights"), self.settings.get("weights")
        if not own or not theirs or 1 / ALIKE < own / theirs < ALIKE:
            return []
        return [
            f"the model has {own:,} weights and the references have {theirs:,}: models of another architecture answer "
            "noise otherwise, so calibrate on clean models of its own"
        ]

    def score(self, curve: TitrationCurve) -> Verdict:
        """The verdict on one curve.

        Raises:
            ArgumentError: The curve was made with other settings than the references; the message names them.
        """
        self.require_alike(curve)
        z = deviation(curve.features(), self.features, self.softening)  # (3, K)
        others = [(f, np.delete(self.features, r, 0)) for r, f in enumerate(self.features)] if self.count > 2 else []
        own = [float(deviation(f, rest, self.softening).max()) for f, rest in others]
        return decide(z, own, limit=SUSPICIOUS, references=self.count)

    def save(self, path: str | Path) -> None:
        """Write the reference as JSON."""
        from ..report.page import write_atomically

        text = json.dumps({"format": FORMAT, **self.to_dict()}, indent=1, allow_nan=False)
        write_atomically(path, text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Read a reference back.

        Raises:
            DataError: The file is not a reference.
        """
        return cls.from_dict(read_json(path, FORMAT), path)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: str | Path = "reference") -> Reference:
        """The reference that ``to_dict`` wrote.

        Raises:
            DataError: A field is missing or does not fit.
        """
        try:
            features = np.asarray(values["features"], dtype=float)
            settings, version = dict(values["settings"]), str(values["version"])
            softening = float(values.get("softening", SOFTENING))
            peaks = None if values.get("peaks") is None else np.asarray(values["peaks"], dtype=float)
            sound = (
                softening > 0
                and features.ndim == 3
                and features.shape[1] == len(_CONDITIONS)
                and (peaks is None or (peaks.shape == features.shape[::2] and np.isfinite(peaks).all()))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: {_NOT_ONE}") from error
        if not sound or len(features) < 2 or not np.isfinite(features).all():
            raise DataError(f"{path}: {_NOT_ONE}")
        return cls(features, settings, version, softening, peaks)


def read_json(path: str | Path, *formats: str) -> dict[str, Any]:
    """The object in a file of one of the formats.

    Raises:
        DataError: The file is something else.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; make a reference with  gyrostat calibrate")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] in formats:
            return values
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: {_NOT_ONE}") from error
    raise DataError(f"{path}: {_NOT_ONE}")


def deviation(h: np.ndarray, references: np.ndarray, softening: float = SOFTENING) -> np.ndarray:
    """Deviations z of features ``(..., K)`` against references ``(R, ..., K)``."""
    return (h - references.mean(0)) / (references.std(0, ddof=1) + softening)
