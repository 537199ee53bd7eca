"""Several curves, one verdict: what each says of a class, averaged.

    t[q, c]     q = shares (max over their three conditions of z) and peaks (z with ε = .1), of each curve
    D = max_c mean_q t[q, c],      target = argmax_c,      limit of D 2.5, or 3.5 with fewer than ten references

The two curves of ``combined`` are those of structured and of white noise: what a local trigger answers to and what a global
one does. ``inside`` adds the shares of noise in the last features (``stages.py``). A mean asks the curves to agree on a class;
the maximum would add up their false alarms.

Source: ours; which statistics, and which not, was studied on the zoo (docs/audit.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ArgumentError, DataError
from .._results import Result
from .reference import FORMAT, Reference, deviation, read_json
from .titration import TitrationCurve
from .verdict import Verdict, decide

PANEL_FORMAT = "gyrostat-panel-1"
SUSPICIOUS, SUSPICIOUS_OF_FEW, FEW = 2.5, 3.5, 10
PEAK_SOFTENING = 0.1


@dataclass(frozen=True)
class Panel(Result):
    """References of several kinds of noise, of the same clean models: what ``calibrate`` makes for ``combined`` and ``inside``.

    Attributes:
        references: One for each kind of noise, all of the same R models.

    Example:
        >>> import torch
        >>> from gyrostat import calibrate
        >>> clean = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)) for _ in range(4)]
        >>> panel = calibrate(clean, method="combined", input_shape=(1, 8, 8), n=32)
        >>> verdict = panel.score(panel.ask(clean[0]))
        >>> verdict.references, verdict.z.shape
        (4, (4, 4))
    """

    references: tuple[Reference, ...]

    @property
    def count(self) -> int:
        """How many clean models it stands on, R."""
        return self.references[0].count

    @property
    def mean(self) -> np.ndarray:
        """Mean class shares ``(3, K)`` of the references under the first kind of noise."""
        return self.references[0].mean

    @property
    def spread(self) -> np.ndarray:
        """Standard deviations ``(3, K)`` of the same."""
        return self.references[0].spread

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the first curve."""
        return self.references[0].settings

    def ask(self, model: Any, base_images: Any = None, **settings: Any) -> tuple[TitrationCurve, ...]:
        """The curves of a model, made as those of the references were; settings as in :func:`titrate`."""
        return tuple(reference.ask(model, base_images, **settings) for reference in self.references)

    def doubts(self, curves: Sequence[TitrationCurve]) -> list[str]:
        """What speaks against comparing the curves of a model with the references although both were made the same way."""
        return self.references[0].doubts(curves[0])

    def score(self, curves: Sequence[TitrationCurve]) -> Verdict:
        """The verdict on the curves of one model, in the order of the references.

        Raises:
            ArgumentError: There are too few or too many curves, or one was made otherwise than its references.
        """
        if isinstance(curves, TitrationCurve) or len(curves) != len(self.references):
            raise ArgumentError(
                f"a combined reference scores {len(self.references)} curves: those that its ask() makes"
            )
        for reference, curve in zip(self.references, curves, strict=True):
            reference.require_alike(curve)
        h = [(curve.features(), _peaks(curve.peaks)) for curve in curves]
        z = self._deviations(h, slice(None))
        own = [self._own(r) for r in range(self.count)] if self.count > 2 else []
        limit = SUSPICIOUS if self.count >= FEW else SUSPICIOUS_OF_FEW
        return decide(z, own, limit=limit, references=self.count, scores=z.mean(0))

    def _own(self, r: int) -> float:
        """D of one reference model against the others."""
        rest = [i for i in range(self.count) if i != r]
        h = [(reference.features[r], _peaks(reference.peaks)[r]) for reference in self.references]
        return float(self._deviations(h, rest).mean(0).max())

    def _deviations(self, h: list[tuple[np.ndarray, np.ndarray]], rows: Any) -> np.ndarray:
        """T ``(Q, K)`` of shares and peaks against some of the references."""
        t = []
        for reference, (shares, peaks) in zip(self.references, h, strict=True):
            t.append(deviation(shares, reference.features[rows], reference.softening).max(0))
            if "stage" not in reference.settings:
                t.append(deviation(peaks, _peaks(reference.peaks)[rows], PEAK_SOFTENING))
        return np.stack(t)

    def save(self, path: str | Path) -> None:
        """Write the references as JSON."""
        from ..report.page import write_atomically

        text = json.dumps({"format": PANEL_FORMAT, **self.to_dict()}, indent=1, allow_nan=False)
        write_atomically(path, text.encode())


def load_reference(path: str | Path) -> Reference | Panel:
    """Read what ``calibrate`` wrote, of one curve or combined.

    Raises:
        DataError: The file is neither.
    """
    values = read_json(path, FORMAT, PANEL_FORMAT)
    if values["format"] == FORMAT:
        return Reference.from_dict(values, path)
    parts = values.get("references")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path}: not a reference of gyrostat, or damaged; make one with  gyrostat calibrate")
    found = tuple(Reference.from_dict(part, path) for part in parts)
    if not found or any(r.peaks is None or r.features.shape != found[0].features.shape for r in found):
        raise DataError(f"{path}: not a reference of gyrostat, or damaged; make one with  gyrostat calibrate")
    return Panel(found)


def _peaks(peaks: np.ndarray | None) -> np.ndarray:
    if peaks is None:
        raise ArgumentError("combined references compare scores, and the model answers labels only: use method='white'")
    return peaks
