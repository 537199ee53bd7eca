"""Is this response unusual?  A titration curve against those of clean models of the same make.

    h[k, c] = mean over σ > 0 of the share of inputs given class c,   k ∈ {all, confident, changed and confident}
    z[k, c] = (h - μ) / (s + ε),   μ, s over R clean references (ddof 1),      D = max z,   target = argmax_c max_k z[k, c]
    p = (1 + #{r : D_r ≥ D}) / (R + 1),   D_r of reference r against the others

``white`` pours white noise over uniform noise, ε = .05; ``structured`` pours patches and waves over drawn textures, ε = .02.

Source: the decision is ours; the curve is that of arXiv:2008.00123, which leaves it open.
Differs from the released code: there, thresholds fitted to one competition round decide; here, nothing does without references.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .._checks import OneOf, Real, check
from .._errors import ArgumentError, DataError
from .._results import Result
from .titration import TitrationCurve, settings_hash, titrate

FORMAT = "gyrostat-reference-1"
SUSPICIOUS, INCONCLUSIVE = 4.0, 2.5
SOFTENING = 0.05
METHODS: dict[str, dict[str, Any]] = {
    "white": {"softening": SOFTENING},
    "structured": {
        "softening": 0.02, "base": "procedural", "noise_law": "mixed", "n": 512, "sigmas": (0, 0.2, 0.5, 1.0, 2.0),
    },
}  # fmt: skip
_CONDITIONS = ("all", "confident", "changed and confident")


@dataclass(frozen=True)
class Verdict(Result):
    """What a model's response says.

    Attributes:
        label: ``"suspicious"``, ``"inconclusive"``, ``"no finding"``, or ``"uncalibrated"`` without references.
        D: Largest deviation from the references, ``None`` without them.
        target: The class it points to; a candidate only, unless the label is ``"suspicious"``.
        p_value: Conformal p-value of D; R references cannot give less than 1/(R + 1).
        z: Deviations ``(3, K)``: of all, the confident, the changed and confident.
        ranked: Classes from most to least deviating, with their largest z (or share).
        warnings: What limits the verdict, in words.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> uncalibrated(titrate(model, input_shape=(1, 2, 2), n=8)).label
        'uncalibrated'
    """

    label: str
    D: float | None
    target: int
    p_value: float | None
    z: np.ndarray | None
    ranked: list[tuple[int, float]]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference(Result):
    """Features of clean models of one architecture and training recipe, kept as JSON.

    Attributes:
        features: ``(R, 3, K)``.
        settings: Of the curves; a curve of other settings is refused.
        version: Library version that made it.
        softening: ε, added to the deviations.

    Example:
        >>> import torch
        >>> clean = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)) for _ in range(3)]
        >>> reference = calibrate(clean, input_shape=(1, 4, 4), n=32)
        >>> reference.score(titrate(clean[0], input_shape=(1, 4, 4), n=32)).label
        'no finding'
    """

    features: np.ndarray
    settings: dict[str, Any]
    version: str = __version__
    softening: float = SOFTENING

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
        names = ("sigmas", "gammas", "reps", "seed", "units", "temperature")
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

    def score(self, curve: TitrationCurve) -> Verdict:
        """The verdict on one curve.

        Raises:
            ArgumentError: The curve was made with other settings than the references; the message names them.
        """
        if settings_hash(curve.settings) != settings_hash(self.settings):
            keys = sorted({*curve.settings, *self.settings})
            different = [
                f"{k} {self.settings.get(k)!r} against {curve.settings.get(k)!r}"
                for k in keys
                if k != "outputs" and curve.settings.get(k) != self.settings.get(k)
            ]
            raise ArgumentError(
                f"the reference and the curve were made differently: {'; '.join(different)}; make both the same way"
            )
        z = deviation(curve.features(), self.features, self.softening)  # (3, K)
        D = float(z.max())
        R = len(self.features)
        others = [(f, np.delete(self.features, r, 0)) for r, f in enumerate(self.features)] if R > 2 else []
        own = [deviation(f, rest, self.softening).max() for f, rest in others]
        p_value = (1 + sum(float(d) >= D for d in own)) / (len(own) + 1) if own else None
        best = z.max(0)  # (K,)
        order = np.argsort(-best, kind="stable")
        label = "suspicious" if D > SUSPICIOUS else "inconclusive" if D > INCONCLUSIVE else "no finding"
        limits = [f"{R} references cannot give a p-value below {1 / (R + 1):.2f}"]
        limits.append("a screening feature, not a proof: small local triggers can stay silent")
        return Verdict(label, D, int(order[0]), p_value, z, [(int(c), float(best[c])) for c in order], limits)

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
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            features = np.asarray(values["features"], dtype=float)
            settings, version = dict(values["settings"]), str(values["version"])
            softening = float(values.get("softening", SOFTENING))
            sound = (
                softening > 0
                and values["format"] == FORMAT
                and features.ndim == 3
                and features.shape[1] == len(_CONDITIONS)
            )
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a reference of gyrostat; make one with  gyrostat calibrate") from error
        if not sound or len(features) < 2 or not np.isfinite(features).all():
            raise DataError(f"{path}: not a reference of gyrostat, or damaged; make one with  gyrostat calibrate")
        return cls(features, settings, version, softening)


def deviation(h: np.ndarray, references: np.ndarray, softening: float = SOFTENING) -> np.ndarray:
    """Deviations z of features ``(3, K)`` against references ``(R, 3, K)``."""
    return (h - references.mean(0)) / (references.std(0, ddof=1) + softening)


def uncalibrated(curve: TitrationCurve) -> Verdict:
    """What can be said without references: never that a model is clean."""
    share = curve.features()[2]  # (K,)
    order = np.argsort(-share, kind="stable")
    ranked = [(int(c), float(share[c])) for c in order]
    why = ["no references: neither clean nor suspicious can be said; the target is a candidate of low confidence"]
    return Verdict("uncalibrated", None, curve.target, None, None, ranked, why)


def calibrate(
    models: Iterable[Any] | Callable[[int], Any], n_models: int = 5, *, method: str = "white", **settings: Any
) -> Reference:
    """Titrate clean models of one architecture and training recipe, and keep what they do as a reference.

    Args:
        models: The models, or a function from a seed 0, 1, ... to a trained model.
        n_models: How many to ask that function for.
        method: ``white``, or for images ``structured``, which finds local triggers better: defaults of the settings.
        **settings: As in :func:`titrate`, and ``softening``; a model is scored with the same ones, ``Reference.asked``.

    Raises:
        ArgumentError: An unknown method, or another than ``white`` beside ``paper=True``; fewer than 3 models, or models with
            different numbers of classes.

    Example:
        >>> import torch
        >>> make = lambda seed: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
        >>> calibrate(make, 4, input_shape=(1, 4, 4), n=32).features.shape
        (4, 3, 4)
    """
    check({"method": OneOf(tuple(METHODS)), "softening": Real(0, closed="neither")},
          {"method": method, "softening": settings.get("softening", SOFTENING)}, "calibrate")  # fmt: skip
    if settings.get("paper") and method != "white":
        raise ArgumentError(f"calibrate: paper=True names its own noise; it does not go with method={method!r}")
    settings = {**METHODS[method], **settings}
    softening = settings.pop("softening")
    made = (models(i) for i in range(n_models)) if callable(models) else iter(models)
    curves = [titrate(model, **settings) for model in made]
    if len(curves) < 3:
        raise ArgumentError(f"calibrate: at least 3 clean models are needed, got {len(curves)}")
    if len({settings_hash(c.settings) for c in curves}) > 1:
        raise ArgumentError("calibrate: the models differ in the number of classes; they must be of one architecture")
    return Reference(np.stack([c.features() for c in curves]), curves[0].settings, softening=softening)
