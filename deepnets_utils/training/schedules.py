"""Schedules by name: how the learning rate changes from epoch to epoch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from deepnets_utils.runs.registry import Registry
from deepnets_utils.runs.run import Limits, NonNegativeInt, PositiveInt

Factor = Annotated[float, Limits(above=0, below=1)]
LooksAt = Literal["validation_error", "validation_loss", "test_error", "test_loss"]

SCHEDULES = Registry("schedule")
schedule = SCHEDULES.spec
build_schedule = SCHEDULES.build


@dataclass(frozen=True)
class Schedule:
    """A change of the learning rate; start: makes PyTorch's scheduler, on: the number that it looks at, "" for none."""

    start: Callable[[Optimizer], LRScheduler]
    on: str = ""

    def rate(self, first: float, epoch: int, history: Mapping[str, Sequence[float]]) -> float:
        """Return the rate of an epoch, counted from 0.

        first: that of epoch 0, above 0. history: name to one number of each epoch before it.
        """
        holder = SGD([torch.zeros(())], lr=first)  # PyTorch's schedulers change an optimiser's rate
        scheduler = self.start(holder)
        holder.step()  # PyTorch warns of a scheduler that is stepped before its optimiser
        for past in range(epoch):
            scheduler.step(*([history[self.on][past]] if self.on else []))
        return holder.param_groups[0]["lr"]


@SCHEDULES.register(version=1)
def plateau(*, factor: Factor = 0.1, patience: NonNegativeInt = 5, on: LooksAt = "validation_error") -> Schedule:
    """Return the schedule of a rate times `factor` when a number has not fallen for more than `patience` epochs.

    on: the number's name in the history ("validation_error", or "test_error" of a Run with watch_test, as googlenet
    does). PyTorch's ReduceLROnPlateau with its defaults: an epoch counts as better when it is lower by 0.01 %, and
    a step that would change the rate by less than 1e-8 is not made.
    """
    return Schedule(functools.partial(ReduceLROnPlateau, factor=factor, patience=patience), on)


@SCHEDULES.register(version=1)
def steps(*, factor: Factor = 0.96, every: PositiveInt = 8) -> Schedule:
    """Return the schedule of a rate times `factor` after every `every` epochs."""
    return Schedule(functools.partial(StepLR, step_size=every, gamma=factor))
