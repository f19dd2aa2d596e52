"""One run, start to end: data, network, epochs, test."""

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import derived_seed
from deepnets_utils.data.tasks import MAY_DIFFER, Split, Task, build_task
from deepnets_utils.models import build_model
from deepnets_utils.runs.files import move_aside, warn
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress, load_checkpoint, load_state, save_checkpoint, save_state
from deepnets_utils.training.learning_rates import suggestion
from deepnets_utils.training.loop import (
    Diverged,
    check_finite,
    evaluate,
    finite,
    make_optimizer,
    outcome_of,
    range_test,
    train_epoch,
)
from deepnets_utils.training.machine import Clock, numerics, provenance
from deepnets_utils.training.replicas import group_key, train_replicas
from deepnets_utils.training.schedules import build_schedule
from deepnets_utils.training.signals import TERMINATED, Terminated, terminated

CHECKPOINT_SECONDS = 300.0
GRADIENT_BINS = 20  # windows of steps over which the recorded gradients' norms are averaged

OnEpoch = Callable[[int, dict[str, list[float]]], None]


def train(
    run: Run,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: OnEpoch | None = None,
    weights: Path | None = None,
    teacher: Path | None = None,
) -> Result:
    """Train and test one run and return its Result.

    device: "cpu" or "cuda". checkpoint: a file, written at the first end of an epoch that is
    `checkpoint_seconds` after the last writing, from which an interrupted run goes on.
    on_epoch: called after each epoch with its number (from 1) and the history so far.
    weights: a file that the trained network is written to, NaN where it diverged.
    teacher: the file with the weights of run.teacher.
    With one machine and one torch version the numbers are the same bits in any process and any order.
    Raises DataError without the data set; ValueError when the run fits a network or trains an estimator, when the
    task needs more images than the data set has, when the network cannot take its batches, and without the weights
    of a run's teacher.
    """
    images = loading.load(run.dataset)
    task: Task = build_task(run.task)
    clock = Clock()
    path = "loop" if run.learning_rate else "estimator"
    place = torch.device(device if run.learning_rate else "cpu")
    extra: dict[str, Any] = {"device_kind": place.type}
    with numerics():
        splits = task.splits(images, run.data_seed)
        if run.learning_rate is None:
            outcome = fit_estimator(run, task, splits)
        else:
            check_parts(run, task, splits)
            teacher_network, identity = None, run.digest
            if run.teacher is not None:
                teacher_network, extra["teacher_weights_sha256"] = load_teacher(run.teacher, teacher, place)
                identity += extra["teacher_weights_sha256"]  # a teacher that was trained again may have other weights
            batches, network = Batches(run, teacher_network), make_network(run, place)
            saving = Saving(checkpoint, checkpoint_seconds, clock, identity)
            outcome = train_network(run, task, network, batches, splits, saving, on_epoch)
            if weights is not None:
                if outcome["status"] == "diverged":  # and so do its students, at their first step
                    for parameter in network.parameters():
                        nn.init.constant_(parameter, math.nan)
                extra["weights_sha256"] = save_state(weights, {"digest": run.digest, "network": network.state_dict()})
    return Result(run=run, provenance=provenance(path, str(place), clock, images) | extra, **outcome)


def train_group(runs: Sequence[Run], *, device: str = "cpu") -> list[Result]:
    """Train runs that share a `group_key` as one network and return their Results, in order.

    device: as `train` has it. The seconds are shared out evenly. Each run comes out as `train` would have it, up to
    rounding. There are no checkpoints: what is interrupted begins again. Raises DataError without the data set,
    ValueError for runs that do not share a key.
    """
    if len(keys := {group_key(run) for run in runs}) != 1 or None in keys:
        raise ValueError(f"runs that train together need one group_key, these {len(runs)} have {len(keys)}: {keys}")
    images = loading.load(runs[0].dataset)
    clock = Clock()
    with numerics():
        kinds = {(run.task, run.data_seed) for run in runs}
        splits = {(task, data_seed): build_task(task).splits(images, data_seed) for task, data_seed in kinds}
        tasks = [build_task(run.task) for run in runs]
        own = [splits[run.task, run.data_seed] for run in runs]
        outcomes = train_replicas(runs, tasks, own, device)
    origin = provenance("replicas", device, clock, images, len(runs))
    origin |= {"replicas": len(runs), "device_kind": torch.device(device).type}
    return [Result(run=run, provenance=dict(origin), **outcome) for run, outcome in zip(runs, outcomes, strict=True)]


def make_network(run: Run, device: torch.device) -> nn.Module:
    """Return the run's network with its initial weights; raises ValueError for an estimator."""
    torch.manual_seed(derived_seed("weights", run.seed))
    network = build_model(run.model)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {run.model.name!r} is fitted, not trained: its Run has no learning_rate and epochs")
    return network.to(device, memory_format=torch.channels_last)


