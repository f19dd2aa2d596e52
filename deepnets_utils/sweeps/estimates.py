"""How long runs would take, from what runs like them took. Imports no torch."""

import collections
import contextlib
import functools
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

from deepnets_utils.runs import paths
from deepnets_utils.runs.files import write_text
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.sizes import images_seen, input_shape

TERAFLOPS = 10.0  # sustained, of a card from which nothing is stored: a guess, and said to be one


def estimate(runs: Iterable[Run], results: Iterable[Result], device: str = "cpu") -> float:
    """Return the seconds that `runs` would take on a device one after another, NaN when nothing comparable is stored.

    Sums `estimates`; what is like nothing stored counts as the mean of the others.
    """
    found = estimates(runs, results, device)
    seconds = [value for value in found if value == value]
    return statistics.mean(seconds) * len(found) if seconds else float("nan")


def estimates(runs: Iterable[Run], results: Iterable[Result], device: str = "cpu") -> list[float]:
    """Return the seconds of each run as those alike took them, NaN where none are stored.

    device: "cpu" or "cuda", what they would be trained on. Only results from that kind count: the other may be a
    hundred times as fast or as slow. An estimator is always fitted on the CPU, and counts as one epoch.
    The median seconds per epoch and training image of results with the same model, task and batch size, else with the
    same model, and a task of the same name. A run whose model is not stored takes what the quickest result of a task of
    the same name would need for its multiply-adds: many small runs beside it do not change the price of a large one. On
    cuda without such a result they are done at TERAFLOPS. Where they are unknown a model of the same name tells.
    """

    alike: dict[tuple | str, list[Result]] = collections.defaultdict(list)
    for result in results:
        place = "cpu" if result.run.learning_rate is None else device
        if result.status == "finished" and result.device_kind == place:  # one that diverged took less
            for kind in (*_kinds(result.run), result.run.task.name):
                alike[kind].append(result)

    @functools.cache
    def pace(kind: tuple) -> float:
        return statistics.median(_seconds(result) / images_seen(result.run) for result in alike[kind])

    @functools.cache
    def speed(task: str) -> float:
        speeds = [operations(result.run) / _seconds(result) for result in alike[task]]
        return max((known for known in speeds if known == known), default=math.nan)

    def price(run: Run) -> float:
        *same, named = _kinds(run)
        if kind := next((kind for kind in same if kind in alike), None):
            return pace(kind) * images_seen(run)
        if not math.isnan(operations(run)):  # asked for last: it builds the network
            known = speed(run.task.name)
            guess = TERAFLOPS * 1e12 / 2 if device == "cuda" else math.nan
            return operations(run) / (guess if math.isnan(known) else known)
        return pace(named) * images_seen(run) if named in alike else math.nan

    return [price(run) for run in runs]


def operations(run: Run) -> float:
    """Return the multiply-adds of a training, NaN where they are unknown.

    To import torch, build fifty networks and count takes ten seconds: what was counted is kept in runs/operations.json.
    """
    if run.learning_rate is None:
        return math.nan
    file = paths.output_root() / "runs" / "operations.json"
    networks = canonical([run.model.to_json(), run.teacher and run.teacher.model.to_json(), input_shape(run)])
    an_image = _counted(file)
    if run.local or networks not in an_image:
        from deepnets_utils.models.cost import training_operations

        if run.local:  # the file is for all processes, and others do not know what a notebook defines
            return training_operations(run)
        an_image[networks] = training_operations(run) / images_seen(run)
        with contextlib.suppress(OSError):  # a folder that may only be read
            write_text(file, json.dumps(an_image))
    return an_image[networks] * images_seen(run)


@functools.cache
def _counted(file: Path) -> dict[str, float]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):  # there is none yet, or it is damaged
        return {}


def basis(results: Iterable[Result], device: str) -> str:
    """Return in words what `estimates` goes by."""
    guess = f"by operations at {TERAFLOPS:g} TFLOP/s, a guess"
    if device == "cpu":
        return "by stored runs on cpu"
    if any(result.device_kind == device and result.status == "finished" for result in results):
        return f"by stored runs on {device}, and of other tasks {guess},"
    return f"{guess} (no run from a card is stored),"


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
