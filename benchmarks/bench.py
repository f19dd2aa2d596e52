"""The benchmark: the same networks, batches and steps, trained by PyTorch Lightning, a plain loop and this package.

A speed-up that trains something else is none: the losses of every way are compared too.
"""

import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from operator import itemgetter
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.cases import CASES, EPOCHS, make_run
from benchmarks.opponents import CONDITIONS, Timed, by_lightning, by_plain_loop, now
from deepnets_utils.data import inventory, loading
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.run import Run
from deepnets_utils.sweeps.workers import InProcess, WorkerProcess, resolve, take_workers
from deepnets_utils.training.train import train, train_group

LOSS_TOLERANCE = 0.05  # measured: rounding moves the median by 0.0001 to 0.01, a rate 2 % higher by 0.05 to 0.3
OPPONENT = "PyTorch Lightning"
LARGE_AT_ONCE = 4  # VGG19 with its gradients and momentum takes 1.7 GB a process
COLUMNS = 3  # of panels


@dataclass(frozen=True)
class Way:
    """How to train `count` runs at once on "cpu" or "cuda"; networks: names in CASES of those that it trains."""

    name: str
    device: str
    count: int
    call: Callable[[list[Run]], list[Timed]]
    networks: Sequence[str]


@dataclass(frozen=True)
class Measurement:
    """seconds: per 1,000 steps and run. losses: mean over the last epoch's steps, by seed."""

    network: str
    way: str
    device: str
    seconds: float
    losses: dict[int, float]


def by_package(run: Run, device: str = "cpu") -> Timed:
    """Train as a sweep does."""
    ends: list[float] = []
    result = train(run, device=device, on_epoch=lambda *_: ends.append(now(device)))
    return Timed(ends[-1] - ends[0], result.history["train_loss"][-1])


def by_workers(runs: Sequence[Run], workers: Sequence[WorkerProcess]) -> list[Timed]:
    """Train one run in each worker, all at once; each is timed beside its busy neighbours."""
    calls = [worker.submit(by_package, run) for worker, run in zip(workers, runs, strict=True)]
    return [Timed(call.result().seconds / len(runs), call.result().loss) for call in calls]


def by_replicas(runs: Sequence[Run], device: str) -> list[Timed]:
    """Train the runs as one network."""
    ends: list[float] = []
    results = train_group(runs, device=device, on_epoch=lambda *_: ends.append(now(device)))
    return [Timed((ends[-1] - ends[0]) / len(runs), result.history["train_loss"][-1]) for result in results]


def one_by_one(process: Executor, train_one: Callable[..., Timed], device: str, runs: Sequence[Run]) -> list[Timed]:
    """Train runs one after the other in a process."""
    return [process.submit(train_one, run, device).result() for run in runs]


def make_ways(workers: Sequence[WorkerProcess], other: Executor, cuda: bool) -> list[Way]:
    """Return the ways of this machine; a network's first one on a device is what the others there are compared with.

    other: a process for the opponents, in which this package sets nothing (threads, memory, number formats).
    """
    small, middle, large = ([n for n, c in CASES.items() if c.fewer == fewer] for fewer in (1, 10, 100))
    here = InProcess()
    ways = [
        Way(OPPONENT, "cpu", 1, partial(one_by_one, other, by_lightning, "cpu"), small),
        Way("plain loop", "cpu", 1, partial(one_by_one, other, by_plain_loop, "cpu"), list(CASES)),
        Way("package, one run", "cpu", 1, partial(one_by_one, here, by_package, "cpu"), list(CASES)),
    ]
    for taken, names in ((workers, small + middle), (workers[:LARGE_AT_ONCE], large)):
        title = f"package, {len(taken)} processes"
        ways.append(Way(title, "cpu", len(taken), lambda runs, taken=taken: by_workers(runs, taken), names))
    if cuda:
        ways += [
            Way(OPPONENT, "cuda", 1, partial(one_by_one, other, by_lightning, "cuda"), small),
            Way("plain loop", "cuda", 1, partial(one_by_one, other, by_plain_loop, "cuda"), middle + large),
            Way("package, one run", "cuda", 1, partial(one_by_one, here, by_package, "cuda"), middle + large),
        ]
        for count in (1, 10, 30):
            title = f"package, {count} replicas"
            ways.append(Way(title, "cuda", count, lambda runs: by_replicas(runs, "cuda"), small))
    return ways


