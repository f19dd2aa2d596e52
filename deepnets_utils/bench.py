"""The benchmark: the same networks, batches and steps, trained by PyTorch Lightning, a plain loop and this package.

A speed-up that trains something else is none: the losses of every way are compared too.
"""

import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from deepnets_utils import data
from deepnets_utils.models import model
from deepnets_utils.opponents import CONDITIONS, Timed, by_lightning, by_plain_loop, now
from deepnets_utils.parameters import ParameterError
from deepnets_utils.runs import Run
from deepnets_utils.tasks import build_task, task
from deepnets_utils.training import numerics, train
from deepnets_utils.workers import WorkerProcess, resolve, take_workers

# go_deep's names of its networks.
NETWORKS = {
    "None": model("MLPRegressor"),
    "Base": model("ConvRegressor"),
    "10": model("ConvRegressor", extra_layers=10),
}
BATCH_SIZE, LEARNING_RATE = 64, 1e-3
EPOCHS = 3  # the first one warms up and is not timed
REPLICA_EPOCHS = 30  # replicas are quick: their time has to stand out of the start's
LOSS_TOLERANCE = 0.05  # measured: rounding moves the median by 0.0001 to 0.01, a rate 2 % higher by 0.05 to 0.3
OPPONENT = "PyTorch Lightning"


@dataclass(frozen=True)
class Way:
    """How to train `count` runs at once on "cpu" or "cuda"."""

    name: str
    device: str
    count: int
    call: Callable[[list[Run]], list[Timed]]


@dataclass(frozen=True)
class Measurement:
    """seconds: per 1,000 steps and run. losses: mean over the last epoch's steps, by seed."""

    network: str
    way: str
    device: str
    seconds: float
    losses: dict[int, float]


def by_package(run: Run) -> Timed:
    """Train as a sweep does."""
    ends: list[float] = []
    result = train(run, on_epoch=lambda *_: ends.append(now()))
    return Timed(ends[-1] - ends[0], result.history["train_loss"][-1])


def by_workers(runs: Sequence[Run], workers: Sequence[WorkerProcess]) -> list[Timed]:
    """Train one run in each worker, all at once; each is timed beside its busy neighbours."""
    calls = [worker.submit(by_package, run) for worker, run in zip(workers, runs, strict=True)]
    return [Timed(call.result().seconds / len(runs), call.result().loss) for call in calls]


def by_replicas(runs: Sequence[Run], device: str) -> list[Timed]:
    """Train the runs as one. Timed is what further epochs add: copying, capture and test come once a training."""
    from deepnets_utils.replicas import train_replicas

    tasks = [build_task(run.task) for run in runs]
    splits = [tasks[0].splits(data.load(runs[0].dataset), runs[0].data_seed)] * len(runs)
    times = [now(device)]
    with numerics():
        outcomes = train_replicas(runs, tasks, splits, device)
        times.append(now(device))
        train_replicas([replace(run, epochs=run.epochs + REPLICA_EPOCHS) for run in runs], tasks, splits, device)
        times.append(now(device))
    epoch = (times[2] - 2 * times[1] + times[0]) / REPLICA_EPOCHS
    seconds = (runs[0].epochs - 1) * epoch / len(runs)
    return [Timed(seconds, outcome["history"]["train_loss"][-1]) for outcome in outcomes]


def make_ways(workers: Sequence[WorkerProcess], cuda: bool) -> list[Way]:
    """Return the ways of this machine; the first one on a device is what the others there are compared with."""
    ways = [
        Way(OPPONENT, "cpu", 1, lambda runs: [by_lightning(run) for run in runs]),
        Way("plain loop", "cpu", 1, lambda runs: [by_plain_loop(run) for run in runs]),
        Way("package, one run", "cpu", 1, lambda runs: [by_package(run) for run in runs]),
        Way(f"package, {len(workers)} processes", "cpu", len(workers), lambda runs: by_workers(runs, workers)),
    ]
    if cuda:
        ways.append(Way(OPPONENT, "cuda", 1, lambda runs: [by_lightning(run, "cuda") for run in runs]))
        for count in (1, 10, 30):
            ways.append(Way(f"package, {count} replicas", "cuda", count, lambda runs: by_replicas(runs, "cuda")))
    return ways


