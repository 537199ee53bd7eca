"""Image classifiers of continuous depth: stem, then x -> stitch(x) -> x(1) of dx/dt = scale R(x; theta(t)), three times.

R is two 3x3 convolutions with normalisation, in three orders: ``"v2"`` conv-ReLU-BN (ContinuousNet), ``"act_first"``
BN-ReLU-conv (ContinuousNet, deep and wide runs) and ``"stateful"`` BN-act-conv without biases (Stateful ODE-Nets).

Source: arXiv:2008.02389 (v2, act_first, wide), arXiv:2106.10820 (stateful).
Differs from the released code: running statistics are projected over depth by default (``state_update="sequential"`` is
the release's); the head's batch norm keeps 0.1 of the new batch, not 0.9 (``head_momentum``); skip-init of act_first
stitches acts (in the release it is assigned to an unused variable: ``stitch_gate=False``); so does the second batch norm
of v2 stitches (there it is registered and never called: ``stitch_norm=False``); strided convolutions pad
both sides equally in all variants; outputs are logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import Boolean, Integer, OneOf, Real, check
from ..numerics.basis import Basis, PiecewiseConstant
from .block import ContinuousBlock

VARIANTS = ("v2", "act_first", "stateful")
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
_RULES = {
    "in_channels": Integer(low=1),
    "num_classes": Integer(low=1),
    "channels": Integer(low=1),
    "widen": Integer(low=1),
    "segments": Integer(low=1),
    "variant": OneOf(VARIANTS),
    "activation": OneOf(tuple(ACTIVATIONS)),
    "skip_init": Boolean(),
    "stitch_norm": Boolean(),
    "head_momentum": Real(low=0, high=1),
}
_ONE_CELL = PiecewiseConstant(1)


def draw_convolution(conv: nn.Conv2d) -> None:
    """Weights N(0, 2 / (k k out)), bias 0."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class Gate(nn.Module):
    """Multiplication with one number that starts at 0 (skip-init)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the branch."""
        return self.weight * x


