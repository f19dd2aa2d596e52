"""One run, or several as one network, start to end: data, network, epochs, test."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import derived_seed
from deepnets_utils.data.tasks import Split, build_task
from deepnets_utils.models import build_model
from deepnets_utils.runs.files import move_aside
from deepnets_utils.runs.run import Result, Run, joint_digest
from deepnets_utils.training import machine
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress, Saving, load_state, save_state
from deepnets_utils.training.checks import check_parts, watched_splits
from deepnets_utils.training.fitting import fit_estimator
from deepnets_utils.training.grouping import group_key, group_size  # noqa: F401  (a sweep asks its trainer's module)
from deepnets_utils.training.loop import (
    Training,
    evaluate,
    finite,
    first_broken,
    range_test,
    train_epoch,
)
from deepnets_utils.training.machine import Clock, numerics, provenance
from deepnets_utils.training.optimizers import make_optimizer, set_rates
from deepnets_utils.training.range_test import suggestion
from deepnets_utils.training.schedules import build_schedule
from deepnets_utils.training.stack import Stack, load_states, side_by_side, states

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
    if run.learning_rate is None:
        images, clock = loading.load(run.dataset), Clock()
        task = build_task(run.task)
        with numerics():
            outcome = fit_estimator(run, task, task.splits(images, run.data_seed))
        origin = provenance("estimator", "cpu", clock, images) | {"device_kind": "cpu"}
        return Result(run=run, provenance=origin, **outcome)
    [result], network = _train([run], device, checkpoint, checkpoint_seconds, on_epoch, teacher)
    if weights is not None:
        if result.status == "diverged":  # and so do its students, at their first step
            for parameter in network.parameters():
                nn.init.constant_(parameter, math.nan)
        state = {"digest": run.digest, "network": network.state_dict()}
        result.provenance["weights_sha256"] = save_state(weights, state)
    return result


def train_group(
    runs: Sequence[Run],
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: OnEpoch | None = None,
    teacher: Path | None = None,
) -> list[Result]:
    """Train runs that share a `group_key` as one network and return their Results, in order.

    The options are `train`'s; on_epoch is given the history of one of them. The seconds are shared out
    evenly. Each run comes out as `train` would have it, up to rounding, and with dropout in distribution. Raises as
    `train` does, and ValueError for runs that do not share a key, or whose splits differ in shape.
    """
    if len(keys := {group_key(run) for run in runs}) != 1 or None in keys:
        raise ValueError(f"runs that train together need one group_key, these {len(runs)} have {len(keys)}: {keys}")
    ordered = sorted(runs, key=lambda run: run.digest)  # a checkpoint serves them in whatever order they come
    results, _ = _train(ordered, device, checkpoint, checkpoint_seconds, on_epoch, teacher, stacked=True)
    of = dict(zip((run.digest for run in ordered), results, strict=True))
    return [of[run.digest] for run in runs]


def _train(
    runs: Sequence[Run],
    device: str,
    checkpoint: Path | None,
    checkpoint_seconds: float,
    on_epoch: OnEpoch | None,
    teacher: Path | None,
    stacked: bool = False,
) -> tuple[list[Result], nn.Module]:
    """Return the Result of each run, and the trained network."""
    run, place, images, clock = runs[0], torch.device(device), loading.load(runs[0].dataset), Clock()
    extra: dict[str, Any] = {"device_kind": place.type}
    identity = joint_digest(runs) if stacked else run.digest
    with numerics():
        made = {
            (task, seed): build_task(task).splits(images, seed)
            for task, seed in {(of.task, of.data_seed) for of in runs}
        }
        task, splits = build_task(run.task), [made[of.task, of.data_seed] for of in runs]
        check_parts(run, task, splits[0])
        teacher_network = None
        if run.teacher is not None:
            teacher_network, extra["teacher_weights_sha256"] = load_teacher(run.teacher, teacher, place)
            identity += extra["teacher_weights_sha256"]  # a teacher that was trained again may have other weights
        network = Stack([make_network(of, place) for of in runs]) if stacked else make_network(run, place)
        if machine.COMPILE:
            torch.compiler.reset()  # what it compiles for other networks counts against a limit
            network.compile(mode=machine.COMPILE)
            extra["compiled"] = machine.COMPILE
        batches = Batches(runs, teacher_network, stacked)
        training = Training(runs, task, network, batches, [Progress.start(of.seed) for of in runs])
        saving = Saving(checkpoint, checkpoint_seconds, clock, identity)
        outcomes = train_network(training, on_device(batches, splits, place), saving, on_epoch)
    extra |= {"replicas": len(runs)} if stacked else {}
    origin = provenance("replicas" if stacked else "loop", device, clock, images, len(runs)) | extra
    results = [Result(run=of, provenance=dict(origin), **own) for of, own in zip(runs, outcomes, strict=True)]
    return results, training.network


def on_device(batches: Batches, splits: Sequence[dict[str, Split]], device: torch.device) -> dict[str, Split]:
    """Return the splits of the runs as the network reads them, with the teacher's logits where they stay the same."""
    if batches.teacher is not None:  # its students share their splits
        alone = Batches(batches.runs[:1], batches.teacher)
        taught = {name: alone.taught(split.to(device)) for name, split in splits[0].items() if name != "train"}
        splits = [splits[0] | taught] * len(splits)
    if batches.stacked:
        return {name: side_by_side([own[name] for own in splits], device) for name in splits[0]}
    return {name: split.to(device) for name, split in splits[0].items()}


def make_network(run: Run, device: torch.device) -> nn.Module:
    """Return the run's network with its initial weights; raises ValueError for an estimator."""
    torch.manual_seed(derived_seed("weights", run.seed))
    network = build_model(run.model)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {run.model.name!r} is fitted, not trained: its Run has no learning_rate and epochs")
    return network.to(device, memory_format=torch.channels_last)


