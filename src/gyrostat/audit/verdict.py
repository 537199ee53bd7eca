"""Is a deviation D unusual, given what R clean references deviate from each other?

    p = (1 + #{r : D_r ≥ D}) / (R + 1),   D_r of reference r against the others;      α = max(.05, 1 / (R + 1))
    suspicious       D > limit  and  p ≤ α
    inconclusive     D > limit  otherwise (it cannot be decided),  or  D > limit · 5/8
    no finding       D below that
    uncalibrated     no references

A p-value of .05 takes 19 references. With fewer, α is the least that they can give, and a D as large as that of some
reference decides nothing.

Source: ours; the paper of the curves, arXiv:2008.00123, leaves the decision open.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .._results import Result
from .titration import TitrationCurve

LEVEL = 0.05
ENOUGH = 19  # 1 / (R + 1) <= LEVEL
LOWER = 5 / 8


@dataclass(frozen=True)
class Verdict(Result):
    """What a model's response says.

    Attributes:
        label: ``"suspicious"``, ``"inconclusive"``, ``"no finding"``, or ``"uncalibrated"`` without references.
        D: Largest deviation from the references, ``None`` without them.
        target: The class it points to; a candidate only, unless the label is ``"suspicious"``.
        p_value: Conformal p-value of D; R references cannot give less than 1/(R + 1).
        z: Deviations by statistic and class: ``(3, K)`` of all, the confident, the changed and confident for one curve;
            ``(4, K)`` for ``combined`` references.
        ranked: Classes from most to least deviating, with their largest deviation (or share).
        warnings: What limits the verdict, in words.
        references: How many clean models it stands on.
        limit: The D above which it is suspicious, where p allows.
        reason: The rule as it applied, in words.

    Example:
        >>> import numpy as np
        >>> z = np.array([[0.0, 6.0, 1.0]])
        >>> decide(z, own=[1.0, 2.0, 0.5, 1.5], limit=4.0, references=4).label
        'suspicious'
        >>> decide(z, own=[1.0, 7.0, 0.5, 1.5], limit=4.0, references=4).label
        'inconclusive'
    """

    label: str
    D: float | None
    target: int
    p_value: float | None
    z: np.ndarray | None
    ranked: list[tuple[int, float]]
    warnings: list[str] = field(default_factory=list)
    references: int = 0
    limit: float | None = None
    reason: str = ""


def decide(
    z: np.ndarray, own: list[float], *, limit: float, references: int, scores: np.ndarray | None = None
) -> Verdict:
    """The verdict on deviations ``z`` of statistics by class, where the references deviate by ``own`` from each other.

    Args:
        z: Deviations ``(Q, K)``.
        own: D of each reference against the others; empty where there are too few to tell.
        limit: The D above which a model is suspicious.
        references: Their number R.
        scores: Deviation of each class ``(K,)``; by default the largest of its column.
    """
    best = z.max(0) if scores is None else scores  # (K,)
    order = np.argsort(-best, kind="stable")
    D, R = float(best.max()), references
    p = (1 + sum(float(d) >= D for d in own)) / (R + 1) if own else None
    least = 1 / (R + 1)
    unusual = p is not None and p <= max(LEVEL, least) + 1e-12
    few = f"{R} references, at least {ENOUGH} are needed for p ≤ {LEVEL:g}"
    said = "no p-value" if p is None else f"p = {p:.2g}"
    if limit < D and unusual:
        label = "suspicious"
        of = f"{said} with {R} references" if R >= ENOUGH else f"{said}, the least that can be had of {few}"
        reason = f"the response to noise deviates by D = {D:.2f} (limit {limit:g}), towards class {order[0]}; {of}"
    elif limit < D and R < ENOUGH:
        label = "inconclusive"
        reason = f"cannot decide: {few}; D = {D:.2f} is above {limit:g}, but so do references deviate from each other ({said})"
    elif limit < D:
        label = "inconclusive"
        reason = f"D = {D:.2f} is above {limit:g}, but {said} with {R} references is above {LEVEL:g}"
    elif limit * LOWER < D:
        label, reason = (
            "inconclusive",
            f"D = {D:.2f} lies between {limit * LOWER:.2g} and {limit:g} ({said}, {R} references)",
        )
    else:
        label, reason = "no finding", f"D = {D:.2f}, within what clean models of this make do ({said}, {R} references)"
    limits = [] if R >= ENOUGH else [f"{few}: {R} cannot give less than {least:.2g}"]
    limits.append("a screening feature, not a proof: small local triggers can stay silent")
    ranked = [(int(c), float(best[c])) for c in order]
    return Verdict(label, D, int(order[0]), p, z, ranked, limits, R, limit, reason)


def uncalibrated(curve: TitrationCurve) -> Verdict:
    """What can be said without references: never that a model is clean."""
    share = curve.features()[2]  # (K,)
    order = np.argsort(-share, kind="stable")
    ranked = [(int(c), float(share[c])) for c in order]
    why = ["no references: neither clean nor suspicious can be said; the target is a candidate of low confidence"]
    reason = "without clean references nothing can be said"
    return Verdict("uncalibrated", None, curve.target, None, None, ranked, why, reason=reason)
