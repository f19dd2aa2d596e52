"""The residual block that several families have."""

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a skip over both (He et al., 2016: ReLU after the addition).

    Float [N, inputs, H, W] to [N, outputs, H / stride, W / stride], rounded up. The skip is the identity where shapes
    are equal, else a 1x1 convolution with batch norm. bias: of the two convolutions; that of the skip has none.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            # Below 8 channels, channels_last, the backward pass of PyTorch 2.15's strided 1x1 convolution crashes on
            # processors without AVX-512. There the pixels are taken first: same numbers, but not the same bits.
            narrow = stride > 1 and inputs < 8
            taken = [nn.MaxPool2d(1, stride)] if narrow else []
            convolution = nn.Conv2d(inputs, outputs, 1, 1 if narrow else stride, bias=False)
            self.skip = nn.Sequential(*taken, convolution, nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.layers(features) + self.skip(features))
