r"""What a feature looks for: the image that excites it, by projected gradient ascent.

    max_{x ∈ [0, 1]}  a_j(x),   x ← clip(x + η G/‖G‖₂),   G = ∇_x a_j       from noise or from an image

a_j is the j-th input of the head, averaged over its places. Robust sources answer with shapes, natural ones with noise.

Source: the feature visualisations of Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869 (an L2 attack with
a radius of 1,000, steps of 2).
Differs from the released code: any named layer, a step that scales with the image; the best iterate is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Integer, Real, check
from .._errors import ArgumentError
from .._results import Result
from .._rng import torch_stream
from ..perturb.attack import evaluation_mode, pgd
from .attribution import show_image
from .parts import head_name, module_of

_WHERE = "visualise_features"
_RULES = {"steps": Integer(low=1), "step_size": Real(low=0, closed="neither", optional=True), "seed": Integer()}


@dataclass(frozen=True)
class Visualised(Result):
    """Images that excite features.

    Attributes:
        images: ``(n, C, H, W)`` in [0, 1].
        start: Where they began.
        features: Which features.
        before: Activation at the start.
        after: Activation at the image.
        layer: Where the features are.
    """

    images: Tensor = field(repr=False)
    start: Tensor = field(repr=False)
    features: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    layer: str

    def plot(self) -> Any:
        """A figure: the images in a row, with their activations."""
        from ..report.figures import new_figure

        n = len(self.features)
        figure, axes = new_figure(1, n, width=1.5 * n, height=1.9)
        for ax, image, j, a, b in zip(axes, self.images, self.features, self.before, self.after):
            show_image(ax, image)
            ax.set_title(f"feature {j}\n{a:.2g} to {b:.2g}", fontsize=8, loc="center")
        return figure


def visualise_features(
    model: nn.Module,
    features: Sequence[int],
    *,
    shape: Sequence[int] | None = None,
    start: Tensor | None = None,
    layer: str | None = None,
    steps: int = 200,
    step_size: float | None = None,
    seed: int = 0,
) -> Visualised:
    """Images that excite features of a network.

    Args:
        model: An image network.
        features: Numbers of the features, one image each.
        shape: ``(C, H, W)`` of the images, which then start from dim noise around 0.5.
        start: Or one image ``(C, H, W)`` to start from, in [0, 1].
        layer: Module whose output is looked at, averaged over places; what the head is given when left out.
        steps: Steps of the ascent.
        step_size: Length of a step; a fiftieth of the square root of the number of pixels when left out.
        seed: Seed of the noise.

    Raises:
        ArgumentError: A feature that the layer does not have, an unknown layer, neither shape nor start.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> found = visualise_features(net, [0, 2], shape=(1, 2, 2), steps=5)
        >>> found.images.shape, all(b >= a for a, b in zip(found.before, found.after))
        (torch.Size([2, 1, 2, 2]), True)
    """
    check(_RULES, locals(), _WHERE)
    chosen = tuple(features)
    if not chosen or (shape is None) == (start is None):
        raise ArgumentError(f"{_WHERE}: give features, and shape=(C, H, W) or a start image, one of the two")
    like = next(model.parameters())
    if start is None:
        size = tuple(shape or ())
        noise = torch.rand(size, generator=torch_stream(seed, "visualise"))
        first = (0.5 + 0.2 * (noise - 0.5)).to(like)
    else:
        first = start.to(like)
    where = module_of(model, layer, _WHERE) if layer is not None else None
    seen: list[Any] = []
    if where is None:
        layer = head_name(model, None, _WHERE)
        handle = model.get_submodule(layer).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    else:
        handle = where.register_forward_hook(lambda m, inputs, output: seen.append(output))

    def activations(x: Tensor) -> Tensor:
        seen.clear()
        model(x)
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].ndim < 2:
            raise ArgumentError(f"{_WHERE}: {layer!r} must give one tensor (B, features, ...) per pass")
        return seen[0].flatten(2).mean(2) if seen[0].ndim > 2 else seen[0]

    x = first.expand(len(chosen), *first.shape).contiguous()
    which = torch.tensor(chosen, device=x.device)
    try:
        with evaluation_mode(model):
            try:
                with torch.no_grad():
                    width = activations(x[:1]).shape[1]
            except (RuntimeError, ValueError, TypeError) as error:
                if isinstance(error, ArgumentError):
                    raise
                raise ArgumentError(f"{_WHERE}: images {tuple(first.shape)} do not fit the model: {error}") from error
            for j in chosen:
                Integer(low=0, high=width - 1).check("features", j, _WHERE)
            eta = step_size if step_size is not None else first.numel() ** 0.5 / 50
            found = pgd(
                activations, x, which, norm="l2", eps=1e3 * first.numel() ** 0.5, steps=steps, step_size=eta,
                loss=lambda a, j: a.gather(1, j[:, None])[:, 0],
            )  # fmt: skip
            with torch.no_grad():
                ends = [activations(at).gather(1, which[:, None])[:, 0].tolist() for at in (x, found)]
    finally:
        handle.remove()
    return Visualised(found, x, chosen, tuple(ends[0]), tuple(ends[1]), str(layer))
