"""Schedules by name: how the learning rate changes from epoch to epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from deepnets_utils.registry import Registry

LOOKS_AT = ("validation_error", "validation_loss", "test_error", "test_loss")

SCHEDULES = Registry("schedule")
schedule = SCHEDULES.spec
build_schedule = SCHEDULES.build


class Schedule(Protocol):
    """What the training loop needs of a schedule; split: the one whose measurements it looks at."""

    split: str

    def start(self, optimizer: Optimizer) -> LRScheduler:
        """Return PyTorch's scheduler, whose state goes into checkpoints."""

    def step(self, scheduler: LRScheduler, history: Mapping[str, Sequence[float]]) -> None:
        """Set the next epoch's learning rate at the end of one; history: name to one number an epoch so far."""


@SCHEDULES.register(version=1, name="plateau")
@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The rate times `factor` when a number has not fallen for more than `patience` epochs.

    on: the number's name in the history ("validation_error", or "test_error" of a Run with watch_test, as googlenet
    does). PyTorch's ReduceLROnPlateau with its defaults: an epoch counts as better when it is lower by 0.01 %, and
    a step that would change the rate by less than 1e-8 is not made.
    """

    factor: float = 0.1
    patience: int = 5
    on: str = "validation_error"

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1 or self.patience < 0:
            raise ValueError(f"factor must lie between 0 and 1, patience be at least 0: {self.factor}, {self.patience}")
        if self.on not in LOOKS_AT:
            raise ValueError(f"on must be one of {', '.join(LOOKS_AT)}, not {self.on!r}")

    @property
    def split(self) -> str:
        return self.on.split("_")[0]

    def start(self, optimizer: Optimizer) -> LRScheduler:
        return ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)

    def step(self, scheduler: LRScheduler, history: Mapping[str, Sequence[float]]) -> None:
        scheduler.step(history[self.on][-1])


@SCHEDULES.register(version=1, name="steps")
@dataclass(frozen=True, kw_only=True)
class Steps:
    """The rate times `factor` after every `every` epochs."""

    factor: float = 0.96
    every: int = 8
    split: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1 or self.every < 1:
            raise ValueError(f"factor must lie between 0 and 1, every be at least 1: {self.factor}, {self.every}")

    def start(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, self.every, self.factor)

    def step(self, scheduler: LRScheduler, history: Mapping[str, Sequence[float]]) -> None:
        scheduler.step()
