"""One run, start to end: data, network, epochs, test."""

import contextlib
import copy
import datetime
import math
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from deepnets_utils import data
from deepnets_utils.checkpoints import Progress, load_checkpoint, save_checkpoint
from deepnets_utils.learning_rates import LOWEST, STEPS, suggestion, tested_rates
from deepnets_utils.models import build_model
from deepnets_utils.randomness import derived_seed, generator
from deepnets_utils.runs import Result, Run
from deepnets_utils.tasks import Split, Task, build_task

CHECKPOINT_SECONDS = 300.0

OnEpoch = Callable[[int, dict[str, list[float]]], None]


def train(
    run: Run,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: OnEpoch | None = None,
) -> Result:
    """Train and test one run and return its Result.

    device: "cpu", "cuda" or "cuda:N". checkpoint: a file, written at the first end of an epoch that is
    `checkpoint_seconds` after the last writing, from which an interrupted run goes on.
    on_epoch: called after each epoch with its number (from 1) and the history so far.
    With one machine and one torch version the numbers are the same bits in any process and any order.
    Raises DataError without the data set; ValueError when the run fits a network or trains an estimator, and when
    the task needs more images than the data set has.
    """
    images = data.load(run.dataset)
    task: Task = build_task(run.task)
    clock = Clock()
    with numerics():
        splits = task.splits(images, run.data_seed)
        if run.learning_rate is None:
            path, outcome = "estimator", fit_estimator(run, task, splits)
        else:
            path, outcome = (
                "loop",
                train_network(run, task, splits, device, clock, checkpoint, checkpoint_seconds, on_epoch),
            )
    wall, cpu = clock.seconds()
    provenance = {
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "device": _device_name("cpu" if path == "estimator" else device),
        "threads": 1,
        "path": path,
        "torch": torch.__version__,
        "deepnets_utils": version("deepnets-utils"),
        "python": platform.python_version(),
        "data_fingerprint": images.fingerprint,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return Result(run=run, provenance=provenance, **outcome)


def train_network(
    run: Run,
    task: Task,
    splits: dict[str, Split],
    device: str,
    clock: "Clock",
    checkpoint: Path | None,
    checkpoint_seconds: float,
    on_epoch: OnEpoch | None,
) -> dict[str, Any]:
    """Return status, metrics and history of the network that `run` names."""
    splits = {name: split.to(torch.device(device)) for name, split in splits.items()}
    train_split = splits.pop("train")
    torch.manual_seed(derived_seed("weights", run.seed))
    network = build_model(run.model)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {run.model.name!r} is fitted, not trained: its Run has no learning_rate and epochs")
    network = network.to(device, memory_format=torch.channels_last)
    torch.manual_seed(derived_seed("dropout", run.seed))
    progress = Progress.start(run.seed)
    learning_rate, found = run.learning_rate, {}
    if isinstance(learning_rate, str):
        losses = range_test(run, task, network, train_split)
        learning_rate = suggestion(losses, "per_rate" if learning_rate == "range_test_per_rate" else "per_step")
        found = {"learning_rate": learning_rate, "range_test_losses": losses}
        if math.isnan(learning_rate):
            return {"status": "diverged", "diverged_at_step": 0, "metrics": found, "history": {}}
    optimizer = make_optimizer(run, network, learning_rate)
    if checkpoint is not None and load_checkpoint(checkpoint, run, progress, network, optimizer):
        clock.add(progress.seconds)
    saved_at = time.monotonic()

    while progress.epoch < run.epochs:
        if run.shuffle == "every_epoch" or progress.order is None:
            progress.order = torch.randperm(len(train_split), generator=progress.generator)
        losses = train_epoch(run, task, network, optimizer, train_split, progress.order)
        progress.epoch += 1
        diverged = (~losses.isfinite()).nonzero()
        if len(diverged):
            step = (progress.epoch - 1) * len(losses) + diverged[0].item()
            return {"status": "diverged", "diverged_at_step": step, "metrics": found, "history": progress.history}
        progress.record({"train_loss": losses.mean().item()})
        if "validation" in splits:
            progress.record(evaluate(run, task, network, splits["validation"], "validation"))
        if on_epoch is not None:
            on_epoch(progress.epoch, progress.history)
        if checkpoint is not None and time.monotonic() - saved_at >= checkpoint_seconds:
            progress.seconds = clock.seconds()
            save_checkpoint(checkpoint, run, progress, network, optimizer)
            saved_at = time.monotonic()

    metrics = evaluate(run, task, network, splits["test"], "test")
    return {"status": "finished", "metrics": found | metrics, "history": progress.history}


def range_test(run: Run, task: Task, network: nn.Module, split: Split) -> list[float]:
    """Return the loss of each step of a learning-rate range test, taken before the step's update.

    The batches are those that the training then starts with. Weights and generators are left as they were.
    """
    weights = copy.deepcopy(network.state_dict())
    order = generator("order", run.seed)
    losses: list[float] = []
    with torch.random.fork_rng():
        optimizer = make_optimizer(run, network, LOWEST)
        network.train()
        rates = iter(tested_rates().tolist())
        while len(losses) < STEPS:
            for x, y in batches(
                split, torch.randperm(len(split), generator=order), run.batch_size, STEPS - len(losses)
            ):
                optimizer.param_groups[0]["lr"] = next(rates)
                losses.append(train_step(run, task, network, optimizer, x, y).item())
    network.load_state_dict(weights)
    return losses


def train_epoch(
    run: Run, task: Task, network: nn.Module, optimizer: torch.optim.Optimizer, split: Split, order: Tensor
) -> Tensor:
    """Train one epoch in the given order and return each step's loss, float32 [steps], on the CPU.

    The epoch is gathered once and then sliced; the last batch may be smaller. Nothing waits for the device
    inside the epoch.
    """
    network.train()
    steps = batches(split, order, run.batch_size)
    losses = torch.empty(len(steps), device=split.inputs.device)
    for step, (x, y) in enumerate(steps):
        losses[step] = train_step(run, task, network, optimizer, x, y)
    return losses.cpu()


def batches(split: Split, order: Tensor, batch_size: int, count: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs and targets of each batch of an epoch in the given order, or of the first `count`."""
    order = order.to(split.inputs.device)[: None if count is None else count * batch_size]
    inputs = channels_last(split.inputs[order]).split(batch_size)
    return list(zip(inputs, split.targets[order].split(batch_size), strict=True))


def train_step(
    run: Run, task: Task, network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> Tensor:
    """Make one step on one batch and return the loss before it, a scalar on the device."""
    loss = task.loss(network(x), y)
    if run.l1:
        loss = loss + run.l1 * sum(weight.abs().sum() for weight in network.parameters())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def evaluate(run: Run, task: Task, network: nn.Module, split: Split, name: str) -> dict[str, Any]:
    """Return the task's metrics of a whole split, their names prefixed with the split's.

    The split goes through in order and in the run's batches: with evaluation_mode "train" a batch's statistics
    decide what batch norm does, and dropout stays on.
    """
    network.train(run.evaluation_mode == "train")
    outputs = [network(x) for x in channels_last(split.inputs).split(run.batch_size)]
    first = outputs[0]
    if isinstance(first, tuple):
        joined = type(first)(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
    else:
        joined = torch.cat(outputs)
    return {f"{name}_{key}": value for key, value in task.metrics(joined, split.targets).items()}


def channels_last(images: Tensor) -> Tensor:
    """Return [N, C, H, W] in the memory format that convolutions are fastest in (1.3 times here on a CPU)."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def make_optimizer(run: Run, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Return the run's optimiser: Adam with PyTorch's defaults, or plain SGD."""
    options = {"lr": learning_rate, "weight_decay": run.weight_decay, "fused": True}
    if run.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), **options)
    return torch.optim.SGD(network.parameters(), **options)


