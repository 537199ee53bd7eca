r"""Shape or texture: what an image classifier reads, seen from what it loses.

    low-pass       x ← upscale(downscale(x, 1/f), f)       texture goes, shape stays
    patch shuffle  the g × g patches of x change places    shape goes, texture stays

Source: the question of Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869 (low-resolution and stylised
targets); the patch shuffle is Zhang and Zhu's, arXiv:1905.09797.
Differs from the released code: stylised sets are made outside it; these two tests need nothing but the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Integer
from .._errors import ArgumentError
from .._results import Result
from .._rng import torch_stream
from .curve import accuracy_of
from .parts import labelled


@dataclass(frozen=True)
class ShapeTexture(Result):
    """Accuracy without texture and without shape.

    Attributes:
        factors: Low-pass factors; 1 leaves the image as it is.
        low_pass: Accuracy at each.
        grids: Patches along a side; 1 leaves the image as it is.
        patch_shuffle: Accuracy at each.
        n_samples: Images behind each.
    """

    factors: tuple[int, ...]
    low_pass: tuple[float, ...]
    grids: tuple[int, ...]
    patch_shuffle: tuple[float, ...]
    n_samples: int

    def plot(self, axes: Any = None, label: str = "", index: int = 0) -> Any:
        """Both curves, side by side; call again on the same axes with another label to compare."""
        from ..report.figures import new_figure, style

        axes = new_figure(1, 2, width=8.0, sharey=True)[1] if axes is None else axes
        axes[0].plot(self.factors, self.low_pass, label=label or None, **style(index))
        axes[0].set(xlabel="low-pass factor", ylabel="accuracy", title="texture taken away", xticks=self.factors)
        axes[1].plot(self.grids, self.patch_shuffle, label=label or None, **style(index))
        axes[1].set(xlabel="patches along a side", title="shape taken away", xticks=self.grids)
        return axes


def low_pass(x: Tensor, factor: int) -> Tensor:
    """Images ``(B, C, H, W)`` averaged down by ``factor`` and brought back bilinearly.

    Raises:
        ArgumentError: No image, or a factor above its shorter side.
    """
    _check(x, factor, "factor")
    if factor == 1:
        return x
    H, W = x.shape[2:]
    small = F.interpolate(x, size=(max(1, H // factor), max(1, W // factor)), mode="area")
    return F.interpolate(small, size=(H, W), mode="bilinear", align_corners=False)


def shuffle_patches(x: Tensor, grid: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Images ``(B, C, H, W)`` whose ``grid × grid`` patches changed places, each image in its own way.

    Pixels beyond the last whole patch stay where they are.

    Raises:
        ArgumentError: No image, or more patches than pixels.
    """
    _check(x, grid, "grid")
    if grid == 1:
        return x
    B, C, H, W = x.shape
    h, w = H // grid, W // grid
    core = x[:, :, : h * grid, : w * grid].reshape(B, C, grid, h, grid, w).permute(0, 2, 4, 1, 3, 5)
    tiles = core.reshape(B, grid * grid, C, h, w)
    order = torch.rand(B, grid * grid, generator=generator).argsort(1).to(x.device)
    tiles = tiles[torch.arange(B, device=x.device)[:, None], order]
    whole = tiles.reshape(B, grid, grid, C, h, w).permute(0, 3, 1, 4, 2, 5).reshape(B, C, h * grid, w * grid)
    out = x.clone()
    out[:, :, : h * grid, : w * grid] = whole
    return out


def _check(x: Any, value: int, name: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        raise ArgumentError("shape_texture: images must be a floating tensor (B, C, H, W)")
    Integer(low=1, high=min(x.shape[2:])).check(name, value, "shape_texture")


def shape_texture(
    model: Callable[[Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    *,
    factors: Sequence[int] = (1, 2, 4),
    grids: Sequence[int] = (1, 2, 4),
    seed: int = 0,
) -> ShapeTexture:
    """Accuracy of an image classifier with texture taken away, and with shape taken away.

    Args:
        model: From images to logits.
        data: Images ``(N, C, H, W)`` and labels.
        factors: Low-pass factors.
        grids: Patches along a side.
        seed: Seed of the shuffles.

    Raises:
        ArgumentError: No images, or a factor or grid above their shorter side.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> x = torch.zeros(4, 1, 4, 4)
        >>> x[2:, :, :2] = 1.0  # the upper half is bright or not: a shape
        >>> top = lambda x: x[:, 0, 0].mean(1)
        >>> model = lambda x: torch.stack([-top(x), top(x) - 1], 1)
        >>> found = shape_texture(model, (x, torch.tensor([0, 0, 1, 1])))
        >>> found.low_pass[0], found.n_samples
        (1.0, 4)
    """
    where = "shape_texture"
    x, y = labelled(data, where)
    smooth = tuple(accuracy_of(model, low_pass(x, f), y, where=where) for f in factors)
    broken = []
    for g in grids:
        shuffled = shuffle_patches(x, g, generator=torch_stream(seed, "patches", g))
        broken.append(accuracy_of(model, shuffled, y, where=where))
    return ShapeTexture(tuple(factors), smooth, tuple(grids), tuple(broken), len(y))