def make_run(dataset: str, network: str, steps: int, seed: int) -> Run:
    """Return a training of EPOCHS epochs of `steps` steps."""
    learned = task("pixel_statistic", statistic="mean", train_size=steps * BATCH_SIZE, validation_size=0)
    fields = {"learning_rate": LEARNING_RATE, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": seed}
    return Run(dataset=dataset, task=learned, model=NETWORKS[network], **fields)


def measure(ways: Sequence[Way], dataset: str, rounds: int, steps: int) -> list[Measurement]:
    """Return a measurement a round, network and way, interleaved so that the machine's noise hits all alike."""
    found = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for network, way in itertools.product(NETWORKS, ways):
            runs = [make_run(dataset, network, steps, number + k) for k in range(way.count)]
            timed = way.call(runs)
            seconds = statistics.mean(item.seconds for item in timed) / ((EPOCHS - 1) * steps / 1000)
            losses = {run.seed: item.loss for run, item in zip(runs, timed, strict=True)}
            found.append(Measurement(network, way.name, way.device, seconds, losses))
    return found


def summarise(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row a network and way, in their order, of plain data.

    seconds: of each round, per 1,000 steps and run; median_seconds. ratio: the opponent's median on the same device
    over this one. losses: by seed. loss_difference: median over the seeds that both have of |loss / loss of the
    opponent on the CPU - 1|.
    """
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for item in measurements:
        groups.setdefault((item.network, item.way, item.device), []).append(item)
    medians = {key: statistics.median(item.seconds for item in group) for key, group in groups.items()}
    losses = {key: {k: v for item in group for k, v in item.losses.items()} for key, group in groups.items()}
    rows = []
    for (network, way, device), group in groups.items():
        own, reference = losses[network, way, device], losses[network, OPPONENT, "cpu"]
        differences = [abs(own[seed] / reference[seed] - 1) for seed in own.keys() & reference.keys()]
        row = {"network": network, "way": way, "device": device, "seconds": [item.seconds for item in group]}
        row |= {"median_seconds": medians[network, way, device]}
        row |= {"ratio": medians[network, OPPONENT, device] / row["median_seconds"]}
        rows.append(row | {"losses": own, "loss_difference": float(np.median(differences))})
    return rows


def disagreements(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a text for each row whose losses are not the opponent's: more than LOSS_TOLERANCE away, or NaN."""
    return [
        f"{row['way']} on {row['device']} does not train {row['network']} as {OPPONENT} does: "
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
        "times faster": lambda row: f"{row['ratio']:.1f}",
        "loss": lambda row: f"{statistics.median(row['losses'].values()):.3g}",
        "loss differs by": lambda row: f"{row['loss_difference']:.2%}",
    }
    return pd.DataFrame([{name: text(row) for name, text in shown.items()} for row in rows])


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the figure: a panel a network, a bar a way, a point a round, and how many times faster it is."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure, panels = plt.subplots(1, len(networks), figsize=(4 * len(networks), 3), sharey=True, squeeze=False)
    for network, axes in zip(networks, panels.flat, strict=True):
        shown = [row for row in rows if row["network"] == network]
        names = [f"{row['way']} ({row['device']})" for row in shown]
        axes.barh(names, [row["median_seconds"] for row in shown], color=[f"C{number}" for number in range(len(shown))])
        for place, row in enumerate(shown):
            axes.plot(row["seconds"], [place] * len(row["seconds"]), "|", color="0.2")
            axes.annotate(f" {row['ratio']:.1f} x", (max(row["seconds"]), place), va="center")
        axes.set(title=f"network {network}", xlabel="seconds per 1,000 steps and run")
        axes.margins(x=0.3)
        axes.grid(axis="y", visible=False)
    panels[0, 0].invert_yaxis()
    return figure


def benchmark(rounds: int, steps: int) -> dict[str, Any]:
    """Return where and how it was measured, and the rows of `summarise`, as plain data.

    rounds: from 1; steps: of an epoch, from 1 to what the data set has. Raises ParameterError without Lightning and
    when they do not fit, before anything is trained.
    """
    if importlib.util.find_spec("lightning") is None:
        raise ParameterError('the opponent, PyTorch Lightning, is not installed: pip install -e ".[bench]"')
    dataset, left_out = "fashion_mnist", []
    if not data.present(dataset):
        dataset = data.embedded(dataset)
        left_out.append(f"Fashion-MNIST (`deepnets data` gets it): {dataset} stands in, with few steps an epoch")
    most = len(data.load(dataset).train_images) // BATCH_SIZE
    steps = min(steps, most) if left_out else steps
    if rounds < 1 or not 1 <= steps <= most:
        raise ParameterError(f"rounds must be at least 1 and steps 1 to {most}; they are {rounds} and {steps}")
    cuda, threads = torch.cuda.is_available(), torch.get_num_threads()
    if not cuda:
        left_out.append("CUDA: torch finds no such device here")
    for text in left_out:
        print(f"left out: {text}", file=sys.stderr)

    first = make_run(dataset, "None", 1, 0)
    provenance = train(first).provenance
    workers = take_workers(resolve("cpu", 0)[1])
    try:
        by_workers([first] * len(workers), workers)  # imports and data: later no worker trains beside an idle one
        rows = summarise(measure(make_ways(workers, cuda), dataset, rounds, steps))
    finally:
        for worker in workers:
            worker.shutdown(wait=False)
    packages = {name: version(name) for name in ("torchvision", "lightning")}
    packages |= {name: provenance[name] for name in ("torch", "python", "deepnets_utils")}
    gpu = torch.cuda.get_device_name() if cuda else None
    return {
        "date": provenance["finished_at"],
        "hardware": {"cpu": provenance["device"], "cores": len(workers), "gpu": gpu},
        "versions": packages,
        "data": {"dataset": dataset, "fingerprint": provenance["data_fingerprint"]},
        "training": {"target": "mean", "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE},
        "rounds": rounds,
        "steps": {"timed": (EPOCHS - 1) * steps, "before": steps},
        "threads": {"opponents": threads, "package, a process": 1},
        "opponents": CONDITIONS,
        "left_out": left_out,
        "loss_tolerance": LOSS_TOLERANCE,
        "rows": rows,
    }
