"""How long runs would take, from what runs like them took. Imports no torch."""

import collections
import itertools
import math
import statistics
from collections.abc import Callable, Iterable

from deepnets_utils.runs import Result, Run

TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits_28": 1_397, "digits_32": 1_397}
SAMPLE = 2000  # stored results that an estimate looks at


def estimate(runs: Iterable[Run], results: Iterable[Result]) -> float:
    """Return the seconds that `runs` would take one after another, NaN when nothing comparable is stored.

    Sums `estimates`; what is like nothing stored counts as the mean of the others.
    """
    found = estimates(runs, results)
    seconds = [value for value in found if value == value]
    return statistics.mean(seconds) * len(found) if seconds else float("nan")


def estimates(
    runs: Iterable[Run], results: Iterable[Result], operations: Callable[[Run], float] | None = None
) -> list[float]:
    """Return the seconds of each run as those alike took them, NaN where there are none among the first results.

    The median seconds per epoch and training image of results with the same model, task and batch size, else with the
    same model, else with a model of the same name, and a task of the same name, whatever device they ran on. An
    estimator counts as one epoch. operations: multiply-adds of a training, NaN where unknown; with it a run like
    nothing stored takes what the quickest result of a task of the same name would need for its operations.
    """
    runs, results = list(runs), list(itertools.islice(results, SAMPLE))
    times: dict[tuple, list[float]] = collections.defaultdict(list)
    for result in results:
        for kind in _kinds(result.run):
            times[kind].append(_seconds(result) / images_seen(result.run))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    found = [next((medians[kind] for kind in _kinds(run) if kind in medians), float("nan")) for run in runs]
    found = [value * images_seen(run) for value, run in zip(found, runs, strict=True)]
    if operations is not None:
        unknown = {run.task.name for run, value in zip(runs, found, strict=True) if value != value}
        speeds: dict[str, float] = {}
        for result in results:
            if (task := result.run.task.name) in unknown and (done := operations(result.run)) == done:
                speeds[task] = max(speeds.get(task, 0.0), done / _seconds(result))
        for place, run in enumerate(runs):
            if found[place] != found[place] and speeds.get(run.task.name):
                found[place] = operations(run) / speeds[run.task.name]
    return found


def images_seen(run: Run) -> int:
    """Return how many training images a run sees; a task without a train_size counts as one that uses all."""
    return max(1, run.epochs) * (dict(run.task.options).get("train_size") or TRAINING_IMAGES[run.dataset])


def _seconds(result: Result) -> float:
    # On a busy machine a run's wall time is mostly that of others.
    seconds = min(result.provenance["wall_seconds"], result.provenance.get("cpu_seconds", math.inf))
    return max(seconds, 1e-3)  # records round to this, and speeds divide by it


def _kinds(run: Run) -> list[tuple]:
    return [
        (run.dataset, run.model, run.task, run.batch_size),
        (run.dataset, run.model, run.task.name),
        (run.dataset, run.model.name, run.task.name),
    ]
