"""The first minutes on a card: checks, measurements, then paper's runs: `python -m benchmarks.gpu --minutes 10`.

Checks: a stack trains what its runs train alone, whatever becomes of a neighbour; bfloat16 is near float32; runs and
stacks repeat to the bit. Measured, network by network: PyTorch Lightning and a plain loop, one run (also compiled, and
in bfloat16), and stacks of 1, 2, 4, ... runs until twice as many pay no longer. All is written at once to
data/benchmarks/<card>.json. The rest of the time trains what `deepnets plan` listed; each record is stored at once.
"""

import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.bench import by_package, by_replicas
from benchmarks.cases import CASES, EPOCHS, make_run
from benchmarks.opponents import Timed, by_lightning, by_plain_loop
from deepnets_utils.data.inventory import embedded, present
from deepnets_utils.runs import paths
from deepnets_utils.runs.files import write_text
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.sizes import TRAINING_IMAGES
from deepnets_utils.training import machine
from deepnets_utils.training.grouping import group_size
from deepnets_utils.training.train import train, train_group

SHARES = {"checks": 0.15, "measurements": 0.5}  # of the time; what is left trains
CHECKED = ("None", "Base", "3-layer-linear", "3-layer-1-CONV")
BOUNDS = {  # of the loss of the first epoch, relative
    "stacked against alone": 0.01,
    "bfloat16 against float32": 0.05,
    "alone again": 0.0,
    "stacked again": 0.0,
    "beside one that diverges": 0.0,
}
EPOCH_SECONDS = 120.0  # in which what trains at the end has to come to the end of its epoch
PAYS = 1.1  # times as many images a second, for twice as many runs in a stack
ORDER = ("04", "06", "02", "03", "07", "05")  # studies by what their runs are worth: the claims without numbers first


def run_of(network: str, steps: int, seed: int = 0) -> Run:
    """Return a short training of one of the benchmark's networks; on the digits, and shorter, without its data set."""
    case = CASES[network]
    dataset = case.dataset if present(case.dataset) else embedded(case.dataset)
    return make_run(dataset, network, min(case.steps(steps), TRAINING_IMAGES[dataset] // case.batch_size), seed)


def checks(network: str, device: str, steps: int) -> Iterator[dict[str, Any]]:
    """Yield what was checked, the difference found, and its bound."""
    runs = [run_of(network, steps, seed) for seed in range(3)]
    sick = [runs[0], replace(runs[1], learning_rate=1e30), runs[2]]

    def losses(results: Sequence[Result]) -> np.ndarray:
        return np.array([result.history.get("train_loss", [np.nan])[0] for result in results])

    def found(what: str) -> float:
        alone = losses([train(run, device=device) for run in runs])
        others = {
            "stacked against alone": lambda: losses(train_group(runs, device=device)),
            "bfloat16 against float32": lambda: losses(
                [train(replace(run, precision="bfloat16"), device=device) for run in runs]
            ),
            "alone again": lambda: losses([train(run, device=device) for run in runs]),
        }
        if what in others:
            return float(np.abs(others[what]() / alone - 1).max())
        whole = losses(train_group(runs, device=device))
        again = losses(train_group(sick if what == "beside one that diverges" else runs, device=device))
        return float(np.abs(again / whole - 1)[[0, 2]].max())

    for what, bound in BOUNDS.items():
        row: dict[str, Any] = {"network": network, "check": what, "bound": bound}
        try:
            difference = found(what)
            yield row | {"difference": difference, "ok": difference <= bound}
        except Exception as error:  # the others are still worth their time
            yield row | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0], "ok": False}


@contextlib.contextmanager
def compiled(mode: str) -> Iterator[None]:
    """Have networks be compiled."""
    machine.COMPILE = mode
    try:
        yield
    finally:
        machine.COMPILE = ""


