"""The loop: one step, one epoch, one range test, one measurement of a split."""

import contextlib
import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import Split, Task
from deepnets_utils.runs.run import Run
from deepnets_utils.training import machine
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress
from deepnets_utils.training.optimizers import Optimizer, make_optimizer, set_rates
from deepnets_utils.training.range_test import LOWEST, STEPS, tested_rates
from deepnets_utils.training.stack import each, gradient_norms, joined, l1_norm


@dataclass
class Training:
    """What trains together: one run, or R of one shape (see `grouping.group_key`) whose networks are one Stack.

    In shapes below R is 1 for one run.
    """

    runs: Sequence[Run]
    task: Task
    network: nn.Module
    batches: Batches
    progress: list[Progress]

    @property
    def run(self) -> Run:
        """The first of the runs, for all that they share."""
        return self.runs[0]


def range_test(training: Training, split: Split) -> list[list[float]]:
    """Return each run's loss at each step of a learning-rate range test, taken before the step's update.

    The batches are those that the training then starts with (with shuffle "once" those of its first epoch). Weights and
    generators are left as they were.
    """
    run, network, count = training.run, training.network, len(training.runs)
    weights = copy.deepcopy(network.state_dict())
    draws = [generator("order", own.seed) for own in training.runs]
    losses: list[Tensor] = []
    device = split.inputs.device
    most = STEPS * run.batch_size
    epochs = ([torch.randperm(len(split), generator=draw)[:most] for draw in draws] for _ in range(STEPS))
    steps = itertools.chain.from_iterable(training.batches.training(split, own, k) for k, own in enumerate(epochs))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        optimizer = make_optimizer(run, network, [LOWEST] * count)
        network.train()
        for rate, (x, y) in zip(tested_rates().tolist(), steps, strict=False):
            set_rates(optimizer, [rate] * count)
            losses.append(train_step(run, training.task, network, optimizer, x, y)[0])
    network.load_state_dict(weights)
    return torch.stack(losses, -1).view(count, -1).tolist()


def train_epoch(training: Training, optimizer: Optimizer, split: Split) -> Tensor:
    """Train one epoch in the orders of `progress` and return each step's loss, float32 [R, steps], on the CPU.

    Of a task that counts hits, the error of the training images (in percent, as they passed, in the run's precision)
    goes into the history, of a run with gradient_steps the gradients' norms (0 of weights that get none) into
    `progress`. Else nothing in an epoch waits for the device.
    """
    run, task, network, progress = training.run, training.task, training.network, training.progress
    network.train()
    epoch = max(own.epoch for own in progress)  # those that diverged stand still
    losses, hits = [], []
    first = epoch * math.ceil(len(split) / run.batch_size)
    for step, (x, y) in enumerate(training.batches.training(split, [own.order for own in progress], epoch)):
        loss, outputs = train_step(run, task, network, optimizer, x, y)
        losses.append(loss)
        if hasattr(task, "hits"):
            hits.append(each(network, task.hits)(outputs, y))
        if first + step < run.gradient_steps:
            for own, norms in zip(progress, gradient_norms(network).tolist(), strict=True):
                own.gradients.append(norms)
    if hits:
        for own, right in zip(progress, torch.stack(hits, -1).view(len(progress), -1).sum(1).tolist(), strict=True):
            if own.diverged_at is None:
                own.record({"train_error": 100 - 100 * right / len(split)})
    return torch.stack(losses, -1).view(len(progress), -1).cpu()


def train_step(
    run: Run, task: Task, network: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor
) -> tuple[Tensor, Any]:
    """Make one step on one batch; return the loss before it, on the device, and the network's outputs.

    The loss is a scalar; of a stack, of which all else has that dimension, too, [R].
    """
    mixed = run.precision == "bfloat16"
    with torch.autocast(x.device.type, torch.bfloat16) if mixed else contextlib.nullcontext():
        outputs = network(x)
        loss = each(network, task.loss)(outputs, y)
    if run.l1:
        loss = loss + run.l1 * l1_norm(network)
    for weight in optimizer.param_groups[0]["params"]:
        weight.grad = None  # zero_grad takes 36 us longer, of a small network's 900
    # Replicas share no weight: each one's gradient is its own, whatever the others' losses are.
    (loss.sum() if loss.dim() else loss).backward()
    optimizer.step()
    return loss.detach(), outputs


@torch.no_grad()
def evaluate(training: Training, split: Split, name: str) -> list[dict[str, Any]]:
    """Return each run's metrics of a whole split, their names prefixed with the split's.

    The split goes through in order and in the run's batches: with evaluation_mode "train" a batch's statistics
    decide what batch norm does, and dropout stays on. In float32 whatever the run's precision: 4.000 and 4.015 are one
    number of bfloat16.
    """
    network = training.network.train(training.run.evaluation_mode == "train")
    kept = torch.clone if machine.COMPILE else lambda part: part  # the next call writes over a captured graph's outputs
    passed = [(tree_map(kept, network(x)), y) for x, y in training.batches.in_order(split)]
    outputs, targets = (joined(network, part) for part in zip(*passed, strict=True))
    return [measured(training.task, *own, name) for own in zip(outputs, targets, strict=True)]


def measured(task: Task, outputs: Any, targets: Tensor, name: str) -> dict[str, Any]:
    """Return a split's metrics with its name before theirs; NaN where an output is not finite, lists as they are."""
    whole = all(part.isfinite().all() for part in tree_leaves(outputs))
    metrics = task.metrics(outputs, targets).items()
    return {f"{name}_{key}": value if whole or isinstance(value, list) else math.nan for key, value in metrics}


def first_broken(epoch: int, losses: Tensor, metrics: dict[str, Any]) -> int | None:
    """Return the step at which a run diverged in an epoch, None where it did not; steps and epochs count from 0.

    losses: of its steps, [steps]. Where they are finite and what is measured after them is not, that counts as a step
    after the epoch's last one. A number and no exception: of runs that train as one network the others go on.
    """
    bad = (~losses.isfinite()).nonzero()
    if not len(bad) and finite(metrics):
        return None
    return epoch * len(losses) + (bad[0].item() if len(bad) else len(losses))


def finite(metrics: dict[str, Any]) -> bool:
    """Return whether all metrics that are numbers are finite."""
    return all(isinstance(value, list) or math.isfinite(value) for value in metrics.values())
