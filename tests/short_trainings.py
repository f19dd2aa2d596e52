"""Trainings that take milliseconds: what tests of training begin with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deepnets_utils.data.tasks import Split, Task, task
from deepnets_utils.models import model
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress, Saving
from deepnets_utils.training.loop import Training, train_epoch
from deepnets_utils.training.machine import Clock, numerics
from deepnets_utils.training.train import make_network, train_network

DIGITS = "digits_28"


def make_run(name: str = "LeNet5", auxiliary: float = 1.0, options: dict | None = None, **fields: object) -> Run:
    """60 pairs in 3 batches, dropout and batch norm in the network."""
    options = {"dropout": 0.25} if options is None else options
    spec = task("digit_pairs", auxiliary=auxiliary, train_size=60, test_size=50)
    defaults = {"task": spec, "learning_rate": 5e-3, "epochs": 4, "batch_size": 20, "seed": 3}
    return Run(dataset=DIGITS, model=model(name, **options), **defaults | fields)


def together(run: Run, seen: Task, network: nn.Module) -> Training:
    return Training([run], seen, network, Batches([run]), [Progress.start(run.seed)])


def one_epoch(run: Run, seen: Task, network: nn.Module, optimizer: Optimizer, split: Split, order: Tensor) -> Tensor:
    """The losses of an epoch in the given order."""
    training = together(run, seen, network)
    training.progress[0].order = order
    return train_epoch(training, optimizer, split)[0]


def outcome(run: Run, seen: Task, splits: dict[str, Split]) -> dict:
    """What training on other splits than the task's gives."""
    with numerics():
        training = together(run, seen, make_network(run, torch.device("cpu")))
        return train_network(training, splits, Saving(None, 1e9, Clock(), run.digest))[0]


def numbers(result: Result) -> str:
    """What must be the same bits: everything but where and when it was made."""
    record = result.to_json()
    return canonical([record[key] for key in ("run", "status", "diverged_at_step", "metrics", "history")])


class Interrupted(Exception):
    pass


def interrupt_at(epoch: int) -> Callable:
    def on_epoch(number: int, history: dict) -> None:
        if number == epoch:
            raise Interrupted

    return on_epoch


class LeastSquares:
    """A task for tests: one linear layer, mean squared error, and a list of the batches that were seen."""

    def __init__(self, break_at: int | None = None) -> None:
        self.batches: list[Tensor] = []
        self.break_at = break_at

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.batches.append(targets.detach().clone())
        loss = (outputs.squeeze(1) - targets).square().mean()
        return loss * math.nan if len(self.batches) - 1 == self.break_at else loss

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict:
        return {"mse": (outputs.squeeze(1) - targets).square().mean().item()}


def line(number: int = 10) -> Split:
    return Split(torch.arange(float(number))[:, None] / number, torch.arange(float(number)))


def statistics_run(**fields: object) -> Run:
    """90 images in 5 batches and a validation split."""
    spec = task("pixel_statistic", train_size=90, validation_size=30)
    return make_run("MLPRegressor", options={}, task=spec, **fields)