def check_parts(run: Run, task: Task, splits: dict[str, Split]) -> None:
    """Raise ValueError where a run's parts do not fit together, before anything is trained.

    Of a batch the network is tried without numbers, on the meta device: images that are too small, other channels, one
    image left for batch norm.
    """
    distillation = getattr(task, "distillation", None)
    if distillation is not None and bool(distillation) != (run.teacher is not None):
        has = f"distillation {distillation!r} and {'a' if run.teacher else 'no'} teacher"
        raise ValueError(
            f"a student needs a teacher and its task a distillation, other runs have neither; this has {has}"
        )
    if run.teacher is not None:
        own, theirs = (
            (of.task.name, {name: value for name, value in of.task.options if name not in MAY_DIFFER})
            for of in (run, run.teacher)
        )
        if own != theirs:
            raise ValueError(f"a student and its teacher need the same inputs and classes, not {own} and {theirs}")
        if run.teacher.evaluation_mode != "eval":
            raise ValueError("a teacher needs evaluation_mode eval: else its batch norm has seen test images")
    if run.keep_best and ("validation" not in splits or "error" not in task.measures):
        raise ValueError("keep_best needs a task with a validation split and an error")
    on = build_schedule(run.schedule).on if run.schedule else ""
    watched = [name for name in splits if name == "validation" or (name == "test" and run.watch_test)]
    measured = [f"{name}_{measure}" for name in watched for measure in task.measures]
    if on and on not in measured:
        raise ValueError(f"the schedule looks at {on}, and of each epoch this run measures {measured}")
    for name, split in splits.items():
        training = name == "train" or run.evaluation_mode == "train"
        for size in {min(run.batch_size, len(split)), len(split) % run.batch_size or run.batch_size}:
            try:
                _take(run.model, (size, *split.inputs.shape[1:]), training)
            except NotImplementedError:
                pass  # a network that looks at its numbers
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{run.model.name} cannot take {len(split)} inputs of {name} in batches of {run.batch_size}, "
                    f"one of which is {[size, *split.inputs.shape[1:]]}: {error}"
                ) from error


@functools.cache  # the runs of a sweep differ in little else than the seed
def _take(model: Spec, shape: tuple[int, ...], training: bool) -> None:
    with torch.device("meta"):
        network = build_model(model)
        if isinstance(network, nn.Module):
            network.train(training)(torch.empty(shape))


def load_teacher(run: Run, file: Path | None, device: torch.device) -> tuple[nn.Module, str]:
    """Return the trained network of `run`, in evaluation mode, and the sha256 of its weights; ValueError without."""
    if file is None or not file.exists():
        raise ValueError(f"a student needs the weights of its teacher, and there are none: {run}")
    network = make_network(run, device)
    try:
        state, sha256 = load_state(file, run.digest)
        network.load_state_dict(state["network"])
    except Exception as error:  # torch.load raises many kinds
        where = move_aside(file)
        raise ValueError(
            f"the teacher's weights are not used: {error}; {where}; the next sweep trains it again"
        ) from error
    return network.eval(), sha256


def train_network(
    run: Run,
    task: Task,
    network: nn.Module,
    batches: Batches,
    splits: dict[str, Split],
    saving: "Saving",
    on_epoch: OnEpoch | None,
) -> dict[str, Any]:
    """Train and test the network; return the run's status, metrics and history. The network keeps its last weights."""
    device = next(network.parameters()).device
    splits = {name: split.to(device) for name, split in splits.items()}
    if batches.teacher is not None:
        splits |= {name: batches.taught(split) for name, split in splits.items() if name != "train"}
    torch.manual_seed(derived_seed("dropout", run.seed))
    progress, found = Progress.start(run.seed), {}
    try:
        if isinstance(run.learning_rate, str):
            found["range_test_losses"] = range_test(run, task, network, batches, splits["train"])
            found = {"learning_rate": found_rate(run, found["range_test_losses"])} | found
        train_epochs(
            run,
            task,
            network,
            batches,
            splits,
            found.get("learning_rate", run.learning_rate),
            progress,
            saving,
            on_epoch,
        )
        metrics = found | tested(run, task, network, batches, splits["test"], progress)
    except Diverged as diverged:
        return outcome_of(found, progress, diverged)
    return outcome_of(metrics, progress)


def found_rate(run: Run, losses: list[float]) -> float:
    """Return the learning rate that a range test suggests, NaN where it suggests none."""
    return suggestion(losses, "per_rate" if run.learning_rate == "range_test_per_rate" else "per_step")


