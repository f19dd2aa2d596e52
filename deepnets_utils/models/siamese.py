"""Siamese networks that compare two digits: a branch an image, ten logits a branch, a small head on both.

Source: siamese, Section II and Table I. Parameter counts with a shared branch: Net 15,460 (15,604 with batch
norm in the head), LeNet5 62,520, LeNet5_FullyConv 63,092, ResNet 58,244. PyTorch's default initialisation.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deepnets_utils.data.tasks.digit_pairs import PairLogits
from deepnets_utils.models.registry import register_model
from deepnets_utils.models.residual import ResidualBlock


class Siamese(nn.Module):
    """Two branches, or one shared by both digits, and a head on their 20 concatenated logits.

    Input: float [N, 2, 14, 14]. With sharing the branch runs once per digit, so its batch norm sees the N
    first digits and the N second digits apart.
    """

    def __init__(self, branch: Callable[[], nn.Module], head: nn.Module, sharing: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branch() for _ in range(1 if sharing else 2))
        self.head = head

    def forward(self, pairs: Tensor) -> PairLogits:
        first = self.branches[0](pairs[:, :1])
        second = self.branches[-1](pairs[:, 1:])
        return PairLogits(self.head(torch.cat((first, second), 1)), torch.stack((first, second), 1))


def _head(batch_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    norm = [nn.BatchNorm1d(72)] if batch_norm else []
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(nn.Linear(20, 72), nn.ReLU(), *norm, *drop, nn.Linear(72, 2))


def _conv_pool(inputs: int, outputs: int, batch_norm: bool = True) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, 3), *norm, nn.MaxPool2d(2), nn.ReLU()]


@register_model(version=1)
def Net(*, sharing: bool = True, head_batch_norm: bool = False) -> Siamese:
    """Return the small network; `head_batch_norm` is what the authors' code has and the document's count lacks."""

    def branch() -> nn.Module:
        convolutions = [*_conv_pool(1, 16), *_conv_pool(16, 32), nn.Flatten()]
        return nn.Sequential(*convolutions, nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    return Siamese(branch, _head(batch_norm=head_batch_norm), sharing)


@register_model(version=1)
def LeNet5(*, sharing: bool = True, batch_norm: bool = True, dropout: float = 0.0) -> Siamese:
    """Return LeNet5; `batch_norm` after the convolutions, `dropout` after each hidden linear layer (Table II)."""

    def branch() -> nn.Module:
        drop = [nn.Dropout(dropout)] if dropout else []
        convolutions = [*_conv_pool(1, 32, batch_norm), *_conv_pool(32, 64, batch_norm), nn.Flatten()]
        hidden = [nn.Linear(256, 120), nn.ReLU(), *drop, nn.Linear(120, 84), nn.ReLU(), *drop]
        return nn.Sequential(*convolutions, *hidden, nn.Linear(84, 10))

    return Siamese(branch, _head(dropout=dropout), sharing)


@register_model(version=1)
def LeNet5_FullyConv(*, sharing: bool = True) -> Siamese:
    """Return LeNet5 with convolutions for its linear layers, each with ReLU then batch norm, logits included."""

    def conv_relu(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(), nn.BatchNorm2d(outputs)]

    def branch() -> nn.Module:
        convolutions = [*_conv_pool(1, 32), *_conv_pool(32, 64)]
        return nn.Sequential(
            *convolutions, *conv_relu(64, 120, 2), *conv_relu(120, 84, 1), *conv_relu(84, 10, 1), nn.Flatten()
        )

    return Siamese(branch, _head(batch_norm=True), sharing)


@register_model(version=1)
def ResNet(*, sharing: bool = True) -> Siamese:
    """Return the residual network: 32 channels at full size, three blocks, average pooling."""

    def branch() -> nn.Module:
        stem = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        blocks = [ResidualBlock(32, 32, bias=True) for _ in range(3)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    return Siamese(branch, _head(), sharing)
