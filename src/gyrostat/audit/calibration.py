"""Which noise clean models are asked with, and what is kept of their answers.

    white        white noise over uniform noise, 256 inputs, 12 levels, ε = .05
    structured   patches and waves over drawn textures, 512 inputs, 5 levels, ε = .02
    combined     both, 5 levels each, shares and peaks: see ``panel.py``
    inside       combined, and noise in the last features of an nn.Module: see ``stages.py``

Source: ours; arXiv:2008.00123 compares with no clean models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .._checks import OneOf, Real, check
from .._errors import ArgumentError
from .panel import Panel
from .reference import SOFTENING, Reference
from .stages import titrate_last_stage
from .titration import titrate

FEW_LEVELS = (0, 0.2, 0.5, 1.0, 2.0)
METHODS: dict[str, dict[str, Any]] = {
    "white": {"softening": SOFTENING},
    "structured": {
        "softening": 0.02, "base": "procedural", "noise_law": "mixed", "n": 512, "sigmas": FEW_LEVELS,
    },
}  # fmt: skip
COMBINED = (METHODS["structured"], {**METHODS["white"], "sigmas": FEW_LEVELS})
INSIDE_SOFTENING = 0.02


def calibrate(
    models: Iterable[Any] | Callable[[int], Any], n_models: int = 5, *, method: str = "white", **settings: Any
) -> Any:
    """Titrate clean models of one architecture and training recipe, and keep what they do as a reference.

    Args:
        models: The models, or a function from a seed 0, 1, ... to a trained model.
        n_models: How many to ask that function for.
        method: ``white``; for images ``structured``, which finds local triggers better; or ``combined``, both curves and
            the margins of their classes, which finds most (docs/audit.md), and with ``inside`` for an ``nn.Module``,
            noise in its last features, a little more.
        **settings: As in :func:`titrate`, and ``softening``; a model is asked the same way by ``Reference.ask``.

    Returns:
        A :class:`Reference`, or a ``Panel`` of them for ``combined`` and ``inside``; both have ``ask``, ``score`` and ``save``.

    Raises:
        ArgumentError: An unknown method, or another than ``white`` beside ``paper=True``; fewer than 3 models, or models with
            different numbers of classes.

    Example:
        >>> import torch
        >>> make = lambda seed: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
        >>> calibrate(make, 4, input_shape=(1, 4, 4), n=32).features.shape
        (4, 3, 4)
    """
    check({"method": OneOf((*METHODS, "combined", "inside")), "softening": Real(0, closed="neither")},
          {"method": method, "softening": settings.get("softening", SOFTENING)}, "calibrate")  # fmt: skip
    if settings.get("paper") and method != "white":
        raise ArgumentError(f"calibrate: paper=True names its own noise; it does not go with method={method!r}")
    several = method not in METHODS
    if several and settings.get("base_images") is not None:
        raise ArgumentError(
            f"calibrate: method={method!r} draws its own base inputs; with base_images use another method"
        )
    kinds = [{**given, **settings} for given in (COMBINED if several else (METHODS[method],))]
    softenings = [kind.pop("softening") for kind in kinds]
    within = {k: settings[k] for k in ("input_shape", "clip", "preprocess", "seed") if k in settings}
    made = (models(i) for i in range(n_models)) if callable(models) else iter(models)
    curves = []
    for model in made:
        curves.append([titrate(model, **kind) for kind in kinds])
        if method == "inside":
            curves[-1].append(titrate_last_stage(model, **within))
    if len(curves) < 3:
        raise ArgumentError(f"calibrate: at least 3 clean models are needed, got {len(curves)}")
    if method == "inside":
        softenings.append(INSIDE_SOFTENING)
    references = [Reference.of(list(c), e) for c, e in zip(zip(*curves, strict=True), softenings, strict=True)]
    if not several:
        return references[0]
    if any(r.peaks is None for r in references):
        raise ArgumentError(
            f"calibrate: method={method!r} compares scores, and the models answer labels only: use 'white'"
        )
    return Panel(tuple(references))
