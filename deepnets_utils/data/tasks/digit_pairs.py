"""Pairs of digits to be compared."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.data.loading import Images
from deepnets_utils.data.tasks.task import Split, register_task
from deepnets_utils.runs.run import NonNegativeFloat, PositiveInt


class PairLogits(NamedTuple):
    """comparison: float [N, 2], logits of "first > second" and "first <= second".
    digits: float [N, 2, 10], logits of the classes of the first and the second digit."""

    comparison: Tensor
    digits: Tensor


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

    auxiliary: NonNegativeFloat = 0.0
    train_size: PositiveInt = 1000
    test_size: PositiveInt = 1000
    test_inputs: Literal["standardised", "raw"] = "standardised"
    measures = ("error", "digit_error")
    lists = ("error_by_distance", "pairs_by_distance")

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
