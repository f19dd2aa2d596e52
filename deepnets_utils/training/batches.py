"""What a network and its loss get: batches gathered, augmented, normalised, with a teacher's outputs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from deepnets_utils.data.augment import build_augmentation
from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import Split
from deepnets_utils.runs.run import Run

Batch = tuple[Tensor, Tensor]  # inputs and targets


class Batches:
    """The batches of one run, [N, ...]; stacked: of R runs side by side, [R, N, ...], of splits as `side_by_side` has.

    teacher: the trained network of run.teacher, in evaluation mode on the splits' device; it sees the very batch
    that the student sees, and its logits, in float32, become columns 1, 2, ... of the targets, the label is column 0.
    """

    def __init__(self, runs: Sequence[Run], teacher: nn.Module | None = None, stacked: bool = False) -> None:
        self.runs, self.size, self.teacher, self.stacked = runs, runs[0].batch_size, teacher, stacked
        self.augmentation = build_augmentation(runs[0].augmentation) if runs[0].augmentation else None

    def training(self, split: Split, orders: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) in the order of each run, int64 [N]; the last may be smaller.

        What the augmentation draws depends on the run's seed and the epoch alone.
        """
        numbers = itertools.repeat(None)
        if self.augmentation is not None:
            draws = [generator(f"augmentation of epoch {epoch}", run.seed) for run in self.runs]
            drawn = [self.augmentation.draw(len(split), draw)[: len(orders[0])] for draw in draws]
            numbers = self._together(drawn, split).split(self.size, int(self.stacked))
        for (x, y), own in zip(self._gathered(split, self._together(orders, split)), numbers, strict=False):
            pixels = split.pixels(x)
            if own is not None:
                pixels = self._flat(self.augmentation.apply, pixels, own)
            x = split.normalised(pixels)
            yield x, y if self.teacher is None else self._flat(self._taught, x, y)

    def in_order(self, split: Split) -> Iterator[Batch]:
        """Yield the batches of a split in its order, not augmented."""
        everything = slice(None)
        if self.stacked:
            everything = torch.arange(len(split), device=split.inputs.device).expand(len(self.runs), -1)
        for x, y in self._gathered(split, everything):
            yield split.normalised(split.pixels(x)), y

    def taught(self, split: Split) -> Split:
        """Return a split that is measured again and again with the teacher's logits in its targets."""
        return replace(split, targets=torch.cat([self._taught(x, y) for x, y in self.in_order(split)]))

    def _together(self, own: Sequence[Tensor], split: Split) -> Tensor:
        return (torch.stack(list(own)) if self.stacked else own[0]).to(split.inputs.device)

    def _gathered(self, split: Split, order: Tensor | slice) -> Iterator[Batch]:
        if self.stacked:
            return ((split.inputs[index], split.targets[index]) for index in order.split(self.size, 1))
        # The epoch is gathered once and then sliced: quicker on a CPU.
        inputs = channels_last(split.inputs[order]).split(self.size)
        return zip(inputs, split.targets[order].split(self.size), strict=True)

    def _flat(self, function: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
        """Return what a function of one run's batch gives, in one pass for all runs."""
        if not self.stacked:
            return function(first, second)
        return function(first.flatten(0, 1), second.flatten(0, 1)).unflatten(0, first.shape[:2])

    @torch.no_grad()
    def _taught(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.cat((labels[:, None].float(), self.teacher(x)), 1)


def channels_last(images: Tensor) -> Tensor:
    """Return [N, C, H, W] in the memory format that convolutions are fastest in (1.3 times here on a CPU)."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
