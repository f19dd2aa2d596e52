"""Schedules by name: how the learning rate changes from epoch to epoch."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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

    def step(self, scheduler: LRScheduler, history: Mapping[str, Sequence[float]]) -> None:
        """Set the next epoch's learning rate at the end of one; history: name to one number an epoch so far."""
        scheduler.step(*(history[self.on][-1:] if self.on else ()))


class Rates:
    """The learning rate of each run of a training, as its schedule changes it.

    first: of the first epoch, NaN of a run that is not trained. schedule: None for rates that stay.
    """

    def __init__(self, first: Sequence[float], schedule: Schedule | None) -> None:
        self.schedule = schedule
        # PyTorch's schedulers change an optimiser's rate: each run has one without weights.
        self.holders = [SGD([torch.zeros(())], lr=0.0 if math.isnan(rate) else rate) for rate in first]
        self.schedulers = [schedule.start(holder) for holder in self.holders] if schedule else []

    def now(self) -> list[float]:
        """Return the rates of the present epoch."""
        return [holder.param_groups[0]["lr"] for holder in self.holders]

    def step(self, number: int, history: Mapping[str, Sequence[float]]) -> None:
        """Set the next epoch's rate of one run; history: its own."""
        if self.schedule is not None:
            self.holders[number].step()  # PyTorch warns of a scheduler that is stepped before its optimiser
            self.schedule.step(self.schedulers[number], history)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {name: [part.state_dict() for part in getattr(self, name)] for name in ("holders", "schedulers")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        for name, parts in state.items():
            for part, saved in zip(getattr(self, name), parts, strict=True):
                part.load_state_dict(saved)


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
