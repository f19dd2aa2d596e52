"""How long runs would take, from what runs like them took. Imports no torch."""

import collections
import contextlib
import functools
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable

from deepnets_utils.runs import paths
from deepnets_utils.runs.files import write_text
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.sizes import images_seen, input_shape

SAMPLE = 2000  # stored results that an estimate looks at
TERAFLOPS = 10.0  # sustained, of a card from which nothing is stored: a guess, and said to be one

_an_image: dict[str, float] = {}  # multiply-adds of a training, by its networks


def estimate(runs: Iterable[Run], results: Iterable[Result], device: str = "cpu") -> float:
    """Return the seconds that `runs` would take on a device one after another, NaN when nothing comparable is stored.

    Sums `estimates`; what is like nothing stored counts as the mean of the others.
    """
    found = estimates(runs, results, device)
    seconds = [value for value in found if value == value]
    return statistics.mean(seconds) * len(found) if seconds else float("nan")


def counted(run: Run) -> float:
    """Return `models.cost.training_operations`; each network is counted once and kept in runs/operations.json.

    To import torch, build fifty networks and count takes ten seconds.
    """
    if run.learning_rate is None:
        return math.nan
    file = paths.output_root() / "runs" / "operations.json"
    networks = canonical([run.model.to_json(), run.teacher and run.teacher.model.to_json(), input_shape(run)])
    if networks not in _an_image:
        with contextlib.suppress(OSError, ValueError, TypeError):  # there is none yet, or it is damaged
            _an_image.update(json.loads(file.read_text()))
    if networks not in _an_image:
        from deepnets_utils.models.cost import training_operations

        if run.local:  # the file is for all processes, and others do not know what a notebook defines
            return training_operations(run)
        _an_image[networks] = training_operations(run) / images_seen(run)
        with contextlib.suppress(OSError):  # a folder that may only be read
            write_text(file, json.dumps(_an_image))
    return _an_image[networks] * images_seen(run)


def estimates(
    runs: Iterable[Run],
    results: Iterable[Result],
    device: str = "cpu",
    operations: Callable[[Run], float] = counted,
) -> list[float]:
    """Return the seconds of each run as those alike took them, NaN where there are none among the first results.

    On cuda a run like nothing stored is priced by its operations at TERAFLOPS, see `basis`.

    device: "cpu" or "cuda", what they would be trained on. Only results from that kind count: the other may be a
    hundred times as fast or as slow. An estimator is always fitted on the CPU.
    The median seconds per epoch and training image of results with the same model, task and batch size, else with the
    same model, and a task of the same name. An estimator counts as one epoch. A run whose model is not stored takes
    what the quickest result of a task of the same name would need for its multiply-adds: many small runs beside it do
    not change the price of a large one. operations: multiply-adds of a training, NaN where unknown; then a model of
    the same name tells.
    """

    def comparable(result: Result) -> bool:
        place = "cpu" if result.run.learning_rate is None else device
        finished = result.status == "finished"  # one that diverged took less
        return finished and place.startswith(result.device_kind)

    results = list(itertools.islice(filter(comparable, results), SAMPLE))
    alike: dict[tuple, list[Result]] = collections.defaultdict(list)
    for result in results:
        for kind in _kinds(result.run):
            alike[kind].append(result)

    @functools.cache
    def pace(kind: tuple) -> float:
        return statistics.median(_seconds(result) / images_seen(result.run) for result in alike[kind])

    @functools.cache
    def speed(task: str) -> float:
        done = [(operations(result.run), _seconds(result)) for result in results if result.run.task.name == task]
        return max((amount / seconds for amount, seconds in done if amount == amount), default=math.nan)

    def price(run: Run) -> float:
        *same, named = _kinds(run)
        if kind := next((kind for kind in same if kind in alike), None):
            return pace(kind) * images_seen(run)
        if not math.isnan(operations(run)):  # asked for last: it builds the network
            known = speed(run.task.name)
            guess = TERAFLOPS * 1e12 / 2 if device.startswith("cuda") else math.nan
            return operations(run) / (guess if math.isnan(known) else known)
        return pace(named) * images_seen(run) if named in alike else math.nan

    return [price(run) for run in runs]


def basis(results: Iterable[Result], device: str) -> str:
    """Return in words what `estimates` goes by."""
    known = [result for result in results if result.device_kind == "cuda" and result.status == "finished"]
    if device.startswith("cuda") and not known:
        return f"by operations at {TERAFLOPS:g} TFLOP/s, a guess (no run from a card is stored),"
    if device.startswith("cuda"):
        return f"by stored runs on {device}, and of other tasks by operations at {TERAFLOPS:g} TFLOP/s, a guess,"
    return f"by stored runs on {device}"


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
