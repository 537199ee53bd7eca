"""A small convolutional classifier for sources of transfer: three 3 x 3 convolutions, BN, ReLU; 2 x 2 average; linear.

Widths w, 2w, 4w with strides 1, 2, 2; any image from 4 x 4 up. For runs of minutes on a CPU; any module can be a source.
"""

from __future__ import annotations

from torch import Tensor, nn

from .._checks import Integer


class ConvNet(nn.Module):
    """The small source network.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        width: Channels w of the first convolution.

    Shape:
        Input ``(B, in_channels, H, W)`` in [0, 1], output logits ``(B, num_classes)``.

    Example:
        >>> ConvNet(1, 10)(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("width", width)):
            Integer(low=1).check(name, value, "ConvNet")
        sizes = (in_channels, width, 2 * width, 4 * width)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b, stride in zip(sizes, sizes[1:], (1, 2, 2))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16 * width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head is given, ``(B, 16 w)``."""
        return self.pool(self.blocks(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        return self.head(self.features(x))
