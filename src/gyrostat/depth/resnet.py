"""Residual networks to compare with: x ← x + R_i(x), unit after unit.

Source: the baselines of Continuous-in-Depth Neural Networks, arXiv:2008.02389.
Differs from the released code: nowhere known; strides and widths are the same for all three stages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import Integer
from .._errors import ArgumentError
from .convnet import draw_convolution


class _Unit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, act_first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=act_first)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=act_first)
        self.bn1 = nn.BatchNorm2d(in_channels if act_first else out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act_first = act_first
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=act_first)
            self.shortcut = conv if act_first else nn.Sequential(conv, nn.BatchNorm2d(out_channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_convolution(module)

    def forward(self, x: Tensor) -> Tensor:
        if self.act_first:
            h = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        else:
            h = self.bn2(F.relu(self.conv2(self.bn1(F.relu(self.conv1(x))))))
        return self.shortcut(x) + h


class ResNet(nn.Module):
    """A residual network of depth 6n + 2 (or 6n + 4 when wide) in the unit order of :class:`ContinuousNet`.

    Args:
        depth: Number of weighted layers: 20, 32, 50, 56 ...; wide: 16, 28, 58 ...
        in_channels: Channels of the images.
        num_classes: Number of classes.
        channels: Width of the first stage.
        widen: More than 1 makes it a wide residual network, BN-ReLU-conv.

    Shape:
        Input ``(B, in_channels, H, W)``, output logits ``(B, num_classes)``.

    Raises:
        ArgumentError: A depth that the formula does not give.

    Source:
        arXiv:2008.02389.

    Example:
        >>> from gyrostat import ResNet
        >>> sum(p.numel() for p in ResNet(20).parameters())
        272474
    """

    def __init__(
        self, depth: int = 20, in_channels: int = 3, num_classes: int = 10, *, channels: int = 16, widen: int = 1
    ) -> None:
        super().__init__()
        rules: dict[str, Any] = {"depth": depth, "channels": channels, "widen": widen, "num_classes": num_classes}
        for name, value in rules.items():
            Integer(low=1).check(name, value, "ResNet")
        rest = 4 if widen > 1 else 2
        if depth < 6 + rest or (depth - rest) % 6:
            near = max(round((depth - rest) / 6), 1) * 6 + rest
            raise ArgumentError(f"ResNet: depth must be 6 n + {rest}, got {depth}; use {near}")
        wide = widen > 1  # the wide baseline has biases in all convolutions
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=wide)
        draw_convolution(self.stem)
        self.stem_norm = None if wide else nn.BatchNorm2d(channels)
        units: list[nn.Module] = []
        before = channels
        for stage in range(3):
            width = channels * widen * 2**stage
            for i in range((depth - rest) // 6):
                units.append(_Unit(before, width, 2 if stage and not i else 1, wide))
                before = width
        self.units = nn.Sequential(*units)
        self.head_norm = nn.BatchNorm2d(before) if wide else None
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images ``(B, C, H, W)``.
        """
        x = self.stem(x)
        x = x if self.stem_norm is None else F.relu(self.stem_norm(x))
        x = self.units(x)
        x = x if self.head_norm is None else F.relu(self.head_norm(x))
        return self.head(x.mean((2, 3)))  # (B, num_classes)
