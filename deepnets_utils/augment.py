"""Augmentations by name: random changes of training images, batched on the device, each image its own."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deepnets_utils.registry import Registry

AUGMENTATIONS = Registry("augmentation")
augmentation = AUGMENTATIONS.spec
build_augmentation = AUGMENTATIONS.build


class Augmentation(Protocol):
    """What the training loop needs of an augmentation."""

    def draw(self, count: int, draw: torch.Generator) -> Tensor:
        """Return the random numbers of `count` images, float32 [count, K], on the CPU."""

    def apply(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Return the changed images; pixels: float32 [N, C, H, W] in 0..1; drawn: [N, K] of those images."""


@AUGMENTATIONS.register(version=1, name="flip_crop")
@dataclass(frozen=True, kw_only=True)
class FlipCrop:
    """Horizontal flip of every other image by chance, and a crop of the image with `padding` black pixels around it.

    padding: from 0. Source: distillation, Section 3 (which does not say the padding; 4 is the usual one).
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding must not be below 0, it is {self.padding}")

    def draw(self, count: int, draw: torch.Generator) -> Tensor:
        flips = torch.randint(2, (count, 1), generator=draw)
        places = torch.randint(2 * self.padding + 1, (count, 2), generator=draw)
        return torch.cat((flips, places), 1).float()

    def apply(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        n, _, height, width = pixels.shape
        flip, top, left = drawn.long().unbind(1)
        rows = torch.arange(height, device=pixels.device) + (top - self.padding)[:, None]
        columns = torch.arange(width, device=pixels.device)
        columns = torch.where(flip[:, None] == 1, width - 1 - columns, columns) + (left - self.padding)[:, None]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        image = torch.arange(n, device=pixels.device)[:, None, None]
        rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
        return (pixels.permute(0, 2, 3, 1)[image, rows, columns] * inside[..., None]).permute(0, 3, 1, 2)