def train_epochs(
    run: Run,
    task: Task,
    network: nn.Module,
    batches: Batches,
    splits: dict[str, Split],
    learning_rate: float,
    progress: Progress,
    saving: "Saving",
    on_epoch: OnEpoch | None,
) -> None:
    """Train all epochs, from a checkpoint on where there is one; raises Diverged."""
    if math.isnan(learning_rate):
        raise Diverged(0)
    optimizer = make_optimizer(run, network, learning_rate)
    schedule = build_schedule(run.schedule) if run.schedule else None
    scheduler = schedule.start(optimizer) if schedule else None
    measured = [name for name in splits if name == "validation" or (name == "test" and run.watch_test)]
    saving.load(progress, network, optimizer, scheduler)
    while progress.epoch < run.epochs:
        if run.shuffle == "every_epoch" or progress.order is None:
            progress.order = torch.randperm(len(splits["train"]), generator=progress.generator)
        if scheduler is not None:
            progress.record({"learning_rate": optimizer.param_groups[0]["lr"]})
        losses = train_epoch(run, task, network, optimizer, batches, splits["train"], progress)
        progress.epoch += 1
        metrics = {"train_loss": losses.mean().item()}
        if losses.isfinite().all():
            for name in measured:
                metrics |= evaluate(run, task, network, batches, splits[name], name)
        check_finite(progress.epoch - 1, losses, metrics)
        progress.record(metrics)
        if run.keep_best:
            progress.keep_best(network)
        if schedule is not None:
            schedule.step(scheduler, progress.history)
        if on_epoch is not None:
            on_epoch(progress.epoch, progress.history)
        saving.save(progress, network, optimizer, scheduler)


def tested(
    run: Run, task: Task, network: nn.Module, batches: Batches, split: Split, progress: Progress
) -> dict[str, Any]:
    """Return what a trained network gives on the test split, with its last and its best weights; or raise Diverged."""
    metrics = evaluate(run, task, network, batches, split, "test")
    if not finite(metrics):  # the last update was too much
        raise Diverged(run.epochs * math.ceil(len(progress.order) / run.batch_size))
    if run.keep_best:
        last = copy.deepcopy(network.state_dict())
        network.load_state_dict(progress.best["network"])
        metrics |= evaluate(run, task, network, batches, split, "selected_test")
        metrics["selected_epoch"] = progress.best["epoch"]
        network.load_state_dict(last)
    if progress.gradients:
        windows = torch.tensor(progress.gradients).T.chunk(min(GRADIENT_BINS, len(progress.gradients)), dim=1)
        metrics["gradient_norms"] = torch.stack([window.mean(1) for window in windows], 1).tolist()
    return metrics


def fit_estimator(run: Run, task: Task, splits: dict[str, Split]) -> dict[str, Any]:
    """Return status and metrics of the estimator that `run` names, and a description of the targets of a regression.

    A classifier is measured on all splits, a regressor on the test split.
    """
    estimator = build_model(run.model)
    if isinstance(estimator, nn.Module):
        raise ValueError(f"model {run.model.name!r} is trained: its Run needs a learning_rate, epochs and a batch_size")
    inputs = {name: split.pixels(split.inputs).flatten(1).numpy() for name, split in splits.items()}
    metrics: dict[str, Any] = {}
    with threadpool_limits(1):
        estimator.fit(inputs[estimator.fit_on], splits[estimator.fit_on].targets.double().numpy())
        for name in splits if hasattr(task, "hits") else ("test",):
            predictions = torch.as_tensor(estimator.predict(inputs[name]))
            measured = task.metrics(predictions, splits[name].targets)
            metrics |= {f"{name}_{key}": value for key, value in measured.items()}
    if hasattr(task, "describe"):
        for name, split in splits.items():
            metrics |= {f"{name}_{key}": value for key, value in task.describe(split.targets).items()}
    return {"status": "finished", "metrics": metrics, "history": {}}


class Saving:
    """Writes a run's checkpoint at ends of epochs that lie `seconds` apart, and takes an interrupted run up again.

    After SIGTERM it writes one at the next end of an epoch, and raises Terminated. file: None for no checkpoints.
    clock: whose seconds go into the checkpoint. identity: of the run and what it learns from; a checkpoint of another
    one is not used.
    """

    def __init__(self, file: Path | None, seconds: float, clock: "Clock", identity: str) -> None:
        self.file, self.seconds, self.clock, self.identity = file, seconds, clock, identity
        self._saved_at = time.monotonic()

    def load(self, progress: Progress, *parts: Any) -> None:
        if self.file is not None and load_checkpoint(self.file, self.identity, progress, *parts):
            self.clock.add(progress.seconds)

    def save(self, progress: Progress, *parts: Any) -> None:
        ends = terminated.is_set()
        if self.file is not None and (ends or time.monotonic() - self._saved_at >= self.seconds):
            progress.seconds = self.clock.seconds()
            try:
                save_checkpoint(self.file, self.identity, progress, *parts)
            except OSError as error:  # no room for weights may well be enough for a record
                warn(f"the training goes on without a checkpoint: {error}")
            self._saved_at = time.monotonic()
        if ends:
            raise Terminated(TERMINATED)
