"""Noise inside: poured into the features that a network's last linear layer reads, instead of into its input.

    a_i = features of base input i (N, F);     â_i(σ) = a_i + σ d ⊙ η_i,   d the deviation of each feature, η ~ N(0, I)
    scores = W max(â, 0) + b  where all features are >= 0 (they come from a ReLU), else W â + b;      counted as in titration

What a small trigger switches on stands among these features, and need not be met by noise on the input. It needs an
``nn.Module`` whose answer is that of its last ``nn.Linear``; a file that is asked from outside has no inside.

Source: ours; the curve is that of arXiv:2008.00123.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ArgumentError, ModelError
from .._rng import torch_stream
from .bases import data_free
from .predictor import Predictor
from .titration import TitrationCurve, titrate

LEVELS = (0.0, 1.0, 2.0, 4.0, 8.0)


def titrate_last_stage(
    model: nn.Module,
    *,
    input_shape: tuple[int, ...],
    n: int = 128,
    clip: tuple[float, float] | None = (0.0, 1.0),
    preprocess: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> TitrationCurve:
    """The curve of noise in the features before the last linear layer, over drawn textures.

    Args:
        model: A classifier that ends in ``nn.Linear``.
        input_shape: ``(C, H, W)`` of one image.
        n: Number of base inputs.
        clip: Range of an input.
        preprocess: Applied to the base inputs (normalisation).
        seed: Of the base and of the noise.

    Returns:
        A curve whose levels are multiples of each feature's deviation.

    Raises:
        ArgumentError: The model is no ``nn.Module``, or its answer is not that of a linear layer.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
        >>> titrate_last_stage(net, input_shape=(1, 8, 8)).counts.sum(1).tolist()
        [128, 128, 128, 128, 128]
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "noise inside needs an nn.Module, and this model is asked from outside: use method='combined'"
        )
    x = data_free("procedural", n, tuple(input_shape), seed)
    x = x if clip is None else clip[0] + (clip[1] - clip[0]) * x
    head, features = _before_the_last(model, x, preprocess)
    low, device = float(features.min()), head.weight.device
    eta = torch.randn(features.shape, generator=torch_stream(seed, "eta", "last stage")) * features.std(0)
    curve = titrate(
        head, features, noise=eta, sigmas=LEVELS, clip=None, device=device,
        preprocess=(lambda a: a.clamp_min(0)) if low >= 0 else None,
    )  # fmt: skip
    settings = {
        "stage": "last", "n": n, "seed": seed, "sigmas": list(LEVELS), "input_shape": list(input_shape),
        "clip": None if clip is None else list(map(float, clip)), "features": features.shape[1], "classes": curve.classes,
    }  # fmt: skip
    return dataclasses.replace(curve, settings=settings)


def _before_the_last(model: nn.Module, x: Tensor, preprocess: Any) -> tuple[nn.Linear, Tensor]:
    """The last linear layer that runs, and what it reads ``(N, F)`` for inputs ``x``."""
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def note(layer: nn.Module, given: Any, out: Any) -> None:
        seen.append((layer, given[0].detach(), out.detach()))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    asker, features, head = Predictor(model, preprocess=preprocess, outputs="logits"), [], None
    try:
        with asker.session():
            for part in x.split(64):
                seen.clear()
                _, _, scores = asker.ask(part)
                if not seen or scores is None or not _same(seen[-1][2], scores):
                    raise ModelError("noise inside needs a model that answers what its last nn.Linear does")
                head, given, _ = seen[-1]
                features.append(given.cpu().float())
    finally:
        for hook in hooks:
            hook.remove()
    assert head is not None
    return head, torch.cat(features)


def _same(out: Tensor, scores: Tensor) -> bool:
    return out.shape == scores.shape and torch.equal(out.cpu().to(scores), scores)