def measure(ways: Sequence[Way], datasets: Mapping[str, str], rounds: int, steps: int) -> list[Measurement]:
    """Return a measurement a round, network and way, interleaved so that the machine's noise hits all alike.

    datasets: by the names in CASES, what is there. steps: of an epoch of the small networks.
    """
    found = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for (network, case), way in itertools.product(CASES.items(), ways):
            if network in way.networks:
                own = case.steps(steps)
                runs = [make_run(datasets[case.dataset], network, own, number + k) for k in range(way.count)]
                timed = way.call(runs)
                seconds = statistics.mean(item.seconds for item in timed) / ((EPOCHS - 1) * own / 1000)
                losses = {run.seed: item.loss for run, item in zip(runs, timed, strict=True)}
                found.append(Measurement(network, way.name, way.device, seconds, losses))
    return found


def summarise(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row a network and way, in their order, of plain data.

    seconds: of each round, per 1,000 steps and run; median_seconds. images_per_second: of all runs at once. ratio: the
    median of the network's first way on the same device over this one. losses: by seed. loss_difference: median over
    the seeds that both have of |loss / loss of the network's first way - 1|.
    """
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for item in measurements:
        groups.setdefault((item.network, item.way, item.device), []).append(item)
    medians = {key: statistics.median(item.seconds for item in group) for key, group in groups.items()}
    losses = {key: {k: v for item in group for k, v in item.losses.items()} for key, group in groups.items()}
    first, first_there = ({where(key): key for key in reversed(groups)} for where in (itemgetter(0), itemgetter(0, 2)))
    rows = []
    for (network, way, device), group in groups.items():
        own, reference = losses[network, way, device], losses[first[network]]
        differences = [abs(own[seed] / reference[seed] - 1) for seed in own.keys() & reference.keys()]
        row = {"network": network, "way": way, "device": device, "seconds": [item.seconds for item in group]}
        row |= {"median_seconds": medians[network, way, device]}
        row |= {"images_per_second": 1000 * CASES[network].batch_size / row["median_seconds"]}
        row |= {"ratio": medians[first_there[network, device]] / row["median_seconds"], "first": first[network][1]}
        rows.append(row | {"losses": own, "loss_difference": float(np.median(differences))})
    return rows


def disagreements(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a text for each row whose losses are not its network's first way's: LOSS_TOLERANCE away, or NaN."""
    return [
        f"{row['way']} on {row['device']} does not train {row['network']} as {row['first']} does: "
        f"its losses differ by {row['loss_difference']:.1%}, allowed are {LOSS_TOLERANCE:.0%}"
        for row in rows
        if not row["loss_difference"] <= LOSS_TOLERANCE
    ]


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return what a reader wants of the rows, as a table of texts."""
    shown = {
        "network": lambda row: row["network"],
        "way": lambda row: row["way"],
        "device": lambda row: row["device"],
        "s per 1,000 steps and run": lambda row: f"{row['median_seconds']:.3g}",
        "images/s": lambda row: f"{row['images_per_second']:,.0f}",
        "times faster": lambda row: f"{row['ratio']:.1f}",
        "loss": lambda row: f"{statistics.median(row['losses'].values()):.3g}",
        "loss differs by": lambda row: f"{row['loss_difference']:.2%}",
    }
    return pd.DataFrame([{name: text(row) for name, text in shown.items()} for row in rows])


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the figure: a panel a network, a bar a way, a point a round, and how many times faster it is."""
    networks, ways = (list(dict.fromkeys(row[key] for row in rows)) for key in ("network", "way"))
    width, height = min(len(networks), COLUMNS), -(-len(networks) // COLUMNS)
    figure, panels = plt.subplots(height, width, figsize=(4.5 * width, 3 * height), squeeze=False)
    for axes in panels.flat[len(networks) :]:
        axes.remove()
    for network, axes in zip(networks, panels.flat, strict=False):
        shown = [row for row in rows if row["network"] == network]
        names = [f"{row['way']} ({row['device']})" for row in shown]
        colours = [f"C{ways.index(row['way'])}" for row in shown]
        axes.barh(names, [row["median_seconds"] for row in shown], color=colours)
        for place, row in enumerate(shown):
            axes.plot(row["seconds"], [place] * len(row["seconds"]), "|", color="0.2")
            axes.annotate(f" {row['ratio']:.1f} x", (max(row["seconds"]), place), va="center")
        axes.set_title(f"network {network}")
        axes.margins(x=0.3)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
    figure.supxlabel("seconds per 1,000 steps and run", fontsize="medium")
    return figure


def benchmark(rounds: int, steps: int) -> dict[str, Any]:
    """Return where and how it was measured, and the rows of `summarise`, as plain data.

    rounds: from 1; steps: of an epoch, from 1 to what the data set has. Raises ParameterError without Lightning and
    when they do not fit, before anything is trained.
    """
    if importlib.util.find_spec("lightning") is None:
        raise ParameterError('the opponent, PyTorch Lightning, is not installed: pip install -e ".[bench]"')
    datasets, left_out = {case.dataset: case.dataset for case in CASES.values()}, []
    for name in [name for name in datasets if not inventory.present(name)]:
        datasets[name] = inventory.embedded(name)
        left_out.append(f"{name} (`deepnets data` gets it): {datasets[name]} stands in, with few steps an epoch")
    sizes = {name: len(loading.load(chosen).train_images) for name, chosen in datasets.items()}
    most = min(sizes[case.dataset] // case.batch_size * case.fewer for case in CASES.values())
    steps = min(steps, most) if left_out else steps
    if rounds < 1 or not 1 <= steps <= most:
        raise ParameterError(f"rounds must be at least 1 and steps 1 to {most}; they are {rounds} and {steps}")
    cuda, threads = torch.cuda.is_available(), torch.get_num_threads()
    if not cuda:
        left_out.append("CUDA: torch finds no such device here")
    for text in left_out:
        print(f"left out: {text}", file=sys.stderr)

    names = list(CASES)
    first = make_run(datasets[CASES[names[0]].dataset], names[0], 1, 0)
    provenance = train(first).provenance
    other, *workers = take_workers(1 + resolve("cpu", 0)[1])
    try:
        by_workers([first] * len(workers), workers)  # imports and data: later no worker trains beside an idle one
        rows = summarise(measure(make_ways(workers, other, cuda), datasets, rounds, steps))
    finally:
        for worker in (other, *workers):
            worker.shutdown(wait=False)
    packages = {name: version(name) for name in ("torchvision", "lightning")}
    packages |= {name: provenance[name] for name in ("torch", "python", "deepnets_utils")}
    gpu = torch.cuda.get_device_name() if cuda else None
    return {
        "date": provenance["finished_at"],
        "hardware": {"cpu": provenance["device"], "cores": len(workers), "gpu": gpu},
        "versions": packages,
        "data": {chosen: CANONICAL[chosen] for chosen in datasets.values()},
        "training": {
            name: make_run(datasets[case.dataset], name, case.steps(steps), 0).to_json() for name, case in CASES.items()
        },
        "rounds": rounds,
        "steps": {
            name: {"timed": (EPOCHS - 1) * case.steps(steps), "before": case.steps(steps)}
            for name, case in CASES.items()
        },
        "threads": {"opponents": threads, "package, a process": 1},
        "opponents": CONDITIONS,
        "left_out": left_out,
        "loss_tolerance": LOSS_TOLERANCE,
        "rows": rows,
    }
