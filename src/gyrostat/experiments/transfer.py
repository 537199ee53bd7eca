"""An adversarially trained source needs fewer labels: small sources in place of ImageNet's.

Source: arXiv:2007.05869; the published numbers are those of the released table of results.
"""

from __future__ import annotations

from pathlib import Path

from .recipe import Computation, Finding, Reference

_PUBLISHED = {100: 15.1, 200: 9.1, 400: 6.2, 800: 4.2}  # MNIST, natural to L2 3.0, points of test accuracy


def _measure(scale: str, folder: Path) -> list[Finding]:
    from ..data.catalogue import open_images
    from ..train.sources import fitted
    from ..train.transfer import Study, run_study

    if scale == "smoke":
        study = Study((10, 100), epochs=4, subsets=2, fine_tuning=(("epochs", 30), ("lr", 0.05)))
        source = open_images("letters", n=1000)
    else:
        study = Study((10, 20, 50, 100, 400), seeds=3, fine_tuning=(("epochs", 60), ("lr", 0.05)))
        source = open_images("letters")
    curve = run_study(source, fitted(open_images("digits"), 16), study, folder).curve
    found = []
    for name in curve.sources:
        for n, mean, spread in zip(curve.labels, curve.mean(name), curve.spread(name)):
            found.append(Finding(f"{name} source", f"test accuracy, {n} labels", mean, spread))
    for n, (gain, error) in zip(curve.labels, curve.gain("adversarial", "natural")):
        published = Reference(_PUBLISHED[n], "released log: MNIST from ImageNet") if n in _PUBLISHED else None
        found.append(Finding("adversarial over natural", f"points, {n} labels", 100 * gain, 100 * error, published))
    return found


RECIPES = [
    Computation(
        "transfer-letters-digits",
        "A source trained against an adversary transfers better to few labels",
        "2007.05869",
        measure=_measure,
        scales={"smoke": "20 seconds", "small": "1 minute"},
        known_for=(
            "adversarial over natural: points, 100 labels",
            Reference(15.1, "released log: MNIST from ImageNet"),
        ),
        leaves=dict.fromkeys(
            ("smoke", "small"),
            (
                "sources are small networks on rendered letters, 16 x 16, instead of ResNet-50 on ImageNet",
                "the target is scikit-learn's digits instead of MNIST",
                "only a new head is trained, from torch's initialisation, with frozen statistics, instead of three blocks",
            ),
        ),
        note="Spreads of the gains are standard errors over sources and label subsets.",
    )
]