class ConvUnit(nn.Module):
    """Two 3x3 convolutions with normalisation: the rate R of an image block.

    Args:
        channels: Channels in and out.
        variant: Order of convolution, activation and normalisation.
        activation: ``"relu"`` or ``"gelu"``.
        skip_init: End with a gate that starts closed.
    """

    def __init__(
        self, channels: int, variant: str = "v2", activation: str = "relu", *, skip_init: bool = False
    ) -> None:
        super().__init__()
        bias = variant != "stateful"
        self.L1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.L2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.skip_init = Gate() if skip_init else None
        self.variant, self.activation = variant, activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions anew."""
        draw_convolution(self.L1)
        draw_convolution(self.L2)

    def forward(self, x: Tensor) -> Tensor:
        """The rate, ``(B, C, H, W)`` to the same."""
        act = ACTIVATIONS[self.activation]
        if self.variant == "v2":
            x = self.bn2(act(self.L2(self.bn1(act(self.L1(x))))))
        else:
            x = self.L2(act(self.bn2(self.L1(act(self.bn1(x))))))
        return x if self.skip_init is None else self.skip_init(x)


class Stitch(nn.Module):
    """One residual unit that changes width and resolution between two blocks.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride of the first convolution and of the shortcut.
        variant: As in :class:`ConvUnit`.
        activation: ``"relu"`` or ``"gelu"``.
        scale: Factor of the residual branch.
        gate: End the branch with a gate that starts closed.
        norm: Whether the second norm of a v2 stitch acts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        variant: str,
        activation: str,
        scale: float,
        gate: bool,
        norm: bool,
    ) -> None:
        super().__init__()
        self.variant, self.activation, self.scale, self.norm = variant, activation, scale, norm
        bias = variant != "stateful"
        self.L1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=bias)
        self.L2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(out_channels if variant == "v2" else in_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        identity = variant == "stateful" and stride == 1 and in_channels == out_channels
        self.downsample = None if identity else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn_down = nn.BatchNorm2d(out_channels) if variant == "stateful" and not identity else None
        self.skip_init = Gate() if gate else None
        for conv in (self.L1, self.L2, self.downsample):
            if conv is not None:
                draw_convolution(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H / stride, W / stride)``."""
        act = ACTIVATIONS[self.activation]
        if self.variant == "v2":
            h = act(self.L2(self.bn1(act(self.L1(x)))))
            h = self.bn2(h) if self.norm else h
        else:
            h = self.L2(act(self.bn2(self.L1(act(self.bn1(x))))))
        if self.skip_init is not None:
            h = self.skip_init(h)
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.bn_down is not None:
            shortcut = self.bn_down(shortcut)
        return torch.add(shortcut, h, alpha=self.scale)


class ContinuousNet(nn.Module):
    """An image classifier whose residual stages are blocks of continuous depth.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        channels: Width of the first segment; each further one doubles it.
        basis: Functions of depth of all blocks; ``basis.K`` units in each segment.
        solver: Scheme of all blocks.
        n_steps: Steps of all blocks; one for each cell when left out.
        scale: Factor of the rates (epsilon); the number of steps gives a residual network's scaling.
        variant: ``"v2"``, ``"act_first"`` or ``"stateful"``.
        activation: ``"relu"`` or ``"gelu"``.
        widen: Factor of all widths except the stem's.
        segments: Number of blocks; the resolution is halved between them.
        skip_init: End every residual branch with a gate that starts closed.
        stitch_gate: Whether gates stand in the stitches too; as ``skip_init`` when left out.
        stitch_norm: Whether the second norm of v2 stitches acts; ``False`` reproduces the release.
        head_momentum: Momentum of the head's batch norm (``act_first`` and ``stateful``).
        **block: Further options of :class:`ContinuousBlock`.

    Shape:
        Input ``(B, in_channels, H, W)``, output logits ``(B, num_classes)``.

    Raises:
        ArgumentError: A value that does not fit.

    Source:
        arXiv:2008.02389, arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousNet, PiecewiseConstant
        >>> net = ContinuousNet(3, 10, basis=PiecewiseConstant(2), solver="rk4")
        >>> sum(p.numel() for p in net.parameters())
        273210
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        channels: int = 16,
        basis: Basis = _ONE_CELL,
        solver: str = "rk4",
        n_steps: int | None = None,
        scale: float = 1.0,
        variant: str = "v2",
        activation: str = "relu",
        widen: int = 1,
        segments: int = 3,
        skip_init: bool = False,
        stitch_gate: bool | None = None,
        stitch_norm: bool = True,
        head_momentum: float = 0.1,
        **block: Any,
    ) -> None:
        super().__init__()
        check(_RULES, locals(), type(self).__name__)
        widths = [channels * widen * 2**i for i in range(segments)]
        init = "constant" if variant == "stateful" else "independent"
        options = {"solver": solver, "n_steps": n_steps, "scale": scale, "init": init, **block}
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        draw_convolution(self.stem)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.stitches, self.blocks = nn.ModuleList(), nn.ModuleList()
        gate = skip_init if stitch_gate is None else stitch_gate
        before = channels
        for i, width in enumerate(widths):
            rate = ConvUnit(width, variant, activation, skip_init=skip_init)
            made = ContinuousBlock(rate, basis, **options)
            # frozen at construction: refinement leaves the stitches alone
            part = scale / made.n_steps
            stride = 1 if i == 0 else 2
            self.stitches.append(Stitch(before, width, stride, variant, activation, part, gate, stitch_norm))
            self.blocks.append(made)
            before = width
        self.head_norm = None if variant == "v2" else nn.BatchNorm2d(before, momentum=head_momentum)
        self.head = nn.Linear(before, num_classes)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images ``(B, C, H, W)``.

        Returns:
            Logits ``(B, num_classes)``.
        """
        x = ACTIVATIONS[self.activation](self.stem_norm(self.stem(x)))  # (B, C, H, W)
        for stitch, block in zip(self.stitches, self.blocks):
            x = block(stitch(x))
        if self.head_norm is not None:
            x = self.head_norm(x)
        return self.head(x.mean((2, 3)))  # (B, num_classes)


class WideContinuousNet(ContinuousNet):
    """:class:`ContinuousNet` with ``widen`` times the channels, BN-ReLU-conv order.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        widen: Factor of all widths except the stem's.
        **options: Further options of :class:`ContinuousNet`.

    Source:
        arXiv:2008.02389.

    Example:
        >>> from gyrostat import PiecewiseConstant, WideContinuousNet
        >>> net = WideContinuousNet(3, 100, basis=PiecewiseConstant(8), solver="euler")
        >>> sum(p.numel() for p in net.parameters())
        13630676
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10, *, widen: int = 4, **options: Any) -> None:
        super().__init__(in_channels, num_classes, widen=widen, **{"variant": "act_first", **options})
