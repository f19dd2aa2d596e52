"""Runs of equal shape trained as one: a leading dimension of replicas, and on CUDA one captured graph a step.

Each replica has its own initial weights, order of batches, targets and learning rate, and comes out as the run alone
would, up to rounding.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import Split, Task
from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.training.checkpoints import Progress
from deepnets_utils.training.learning_rates import STEPS, suggestion, tested_rates
from deepnets_utils.training.loop import Diverged, check_finite, finite, measured, outcome_of
from deepnets_utils.training.stacked import StackedNetwork, stackable

# Task -> the options in which runs of one group may differ: they change the targets, not the loss or any shape.
TASKS = {"digit_pairs": (), "pixel_statistic": ("statistic",)}
OPTIMIZERS = ("adam", "sgd")
FIELDS = {"dataset", "task", "model", "learning_rate", "optimizer", "weight_decay", "l1", "epochs", "batch_size"}
FIELDS |= {"shuffle", "evaluation_mode", "seed", "data_seed", "loop_version"}
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as PyTorch has them by default
WARM_UP = 3  # steps before a capture
TEST_BATCH = 500  # examples a replica, where a batch's statistics do not matter


def group_key(run: Run) -> Run | None:
    """Return what runs that train together share, as a Run without what may differ; None for one that trains alone.

    May differ: seed, data_seed, the learning rate (not: given or found) and the target statistic. Alone train
    estimators, networks with layers not known here (dropout among them: its masks could not be those of the run
    alone), what a notebook defines, and Runs with a task, optimiser or field that is not known here.
    """
    known = run.task.name in TASKS and run.optimizer in OPTIMIZERS and set(run.to_json()) <= FIELDS
    if run.learning_rate is None or not known or run.task.local or run.model.local or not _stackable(run.model):
        return None
    options = tuple(option for option in run.task.options if option[0] not in TASKS[run.task.name])
    rate = run.learning_rate if isinstance(run.learning_rate, str) else 1.0
    shared = dataclasses.replace(run.task, options=options)
    return dataclasses.replace(run, seed=0, data_seed=0, learning_rate=rate, task=shared)


@functools.cache
def _stackable(spec: Spec) -> bool:
    try:
        with torch.device("meta"):
            network = build_model(spec)
    except ValueError:  # it fails where it is trained, and no other run with it
        return False
    return isinstance(network, nn.Module) and stackable(network)


class Rows:
    """What each of R replicas reads, [R, N, ...]: equal tensors are held once on the device."""

    def __init__(self, tensors: Sequence[Tensor], device: str) -> None:
        distinct: list[Tensor] = []
        positions = []
        for tensor in tensors:
            if tensor.shape != tensors[0].shape:
                raise ValueError(f"replicas need equal shapes, not {tuple(tensor.shape)}, {tuple(tensors[0].shape)}")
            same = (i for i, other in enumerate(distinct) if other is tensor or torch.equal(other, tensor))
            positions.append(next(same, len(distinct)))
            if positions[-1] == len(distinct):
                distinct.append(tensor)
        self.values = torch.cat(distinct).to(device)
        self.offsets = torch.tensor(positions, device=device)[:, None] * len(tensors[0])
        self.length = len(tensors[0])

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return rows [R, n, ...] of each replica for index int64 [R, n]."""
        return self.values[(index + self.offsets).T].transpose(0, 1)


