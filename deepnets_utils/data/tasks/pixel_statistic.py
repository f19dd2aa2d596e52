"""Regression of a statistic of an image's pixels."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.data.loading import Images
from deepnets_utils.data.tasks.task import Split, divided, register_task
from deepnets_utils.runs.run import NonNegativeInt


@register_task(version=1, name="pixel_statistic")
@dataclass(frozen=True, kw_only=True)
class PixelStatistic:
    """Regression of one statistic of an image's pixels, scaled to [0, 1].

    statistic: "mean", "median" (the lower of the two middle values) or "std" (unbiased, N-1). train_size: images
    to train on, 0 for all that are left. validation_size: images taken from the training set, from 0.
    Inputs: float32 [N, 1, H, W]. Targets: float32 [N]. Source: go_deep, Sections 3.2 and 3.3.
    """

    statistic: Literal["mean", "median", "std"] = "mean"
    train_size: NonNegativeInt = 0
    validation_size: NonNegativeInt = 5000
    measures = ("mse",)
    described = tuple(f"target_{name}" for name in ("mean", "std", "median", "skewness", "zero_fraction", "histogram"))

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        parts = divided(len(images.train_images), self.train_size, self.validation_size, data_seed)
        splits = {name: self._split(images.train_images[indices]) for name, indices in parts.items()}
        return splits | {"test": self._split(images.test_images)}

    def _split(self, images: Tensor) -> Split:
        pixels = images.flatten(1)
        if self.statistic == "median":
            targets = pixels.median(1).values.double() / 255
        else:
            exact = pixels.double() / 255
            targets = exact.mean(1) if self.statistic == "mean" else exact.std(1)
        return Split(images.float() / 255, targets.float())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(-1), targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        return {"mse": (outputs.squeeze(-1).double() - targets.double()).square().mean().item()}

    def describe(self, targets: Tensor) -> dict[str, Any]:
        """Return the targets' size, and what `described` names: std with N-1, skewness of the moments.

        The histogram has 50 bins of width 0.02 over [0, 1], as Figure 2 of go_deep.
        """
        exact = targets.double()
        centred = exact - exact.mean()
        return {
            "size": len(exact),
            "target_mean": exact.mean().item(),
            "target_std": exact.std().item(),
            "target_median": exact.median().item(),
            "target_skewness": (centred.pow(3).mean() / centred.square().mean().pow(1.5)).item(),
            "target_zero_fraction": (exact == 0).double().mean().item(),
            "target_histogram": torch.histc(targets.float(), bins=50, min=0, max=1).long().tolist(),
        }
