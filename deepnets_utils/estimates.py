"""How long runs would take, from what runs like them took. Imports no torch."""

import collections
import itertools
import statistics
from collections.abc import Iterable

from deepnets_utils.runs import Result, Run
from deepnets_utils.store import Store

TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits_28": 1_397, "digits_32": 1_397}
SAMPLE = 1000  # stored results that an estimate looks at


def estimate(runs: Iterable[Run], store: Store) -> float:
    """Return the seconds that `runs` would take one after another, NaN when nothing comparable is stored.

    Sums `estimates`; where nothing alike is stored, a model and task of the same names count, and where that is not
    either, the mean of the others.
    """
    found = estimates(runs, store.results(), kinds=3)
    seconds = [value for value in found if value == value]
    return statistics.mean(seconds) * len(found) if seconds else float("nan")


def estimates(runs: Iterable[Run], results: Iterable[Result], kinds: int = 2) -> list[float]:
    """Return the seconds of each run as those alike took them, NaN where there are none among the first results.

    The median seconds per epoch and training image of results with the same model, task and batch size, else with the
    same model and a task of the same name, whatever device they ran on; kinds: how many of `_kinds` count. An
    estimator counts as one epoch.
    """
    times: dict[tuple, list[float]] = collections.defaultdict(list)
    for result in itertools.islice(results, SAMPLE):
        for kind in _kinds(result.run)[:kinds]:
            times[kind].append(result.provenance["wall_seconds"] / images_seen(result.run))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    found = [next((medians[kind] for kind in _kinds(run)[:kinds] if kind in medians), float("nan")) for run in runs]
    return [value * images_seen(run) for value, run in zip(found, runs, strict=True)]


def images_seen(run: Run) -> int:
    """Return how many training images a run sees; a task without a train_size counts as one that uses all."""
    return max(1, run.epochs) * (dict(run.task.options).get("train_size") or TRAINING_IMAGES[run.dataset])


def _kinds(run: Run) -> list[tuple]:
    return [
        (run.dataset, run.model, run.task, run.batch_size),
        (run.dataset, run.model, run.task.name),
        (run.dataset, run.model.name, run.task.name),
    ]
