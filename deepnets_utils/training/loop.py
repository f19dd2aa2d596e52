"""The loop: one step, one epoch, one range test, one measurement of a split."""

import contextlib
import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import Split, Task
from deepnets_utils.runs.run import Run
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress
from deepnets_utils.training.learning_rates import LOWEST, STEPS, tested_rates


def range_test(run: Run, task: Task, network: nn.Module, batches: Batches, split: Split) -> list[float]:
    """Return the loss of each step of a learning-rate range test, taken before the step's update.

    The batches are those that the training then starts with (with shuffle "once" those of its first epoch). Weights and
    generators are left as they were.
    """
    weights = copy.deepcopy(network.state_dict())
    order = generator("order", run.seed)
    losses: list[float] = []
    device = split.inputs.device
    epochs = (torch.randperm(len(split), generator=order)[: STEPS * run.batch_size] for _ in range(STEPS))
    steps = itertools.chain.from_iterable(batches.training(split, epoch, k) for k, epoch in enumerate(epochs))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        optimizer = make_optimizer(run, network, LOWEST)
        network.train()
        for rate, (x, y) in zip(tested_rates().tolist(), steps, strict=False):
            optimizer.param_groups[0]["lr"] = rate
            losses.append(train_step(run, task, network, optimizer, x, y)[0].item())
    network.load_state_dict(weights)
    return losses


def train_epoch(
    run: Run,
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    split: Split,
    progress: Progress,
) -> Tensor:
    """Train one epoch in the order of `progress` and return each step's loss, float32 [steps], on the CPU.

    Of a task that counts hits, the error of the training images (in percent, as they passed, in the run's precision)
    goes into the history, of a run with gradient_steps the gradients' norms (0 of weights that get none) into
    `progress`. Else nothing in an epoch waits for the device.
    """
    network.train()
    steps = math.ceil(len(split) / run.batch_size)
    device = split.inputs.device
    losses, hits = torch.empty(steps, device=device), torch.zeros((), device=device)
    first = progress.epoch * steps
    for step, (x, y) in enumerate(batches.training(split, progress.order, progress.epoch)):
        losses[step], outputs = train_step(run, task, network, optimizer, x, y)
        if hasattr(task, "hits"):
            hits += task.hits(outputs, y)
        if first + step < run.gradient_steps:
            gradients = [weight.grad for weight in network.parameters() if weight.dim() > 1]
            norms = [losses.new_zeros(()) if gradient is None else gradient.norm() for gradient in gradients]
            progress.gradients.append(torch.stack(norms).tolist())
    if hasattr(task, "hits"):
        progress.record({"train_error": 100 - 100 * hits.item() / len(split)})
    return losses.cpu()


def train_step(
    run: Run, task: Task, network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> tuple[Tensor, Any]:
    """Make one step on one batch; return the loss before it, a scalar on the device, and the network's outputs."""
    mixed = run.precision == "bfloat16"
    with torch.autocast(x.device.type, torch.bfloat16) if mixed else contextlib.nullcontext():
        outputs = network(x)
        loss = task.loss(outputs, y)
    if run.l1:
        loss = loss + run.l1 * sum(weight.abs().sum() for weight in network.parameters())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), outputs


@torch.no_grad()
def evaluate(run: Run, task: Task, network: nn.Module, batches: Batches, split: Split, name: str) -> dict[str, Any]:
    """Return the task's metrics of a whole split, their names prefixed with the split's.

    The split goes through in order and in the run's batches: with evaluation_mode "train" a batch's statistics
    decide what batch norm does, and dropout stays on. In float32 whatever the run's precision: 4.000 and 4.015 are one
    number of bfloat16.
    """
    network.train(run.evaluation_mode == "train")
    outputs = [network(x) for x, _ in batches.in_order(split)]
    first = outputs[0]
    tuples = isinstance(first, tuple)
    joined = type(first)(*map(torch.cat, zip(*outputs, strict=True))) if tuples else torch.cat(outputs)
    return measured(task, joined, split.targets, name)


def measured(task: Task, outputs: Any, targets: Tensor, name: str) -> dict[str, Any]:
    """Return a split's metrics with its name before theirs; NaN where an output is not finite, lists as they are."""
    whole = all(part.isfinite().all() for part in (outputs if isinstance(outputs, tuple) else [outputs]))
    metrics = task.metrics(outputs, targets).items()
    return {f"{name}_{key}": value if whole or isinstance(value, list) else math.nan for key, value in metrics}


class Diverged(ArithmeticError):
    """A loss, or what is measured, is not finite; step: the first such one, counted from 0."""

    def __init__(self, step: int) -> None:
        super().__init__(f"not finite at step {step}")
        self.step = step


def check_finite(epoch: int, losses: Tensor, metrics: dict[str, Any]) -> None:
    """Raise Diverged where an epoch's losses [steps], or what is measured after it, are not finite.

    epoch: counted from 0. What is measured counts as a step after the epoch's last one.
    """
    bad = (~losses.isfinite()).nonzero()
    if len(bad) or not finite(metrics):
        raise Diverged(epoch * len(losses) + (bad[0].item() if len(bad) else len(losses)))


def outcome_of(metrics: dict[str, Any], progress: Progress, diverged: Diverged | None = None) -> dict[str, Any]:
    """Return status, metrics and history of a training; of one that diverged only the epochs before its last one.

    metrics: at the end; of one that diverged, what its range test found.
    """
    if diverged is None:
        return {"status": "finished", "metrics": metrics, "history": progress.history}
    whole = max(progress.epoch - 1, 0)
    history = {name: values[:whole] for name, values in progress.history.items() if values[:whole]}
    return {"status": "diverged", "diverged_at_step": diverged.step, "metrics": metrics, "history": history}


def finite(metrics: dict[str, Any]) -> bool:
    """Return whether all metrics that are numbers are finite."""
    return all(isinstance(value, list) or math.isfinite(value) for value in metrics.values())


def make_optimizer(run: Run, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Return the run's optimiser: Adam or SGD with PyTorch's defaults, or RMSprop with Keras's (rho 0.9, 1e-7)."""
    options = {"lr": learning_rate, "weight_decay": run.weight_decay}
    if run.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), fused=True, **options)
    if run.optimizer == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), alpha=0.9, eps=1e-7, **options)
    return torch.optim.SGD(network.parameters(), fused=True, momentum=run.momentum, **options)
