"""Tasks: what is learned from a data set - inputs, targets, loss and metrics."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.data import Images
from deepnets_utils.models.siamese import PairLogits
from deepnets_utils.randomness import generator
from deepnets_utils.registry import Registry

TASKS = Registry("task")
task = TASKS.spec
register_task = TASKS.register
build_task = TASKS.build


@dataclass(frozen=True)
class Split:
    """inputs: float32 [N, ...]; targets: [N, ...] as the task defines them."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Split":
        return Split(self.inputs.to(device), self.targets.to(device))


class Task(Protocol):
    """What the training loop needs of a task."""

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        """Return "train", "test" and, where the task has one, "validation". Raises ValueError when too small."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def metrics(self, outputs: Any, targets: Tensor) -> dict[str, Any]:
        """Return the metrics of a whole split by name, each a number or a list of numbers."""


@register_task(version=1, name="digit_pairs")
@dataclass(frozen=True, kw_only=True)
class DigitPairs:
    """Pairs of digits at half size; is the first one less than or equal to the second?

    auxiliary: weight of the two digits' cross-entropies in the loss, from 0. train_size, test_size: pairs,
    from 1; every image is used at most once. test_inputs: "standardised" with the training pairs' mean and
    deviation, or "raw" (0 to 255, what the authors' code does by accident).
    Inputs: float32 [N, 2, 14, 14], standardised. Targets: int64 [N, 3]: first <= second, first, second.
    Source: siamese, Sections I and III; the draw is that of the authors' code (a permutation's first 2 N).
    """

    auxiliary: float = 0.0
    train_size: int = 1000
    test_size: int = 1000
    test_inputs: str = "standardised"

    def __post_init__(self) -> None:
        if self.auxiliary < 0:
            raise ValueError(f"auxiliary must not be below 0, it is {self.auxiliary}")
        if min(self.train_size, self.test_size) < 1:
            raise ValueError("train_size and test_size must be at least 1")
        if self.test_inputs not in ("standardised", "raw"):
            raise ValueError(f"test_inputs must be standardised or raw, not {self.test_inputs!r}")

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        # One generator seeded with the plain number, first training then test pairs: as in the authors' code,
        # where data_seed 0 gives their very pairs.
        draw = torch.Generator().manual_seed(data_seed)
        train = self._pairs(images.train_images, images.train_labels, self.train_size, draw)
        test = self._pairs(images.test_images, images.test_labels, self.test_size, draw)
        mean, deviation = train.inputs.mean(), train.inputs.std()
        standardised = Split((train.inputs - mean) / deviation, train.targets)
        if self.test_inputs == "standardised":
            test = Split((test.inputs - mean) / deviation, test.targets)
        return {"train": standardised, "test": test}

    @staticmethod
    def _pairs(images: Tensor, labels: Tensor, size: int, draw: torch.Generator) -> Split:
        if 2 * size > len(images):
            raise ValueError(f"{size} pairs need {2 * size} images, the split has {len(images)}")
        chosen = torch.randperm(len(images), generator=draw)[: 2 * size]
        halved = F.avg_pool2d(images[chosen].float(), 2)
        classes = labels[chosen].view(size, 2)
        target = (classes[:, :1] <= classes[:, 1:]).long()
        return Split(halved.view(size, 2, *halved.shape[-2:]), torch.cat((target, classes), 1))

    def loss(self, outputs: PairLogits, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs.comparison, targets[:, 0])
        if self.auxiliary:
            first = F.cross_entropy(outputs.digits[:, 0], targets[:, 1])
            second = F.cross_entropy(outputs.digits[:, 1], targets[:, 2])
            loss = loss + self.auxiliary * (first + second)
        return loss

    def metrics(self, outputs: PairLogits, targets: Tensor) -> dict[str, Any]:
        """Return error and digit_error in percent, error_by_distance in percent and pairs_by_distance.

        The last two are lists over |first - second| = 0..9; NaN where there is no such pair.
        """
        wrong = (outputs.comparison.argmax(1) != targets[:, 0]).double()
        misread = outputs.digits.argmax(2) != targets[:, 1:]
        distance = (targets[:, 1] - targets[:, 2]).abs()
        pairs = torch.bincount(distance, minlength=10)
        by_distance = 100 * torch.bincount(distance, wrong, minlength=10) / pairs
        return {
            "error": 100 * wrong.sum().item() / len(wrong),
            "digit_error": 100 * misread.sum().item() / misread.numel(),
            "error_by_distance": by_distance.tolist(),
            "pairs_by_distance": pairs.tolist(),
        }


@register_task(version=1, name="pixel_statistic")
@dataclass(frozen=True, kw_only=True)
class PixelStatistic:
    """Regression of one statistic of an image's pixels, scaled to [0, 1].

    statistic: "mean", "median" (the lower of the two middle values) or "std" (unbiased, N-1). train_size: images
    to train on, 0 for all that are left. validation_size: images taken from the training set, from 0.
    Inputs: float32 [N, 1, H, W]. Targets: float32 [N]. Source: go_deep, Sections 3.2 and 3.3.
    """

    statistic: str = "mean"
    train_size: int = 0
    validation_size: int = 5000

    def __post_init__(self) -> None:
        if self.statistic not in ("mean", "median", "std"):
            raise ValueError(f"statistic must be mean, median or std, not {self.statistic!r}")
        if min(self.train_size, self.validation_size) < 0:
            raise ValueError("train_size and validation_size must not be below 0")

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        available = len(images.train_images) - self.validation_size
        train_size = self.train_size or available
        if not 0 < train_size <= available:
            raise ValueError(
                f"train_size {self.train_size} and validation_size {self.validation_size} do not fit into "
                f"{len(images.train_images)} training images"
            )
        order = torch.randperm(len(images.train_images), generator=generator("split", data_seed))
        parts = {"train": images.train_images[order[self.validation_size :][:train_size]]}
        if self.validation_size:
            parts["validation"] = images.train_images[order[: self.validation_size]]
        parts["test"] = images.test_images
        return {name: self._split(part) for name, part in parts.items()}

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
        """Return the targets' size, mean, std (N-1), median, skewness, zero_fraction and histogram.

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