class StackedTraining:
    """R runs that make each step together: network, optimiser, data and the steps captured so far.

    runs: with one group_key. splits: of each run, by name. rates: [R, 1], the learning rates. alive: bool [R];
    a replica whose loss was not finite is dead: its loss is NaN from then on and its weights are 0, so that it
    costs the others nothing, neither time nor numbers.
    """

    def __init__(
        self, runs: Sequence[Run], task: Task, networks: Sequence[nn.Module], splits: Sequence[dict[str, Split]],
        device: str,
    ) -> None:  # fmt: skip
        self.run, self.task = runs[0], task
        self.network = StackedNetwork(networks, device)
        names = splits[0].keys()
        self.inputs = {name: Rows([split[name].inputs for split in splits], device) for name in names}
        self.targets = {name: Rows([split[name].targets for split in splits], device) for name in names}
        weights = self.network.weights
        self.rates = weights.new_zeros(len(runs), 1)
        self.alive = torch.ones(len(runs), dtype=torch.bool, device=device)
        self._means, self._squares = torch.zeros_like(weights), torch.zeros_like(weights)
        # On the device: a number of the host would be a constant of the captured graph.
        self._steps = torch.zeros((), dtype=torch.float64, device=device)
        self._state = [weights, *self.network.buffers, self._means, self._squares, self._steps, self.alive]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def range_test(self, seeds: Sequence[int]) -> list[list[float]]:
        """Return each replica's loss at each step of a range test, and leave everything as it was."""
        draws = [generator("order", seed) for seed in seeds]
        rates, losses = iter(tested_rates().tolist()), []
        with self._unchanged():
            while len(losses) < STEPS:
                orders = [torch.randperm(self.inputs["train"].length, generator=draw) for draw in draws]
                for index in self.batches(orders)[: STEPS - len(losses)]:
                    self.rates.fill_(next(rates))
                    losses.append(self.step(index))
            return torch.stack(losses, 1).tolist()

    def epoch(self, orders: Sequence[Tensor]) -> Tensor:
        """Train one epoch, each replica in its order, and return the losses [R, steps] on the CPU."""
        return torch.stack([self.step(index) for index in self.batches(orders)], 1).cpu()

    def batches(self, orders: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the index [R, n] of each batch of an epoch, on the device; the last may be smaller."""
        return torch.stack(list(orders)).to(self.alive.device).split(self.run.batch_size, 1)

    def step(self, index: Tensor) -> Tensor:
        """Make one step on the batches that index [R, n] names; return the losses before it, [R] on the device."""
        if not index.is_cuda:
            return self._step(index)
        if index.shape[1] not in self._graphs:
            self._graphs[index.shape[1]] = self._capture(index.clone())
        graph, static_index, static_losses = self._graphs[index.shape[1]]
        static_index.copy_(index)
        graph.replay()
        return static_losses.clone()

    def _capture(self, index: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        with self._unchanged():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._step(index)
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._step(index)
        return graph, index, losses

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        saved = [tensor.clone() for tensor in self._state]
        yield
        for tensor, before in zip(self._state, saved, strict=True):
            tensor.copy_(before)

    def _step(self, index: Tensor) -> Tensor:
        run, weights, self.network.training = self.run, self.network.weights, True
        outputs = self.network(self.inputs["train"][index])
        losses = torch.vmap(self.task.loss)(outputs, self.targets["train"][index])
        # Replicas share no weight: the gradient of the sum is each one's own, whatever the others' losses are.
        gradients = torch.autograd.grad(losses.sum(), self.network.parameters)
        with torch.no_grad():
            gradient = torch.cat([part.flatten(1) for part in gradients], 1)
            if run.l1:
                losses = losses + run.l1 * weights.abs().sum(1)
                gradient += run.l1 * weights.sign()
            if run.weight_decay:
                gradient += run.weight_decay * weights
            if run.optimizer == "sgd":
                weights.sub_(self.rates * gradient)
            else:
                self._steps.add_(1)
                first, second = (1 - torch.pow(beta, self._steps) for beta in BETAS)
                self._means.lerp_(gradient, 1 - BETAS[0])
                self._squares.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                deviations = self._squares.sqrt().div_(second.sqrt()).add_(EPSILON)
                weights.sub_(self.rates / first * self._means / deviations)
            self.alive.logical_and_(losses.isfinite())
            weights.masked_fill_(~self.alive[:, None], 0)
            return losses.detach().masked_fill(~self.alive, math.nan)

    @torch.no_grad()
    def evaluate(self, tasks: Sequence[Task], name: str) -> list[dict[str, Any]]:
        """Return each replica's metrics of a whole split, their names prefixed with the split's."""
        run, inputs, replicas = self.run, self.inputs[name], len(tasks)
        self.network.training = run.evaluation_mode == "train"
        rows = torch.arange(inputs.length, device=self.alive.device).expand(replicas, -1)
        size = run.batch_size if self.network.training else max(run.batch_size, TEST_BATCH)
        outputs = [self.network(inputs[index]) for index in rows.split(size, 1)]
        targets = self.targets[name][rows].cpu()
        if isinstance(outputs[0], tuple):
            parts = [torch.cat(part, 1).cpu() for part in zip(*outputs, strict=True)]
            joined = [type(outputs[0])(*(part[r] for part in parts)) for r in range(replicas)]
        else:
            joined = torch.cat(outputs, 1).cpu()
        return [measured(task, joined[r], targets[r], name) for r, task in enumerate(tasks)]


def train_replicas(
    runs: Sequence[Run], tasks: Sequence[Task], splits: Sequence[dict[str, Split]], device: str
) -> list[dict[str, Any]]:
    """Return status, metrics and history of each run, in order; the runs share one group_key.

    tasks, splits: one a run; splits whose tensors are equal are held once. Raises ValueError for splits of different
    shapes.
    """
    with torch.cuda.device(device) if device.startswith("cuda") else contextlib.nullcontext():
        networks = []
        for run in runs:
            torch.manual_seed(derived_seed("weights", run.seed))
            networks.append(build_model(run.model))
        training = StackedTraining(runs, tasks[0], networks, splits, device)
        progress, found = [Progress.start(run.seed) for run in runs], [{} for _ in runs]
        rates = [run.learning_rate for run in runs]
        diverged: list[Diverged | None] = [None] * len(runs)
        if isinstance(rates[0], str):
            for r, losses in enumerate(training.range_test([run.seed for run in runs])):
                rates[r] = suggestion(losses, "per_rate" if rates[r] == "range_test_per_rate" else "per_step")
                found[r] = {"learning_rate": rates[r], "range_test_losses": losses}
                diverged[r] = Diverged(0) if math.isnan(rates[r]) else None
        training.alive.copy_(torch.tensor([not math.isnan(rate) for rate in rates]))
        training.rates.copy_(torch.tensor(rates, dtype=torch.float64)[:, None].nan_to_num(0))
        for _ in range(runs[0].epochs):
            _train_epoch(runs[0], tasks, training, progress, diverged)
            if None not in diverged:
                break
        tested = training.evaluate(tasks, "test") if None in diverged else [{}] * len(runs)
        for r, (own, metrics) in enumerate(zip(progress, tested, strict=True)):
            if diverged[r] is None and not finite(metrics):  # the last update was too much
                diverged[r] = Diverged(own.epoch * math.ceil(len(own.order) / runs[r].batch_size))
        return [
            outcome_of(of if end else of | metrics, own, end)
            for of, metrics, own, end in zip(found, tested, progress, diverged, strict=True)
        ]


def _train_epoch(
    run: Run,
    tasks: Sequence[Task],
    training: StackedTraining,
    progress: Sequence[Progress],
    diverged: list[Diverged | None],
) -> None:
    for own in progress:
        if run.shuffle == "every_epoch" or own.order is None:
            own.order = torch.randperm(training.inputs["train"].length, generator=own.generator)
    losses = training.epoch([own.order for own in progress])
    validation = training.evaluate(tasks, "validation") if "validation" in training.inputs else [{}] * len(tasks)
    for r, (own, curve, metrics) in enumerate(zip(progress, losses, validation, strict=True)):
        if diverged[r] is not None:
            continue
        own.epoch += 1
        metrics = {"train_loss": curve.mean().item()} | metrics
        try:
            check_finite(own.epoch - 1, curve, metrics)
            own.record(metrics)
        except Diverged as end:
            diverged[r] = end
