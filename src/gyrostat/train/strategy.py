"""Strategies by name, as the command line writes them: ``adversarial:norm=l2,eps=0.5,steps=3``.

A strategy lives where its method lives, in ``perturb`` or ``transfer``; a line here gives it a name. It is imported only
when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib

from .._checks import nearest
from .._errors import ArgumentError
from ..data.catalogue import parse_options
from ..perturb.strategy import Strategy

STRATEGIES = {
    "plain": "gyrostat.perturb.strategy:Plain",
    "adversarial": "gyrostat.transfer.adversarial:AdversarialTraining",
    "mixup": "gyrostat.perturb.mixing:Mixup",
}


def make_strategy(spec: str) -> Strategy:
    """The strategy that ``spec`` names.

    Args:
        spec: ``name`` or ``name:key=value,key=value``; the keys are the fields of its dataclass.

    Raises:
        ArgumentError: There is no such strategy, or it has no such setting.
    """
    name, _, tail = spec.partition(":")
    if name not in STRATEGIES:
        raise ArgumentError(
            f"--strategy: none is called {name!r}{nearest(name, STRATEGIES)}; there are {', '.join(STRATEGIES)}"
        )
    module, _, attribute = STRATEGIES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    given = parse_options(tail.split(","), "--strategy")
    accepted = [f.name for f in dataclasses.fields(kind) if f.init]
    for key in given:
        if key not in accepted:
            words = f"it has {', '.join(accepted)}" if accepted else "it has none"
            raise ArgumentError(f"--strategy: {name} has no setting {key!r}{nearest(key, accepted)}; {words}")
    try:
        return kind(**given)
    except TypeError as error:
        missing = [f.name for f in dataclasses.fields(kind) if f.init and f.name not in given]
        raise ArgumentError(f"--strategy: {name} needs {', '.join(missing)}: {error}") from error
