"""The Inception module with another kernel and with a residual connection; imported late, as torchvision is."""

from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception


class ResidualInception(Inception):
    """torchvision's Inception with the kernel of its third branch and what is added after the concatenation.

    The integers are those of torchvision's class. kernel: 3 or 5. residual: "none"; "identity", which adds the input
    where it has the output's shape; "projection", which elsewhere adds a 1x1 convolution of it with batch norm. The
    sum is not rectified: what the branches give and what the identity adds is not negative.
    """

    def __init__(self, in_channels: int, *channels: int, kernel: int, residual: str) -> None:
        super().__init__(in_channels, *channels)
        ch1x1, _, ch3x3, ch5x5red, ch5x5, pool_proj = channels
        if kernel != 3:
            self.branch3[1] = BasicConv2d(ch5x5red, ch5x5, kernel_size=kernel, padding=kernel // 2)
        out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj
        self.shortcut: nn.Module | None = None
        if residual != "none" and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif residual == "projection":
            projection = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels, eps=0.001))

    def forward(self, x: Tensor) -> Tensor:
        concatenated = super().forward(x)
        return concatenated if self.shortcut is None else concatenated + self.shortcut(x)