def fit_estimator(run: Run, task: Task, splits: dict[str, Split]) -> dict[str, Any]:
    """Return status and metrics of the estimator that `run` names, and a description of the targets."""
    estimator = build_model(run.model)
    if isinstance(estimator, nn.Module):
        raise ValueError(f"model {run.model.name!r} is trained: its Run needs a learning_rate, epochs and a batch_size")
    arrays = {name: (split.inputs.flatten(1).numpy(), split.targets.double().numpy()) for name, split in splits.items()}
    with threadpool_limits(1):
        estimator.fit(*arrays[estimator.fit_on])
        predictions = torch.as_tensor(estimator.predict(arrays["test"][0]))
    metrics = {f"test_{key}": value for key, value in task.metrics(predictions, splits["test"].targets).items()}
    for name, split in splits.items():
        metrics |= {f"{name}_{key}": value for key, value in task.describe(split.targets).items()}
    return {"status": "finished", "metrics": metrics, "history": {}}


class Clock:
    """Wall and CPU seconds of this process since it was made, with those of earlier attempts added."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add(self, seconds: tuple[float, float]) -> None:
        self._wall, self._cpu = self._wall - seconds[0], self._cpu - seconds[1]

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


@contextlib.contextmanager
def numerics() -> Iterator[None]:
    """Set what makes numbers repeatable: one CPU thread, float32 without TF32, deterministic kernels.

    Denormal numbers are flushed to zero: the moments of a dead unit decay into them and make steps slow.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_num_threads(), matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, torch.get_rng_state()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    cudnn.deterministic = True
    try:
        yield
    finally:
        threads, matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, state = before
        torch.set_rng_state(state)
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