def load_teacher(run: Run, file: Path | None, device: torch.device) -> tuple[nn.Module, str]:
    """Return the trained network of `run`, in evaluation mode, and the sha256 of its weights; ValueError without."""
    if file is None or not file.exists():
        raise ValueError(f"a student needs the weights of its teacher, and there are none: {run}")
    network = make_network(run, device)
    try:
        state, sha256 = load_state(file, run.digest)
        network.load_state_dict(state["network"])
    except OSError:  # the file may be good when it can be read again
        raise
    except Exception as error:  # torch.load raises many kinds
        where = move_aside(file)
        raise ValueError(
            f"the teacher's weights are not used: {error}; {where}; the next sweep trains it again"
        ) from error
    return network.eval(), sha256


def train_network(
    training: Training, splits: dict[str, Split], saving: Saving, on_epoch: OnEpoch | None = None
) -> list[dict[str, Any]]:
    """Train and test what trains together; return each run's status, metrics and history.

    The network keeps its last weights. Of a run that diverged the metrics are what its range test found, and the
    history is that of the epochs before its last one.
    """
    torch.manual_seed(derived_seed("dropout", training.run.seed))
    rates: list[Any] = [run.learning_rate for run in training.runs]
    found: list[dict[str, Any]] = [{} for _ in rates]
    if isinstance(rates[0], str):
        rule = "per_rate" if rates[0] == "range_test_per_rate" else "per_step"
        for number, losses in enumerate(range_test(training, splits["train"])):
            rates[number] = suggestion(losses, rule)
            found[number] = {"learning_rate": rates[number], "range_test_losses": losses}
            if math.isnan(rates[number]):
                training.progress[number].diverged_at, rates[number] = 0, 0.0
    train_epochs(training, splits, rates, saving, on_epoch)
    outcomes = []
    for own, of, metrics in zip(training.progress, found, tested(training, splits["test"]), strict=True):
        if own.diverged_at is None:
            outcomes.append({"status": "finished", "metrics": of | metrics, "history": own.history})
            continue
        whole = max(own.epoch - 1, 0)
        history = {name: values[:whole] for name, values in own.history.items() if values[:whole]}
        ended = {"status": "diverged", "diverged_at_step": own.diverged_at}
        outcomes.append(ended | {"metrics": of, "history": history})
    return outcomes


def train_epochs(
    training: Training, splits: dict[str, Split], rates: Sequence[float], saving: Saving, on_epoch: OnEpoch | None
) -> None:
    """Train all epochs, from a checkpoint on where there is one; rates: of the runs in the first epoch."""
    run, network, progress = training.run, training.network, training.progress
    schedule, now = build_schedule(run.schedule) if run.schedule else None, list(rates)
    optimizer = make_optimizer(run, network, rates)
    saving.load(progress, network, optimizer)
    while alive := [number for number, own in enumerate(progress) if own.diverged_at is None]:
        if progress[alive[0]].epoch == run.epochs:
            break
        for own in progress:
            if run.shuffle == "every_epoch" or own.order is None:
                own.order = torch.randperm(len(splits["train"]), generator=own.generator)
        for number in alive if schedule else []:
            own = progress[number]
            now[number] = schedule.rate(rates[number], own.epoch, own.history)
            own.record({"learning_rate": now[number]})
        set_rates(optimizer, now)
        losses = train_epoch(training, optimizer, splits["train"])
        metrics = [{"train_loss": curve.mean().item()} for curve in losses]
        if losses[alive].isfinite().all(1).any():
            for name in watched_splits(run, splits):
                for own, more in zip(metrics, evaluate(training, splits[name], name), strict=True):
                    own |= more
        weights = states(network) if run.keep_best else []
        for number in alive:
            own = progress[number]
            own.epoch += 1
            own.diverged_at = first_broken(own.epoch - 1, losses[number], metrics[number])
            if own.diverged_at is None:
                own.record(metrics[number])
                if run.keep_best:
                    own.keep_best(weights[number])
        going = [own for own in progress if own.diverged_at is None]
        if not going:
            break
        if on_epoch is not None:
            on_epoch(going[0].epoch, going[0].history)
        saving.save(progress, network, optimizer)


def tested(training: Training, split: Split) -> list[dict[str, Any]]:
    """Return what each run's network gives on the test split, with its last and its best weights.

    A run that its last update broke has diverged, too, and one that diverged has no such numbers.
    """
    run, network, progress = training.run, training.network, training.progress
    nothing: list[dict[str, Any]] = [{} for _ in progress]
    alive = [own for own in progress if own.diverged_at is None]
    metrics = evaluate(training, split, "test") if alive else nothing
    for own, of in zip(progress, metrics, strict=True):
        if own.diverged_at is None and not finite(of):
            own.diverged_at = run.epochs * math.ceil(len(own.order) / run.batch_size)
    if run.keep_best and any(own.diverged_at is None for own in progress):
        last = copy.deepcopy(network.state_dict())
        load_states(network, [own.best.get("network", now) for own, now in zip(progress, states(network), strict=True)])
        for own, of, best in zip(progress, metrics, evaluate(training, split, "selected_test"), strict=True):
            of |= best | {"selected_epoch": own.best.get("epoch")}
        network.load_state_dict(last)
    for own, of in zip(progress, metrics, strict=True):
        if own.gradients:
            windows = torch.tensor(own.gradients).T.chunk(min(GRADIENT_BINS, len(own.gradients)), dim=1)
            of["gradient_norms"] = torch.stack([window.mean(1) for window in windows], 1).tolist()
    return metrics