def measured(network: str, way: str, runs: list[Run], call: Callable[[], list[Timed]]) -> dict[str, Any]:
    """Return a row: images a second of all runs together, seconds per 1,000 steps and run, and the peak of memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"network": network, "way": way, "runs": len(runs)}
    try:
        timed = call()
    except Exception as error:  # out of memory, a network that cannot be compiled: the row says so
        return row | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    steps = (EPOCHS - 1) * dict(runs[0].task.options)["train_size"] // runs[0].batch_size
    row["seconds"] = 1000 * timed[0].seconds / steps  # a run's share
    row["images_per_second"] = 1000 * runs[0].batch_size / row["seconds"]
    return row | {"megabytes": torch.cuda.max_memory_allocated() // 1_000_000 if torch.cuda.is_available() else None}


def measurements(network: str, device: str, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a network, opponents first."""
    run = run_of(network, steps)
    one = {"plain loop": lambda: [by_plain_loop(run, device)]}
    if importlib.util.find_spec("lightning") and CASES[network].fewer == 1:
        one["PyTorch Lightning"] = lambda: [by_lightning(run, device)]
    one["package, one run"] = lambda: [by_package(run, device)]
    one["package, one run, bfloat16"] = lambda: [by_package(replace(run, precision="bfloat16"), device)]
    for way, call in one.items():
        yield measured(network, way, [run], call)
    with compiled("reduce-overhead"):
        yield measured(network, "package, one run, compiled", [run], one["package, one run"])
    best, count = 0.0, 1
    while count <= group_size(run):
        runs = [run_of(network, steps, seed) for seed in range(count)]
        row = measured(network, "package, a stack", runs, lambda runs=runs: by_replicas(runs, device))
        yield row
        if row.get("images_per_second", 0.0) <= PAYS * best:
            break
        best, count = row["images_per_second"], 2 * count
    with compiled("reduce-overhead"):
        yield measured(network, "package, a stack, compiled", runs, lambda: by_replicas(runs, device))


def train_until(deadline: float, device: str) -> list[str]:
    """Train paper's runs, study by study, until the time is over; return the lists that were begun."""
    begun = []
    for study in ORDER:
        for file in sorted((paths.output_root() / "reports" / "paper").glob(f"{study}_*.runs.jsonl")):
            if (left := deadline - time.monotonic()) <= 0:
                return begun
            begun.append(file.name)
            command = [sys.executable, "-c", "from deepnets_utils.cli import main; main()", "train", str(file)]
            training = subprocess.Popen([*command, "--device", device, "--yes"])
            try:
                training.wait(left)
            except subprocess.TimeoutExpired:
                training.send_signal(signal.SIGTERM)  # a checkpoint at the end of its epoch, so that it goes on later
                with contextlib.suppress(subprocess.TimeoutExpired):
                    training.wait(EPOCH_SECONDS)
                training.kill()
    return begun


def main(
    minutes: Annotated[float, typer.Option(metavar="N", help="In all.")] = 10.0,
    device: Annotated[str, typer.Option(metavar="NAME", help="cuda, or cpu for a rehearsal.")] = "cuda",
    steps: Annotated[int, typer.Option(metavar="N", help="Steps an epoch of the small networks.")] = 100,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where all is written.")] = None,
) -> None:
    """Check, measure, then train paper's runs until the time is over; exit code 1 when a check fails."""
    start, seconds = time.monotonic(), 60 * minutes
    if device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device here; --device cpu rehearses", file=sys.stderr)
        raise typer.Exit(2)
    card = torch.cuda.get_device_name() if device == "cuda" else "rehearsal"
    file = json_file or paths.ROOT / "data" / "benchmarks" / f"{re.sub(r'[^A-Za-z0-9]+', '-', card)}.json"
    found: dict[str, Any] = {"card": card, "torch": torch.__version__, "checks": [], "measurements": [], "begun": []}
    for part, of, networks in (("checks", checks, CHECKED), ("measurements", measurements, CASES)):
        end = time.monotonic() + SHARES[part] * seconds
        for row in (row for network in networks if time.monotonic() < end for row in of(network, device, steps)):
            found[part].append(row)
            print(row, flush=True)
            write_text(file, json.dumps(found, indent=1) + "\n")
            if time.monotonic() > end:
                break
    found["begun"] = train_until(start + seconds, device)
    write_text(file, json.dumps(found, indent=1) + "\n")
    print(file)
    raise typer.Exit(int(not all(row["ok"] for row in found["checks"])))


if __name__ == "__main__":
    typer.run(main)
