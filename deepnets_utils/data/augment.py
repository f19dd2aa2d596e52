"""Augmentations by name: random changes of training images, batched on the device, each image its own.

`draw` returns the random numbers of `count` images, float32 [count, K], on the CPU; `apply` the changed images, from
pixels, float32 [N, C, H, W] in 0..1, and those images' numbers, [N, K].
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.runs.registry import Registry
from deepnets_utils.runs.run import Limits, NonNegativeInt

AUGMENTATIONS = Registry("augmentation")
augmentation = AUGMENTATIONS.spec
build_augmentation = AUGMENTATIONS.build


@AUGMENTATIONS.register(version=1, name="flip_crop")
@dataclass(frozen=True, kw_only=True)
class FlipCrop:
    """Horizontal flip of every other image by chance, and a crop of the image with `padding` black pixels around it.

    padding: from 0. Source: distillation, Section 3 (which does not say the padding; 4 is the usual one).
    """

    padding: NonNegativeInt = 4

    def draw(self, count: int, draw: torch.Generator) -> Tensor:
        flips = torch.randint(2, (count, 1), generator=draw)
        places = torch.randint(2 * self.padding + 1, (count, 2), generator=draw)
        return torch.cat((flips, places), 1).float()

    def apply(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        n, _, height, width = pixels.shape
        flip, top, left = drawn.long()[..., None].unbind(1)
        rows = torch.arange(height, device=pixels.device) + top
        columns = torch.arange(width, device=pixels.device)
        columns = torch.where(flip == 1, width - 1 - columns, columns) + left
        image = torch.arange(n, device=pixels.device)[:, None, None]
        padded = F.pad(pixels, [self.padding] * 4).permute(0, 2, 3, 1)
        return padded[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


TRIES = 10  # of a crop that fits into the image, before the whole image is taken, as in torchvision
LONGEST = 4 / 3  # the largest aspect ratio of a crop, and its inverse the smallest, as in torchvision
GREY = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision


@AUGMENTATIONS.register(version=1, name="flip_rotate_crop_jitter")
@dataclass(frozen=True, kw_only=True)
class FlipRotateCropJitter:
    """Horizontal flip of every other image by chance, rotation, resized crop and colour jitter, in this order.

    rotation: the largest angle either way, in degrees from 0 to 180; what comes in at the corners is black.
    smallest_scale: the smallest area of the crop as a share of the image's, above 0 to 1; its aspect ratio is 3/4 to
    4/3, and it is resized to the image's size. jitter: brightness, contrast and saturation are multiplied, in an order
    of chance, by 1 - jitter to 1 + jitter, from 0 to 1; the hue stays, as it does in ColorJitter unless asked.
    The distribution of torchvision's RandomHorizontalFlip, RandomRotation, RandomResizedCrop and ColorJitter, with
    one bilinear interpolation instead of two. Images of one or three channels; ValueError for others.
    Source: googlenet, Section 2.2, which gives no numbers and names the colour jitter before the crop.
    """

    rotation: Annotated[float, Limits(0, 180)] = 15.0
    smallest_scale: Annotated[float, Limits(above=0, high=1)] = 0.6
    jitter: Annotated[float, Limits(0, 1)] = 0.2

    def draw(self, count: int, draw: torch.Generator) -> Tensor:
        return torch.rand(count, 10 + 2 * TRIES, generator=draw)

    def apply(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        _, channels, height, width = pixels.shape
        if channels not in (1, 3):
            raise ValueError(f"images need 1 or 3 channels, these have {channels}")
        flips, angles = self.turns(drawn)
        grid = sampling_grid(flips, angles, self.crops(drawn, height, width), height, width)
        changed = F.grid_sample(pixels, grid, align_corners=False)
        return jittered(changed, *self.jitters(drawn)) if self.jitter else changed

    def turns(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether each image is flipped, bool [N], and its angle in degrees, float32 [N]."""
        return drawn[:, 0] < 0.5, self.rotation * (2 * drawn[:, 1] - 1)

    def jitters(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of brightness, contrast and saturation, float32 [N, 3], and their order, int64 [N, 3]."""
        return 1 + self.jitter * (2 * drawn[:, 2:5] - 1), drawn[:, 5:8].argsort(1)

    def crops(self, drawn: Tensor, height: int, width: int) -> Tensor:
        """Return top, left, height and width of each image's crop in whole pixels, float32 [N, 4]."""
        area = height * width * (self.smallest_scale + (1 - self.smallest_scale) * drawn[:, 10 : 10 + TRIES])
        ratio = LONGEST ** (2 * drawn[:, 10 + TRIES :] - 1)
        rows, columns = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
        first, found = fits.int().argmax(1, keepdim=True), fits.any(1)
        rows = torch.where(found, rows.gather(1, first).squeeze(1), float(height))
        columns = torch.where(found, columns.gather(1, first).squeeze(1), float(width))
        top, left = drawn[:, 8] * (height - rows + 1), drawn[:, 9] * (width - columns + 1)
        return torch.stack((top.floor(), left.floor(), rows, columns), 1)


def sampling_grid(flips: Tensor, angles: Tensor, crops: Tensor, height: int, width: int) -> Tensor:
    """Return grid_sample's grid, float32 [N, height, width, 2], of a flip, then a rotation, then a resized crop.

    The arguments are as FlipRotateCropJitter's methods return them; an angle above 0 turns against the clock.
    """
    top, left, rows, columns = crops[..., None].unbind(1)
    # Where the output's pixels lie in the rotated image, counted from its middle.
    y = (_resized(height, rows) + top - (height - 1) / 2)[:, :, None]
    x = (_resized(width, columns) + left - (width - 1) / 2)[:, None, :]
    radians = torch.deg2rad(angles)[:, None, None]
    sine, cosine = radians.sin(), radians.cos()
    across = torch.where(flips, -1.0, 1.0)[:, None, None] * (cosine * x - sine * y)
    return torch.stack((across * 2 / width, (sine * x + cosine * y) * 2 / height), 3)


def _resized(size: int, cropped: Tensor) -> Tensor:
    places = (torch.arange(size, device=cropped.device) + 0.5) * cropped / size - 0.5
    # Beyond a crop's last pixel there is that pixel again, and not its neighbour in the image.
    return torch.minimum(places.clamp(min=0), cropped - 1)


def jittered(pixels: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Return the images with brightness (0), contrast (1) and saturation (2) multiplied by `factors` in `order`."""
    weights = GREY if pixels.shape[1] == 3 else (1.0,)
    for kind in order.unbind(1):
        factor = factors.gather(1, kind[:, None])[..., None, None]
        kind = kind[:, None, None, None]
        grey = sum(weight * channel for weight, channel in zip(weights, pixels.split(1, 1), strict=True))
        # An image is mixed with black, with its mean grey or with its grey image.
        other = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((2, 3), keepdim=True), 0.0))
        pixels = (factor * pixels + (1 - factor) * other).clamp(0, 1)
    return pixels
