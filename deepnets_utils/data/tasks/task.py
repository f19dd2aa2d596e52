"""Tasks by name: what is learned from a data set - inputs, targets, loss and metrics."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from deepnets_utils.data.loading import Images
from deepnets_utils.data.randomness import generator
from deepnets_utils.runs.registry import Registry

TASKS = Registry("task")
task = TASKS.spec
register_task = TASKS.register
build_task = TASKS.build


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    inputs: float32 [N, ...], or uint8 images [N, C, H, W] that `pixels` turns into 0..1. targets: [N, ...] as the
    task defines them. mean, deviation: float32 [C, 1, 1], what `normalised` takes off and divides by; None for
    inputs that are as the network wants them.
    """

    inputs: Tensor
    targets: Tensor
    mean: Tensor | None = None
    deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Split":
        tensors = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **tensors)

    @staticmethod
    def pixels(inputs: Tensor) -> Tensor:
        """Return a batch of uint8 images as float32 in 0..1; anything else as it is."""
        return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return a batch as the network gets it."""
        return pixels if self.mean is None else (pixels - self.mean) / self.deviation


MAY_DIFFER = ("auxiliary", "distillation", "extended", "temperature")  # options that a student has of its own


class Task(Protocol):
    """What the training loop needs of a task.

    measures: the metrics that are one number; a schedule looks at one of them, keep_best at "error".
    A task may also have `lists`, the names of the metrics that are lists.
    """

    measures: tuple[str, ...]

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        """Return "train", "test" and, where the task has one, "validation". Raises ValueError for too few images."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def metrics(self, outputs: Any, targets: Tensor) -> dict[str, Any]:
        """Return the metrics of a whole split by name, each a number or a list of numbers."""


def divided(available: int, train_size: int, validation_size: int, data_seed: int) -> dict[str, Tensor]:
    """Return the indices, int64, of "train" and, from 1 on, "validation": a random split that data_seed decides.

    train_size: 0 for all that are left. The validation images are the same whatever train_size is.
    Raises ValueError where they do not fit into `available` images.
    """
    left = available - validation_size
    if not 0 < (train_size or left) <= left:
        raise ValueError(
            f"train_size {train_size} and validation_size {validation_size} do not fit into {available} training images"
        )
    order = torch.randperm(available, generator=generator("split", data_seed))
    parts = {"train": order[validation_size:][: train_size or left], "validation": order[:validation_size]}
    return {name: indices for name, indices in parts.items() if len(indices)}
