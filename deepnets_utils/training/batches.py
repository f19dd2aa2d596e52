"""What a network and its loss get: batches gathered, augmented, normalised, with a teacher's outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from deepnets_utils.data.augment import build_augmentation
from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import Split
from deepnets_utils.runs.run import Run

Batch = tuple[Tensor, Tensor]  # inputs and targets


class Batches:
    """The batches of one run.

    teacher: the trained network of run.teacher, in evaluation mode on the splits' device; it sees the very batch
    that the student sees, and its logits, in float32, become columns 1, 2, ... of the targets, the label is column 0.
    """

    def __init__(self, runs: Sequence[Run], teacher: nn.Module | None = None) -> None:
        self.runs, self.size, self.teacher = runs, runs[0].batch_size, teacher
        self.augmentation = build_augmentation(runs[0].augmentation) if runs[0].augmentation else None

    def training(self, split: Split, orders: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) in the order of each run, int64 [N]; the last may be smaller.

        What the augmentation draws depends on the run's seed and the epoch alone.
        """
        [order], device = orders, split.inputs.device
        order = order.to(device)
        # The epoch is gathered once and then sliced: quicker on a CPU.
        inputs = channels_last(split.inputs[order]).split(self.size)
        [drawn] = self._drawn(split, orders, epoch)
        numbers = [None] * len(inputs) if drawn is None else drawn.to(device).split(self.size)
        for x, y, own in zip(inputs, split.targets[order].split(self.size), numbers, strict=True):
            pixels = split.pixels(x)
            x = split.normalised(pixels if own is None else self.augmentation.apply(pixels, own))
            yield x, y if self.teacher is None else self._taught(x, y)

    def in_order(self, split: Split) -> Iterator[Batch]:
        """Yield the batches of a split in its order, not augmented."""
        inputs = channels_last(split.inputs).split(self.size)
        for x, y in zip(inputs, split.targets.split(self.size), strict=True):
            yield split.normalised(split.pixels(x)), y

    def taught(self, split: Split) -> Split:
        """Return a split that is measured again and again with the teacher's logits in its targets."""
        return replace(split, targets=torch.cat([self._taught(x, y) for x, y in self.in_order(split)]))

    def _drawn(self, split: Split, orders: Sequence[Tensor], epoch: int) -> list[Tensor | None]:
        """Return the random numbers of each run's augmentation."""
        if self.augmentation is None:
            return [None] * len(self.runs)
        draws = [generator(f"augmentation of epoch {epoch}", run.seed) for run in self.runs]
        return [
            self.augmentation.draw(len(split), draw)[: len(order)] for draw, order in zip(draws, orders, strict=True)
        ]

    @torch.no_grad()
    def _taught(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.cat((labels[:, None].float(), self.teacher(x)), 1)


class StackedBatches(Batches):
    """The batches of R runs with one teacher or none side by side, [R, N, ...]; splits as `stack.side_by_side` has."""

    def training(self, split: Split, orders: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield each batch of an epoch as Batches does, of each run in its own order."""
        drawn = self._drawn(split, orders, epoch)
        parts = torch.stack(list(orders)).to(split.inputs.device).split(self.size, 1)
        numbers = [None] * len(parts)
        if self.augmentation is not None:
            numbers = torch.stack(drawn).to(split.inputs.device).split(self.size, 1)
        for index, own in zip(parts, numbers, strict=True):
            pixels, y = split.pixels(split.inputs[index]), split.targets[index]
            if own is not None:
                pixels = self.augmentation.apply(pixels.flatten(0, 1), own.flatten(0, 1)).unflatten(0, index.shape)
            x = split.normalised(pixels)
            if self.teacher is not None:  # one pass for all its students
                y = self._taught(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, index.shape)
            yield x, y

    def in_order(self, split: Split) -> Iterator[Batch]:
        """Yield the batches of a split in its order, not augmented."""
        rows = torch.arange(len(split), device=split.inputs.device).expand(len(self.runs), -1)
        for index in rows.split(self.size, 1):
            yield split.normalised(split.pixels(split.inputs[index])), split.targets[index]


def channels_last(images: Tensor) -> Tensor:
    """Return [N, C, H, W] in the memory format that convolutions are fastest in (1.3 times here on a CPU)."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
