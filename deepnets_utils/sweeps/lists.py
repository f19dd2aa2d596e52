"""Lists of planned runs: files with a run a line, how far they are, and what of them is published."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from deepnets_utils.data.inventory import embedded
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.files import write_text
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import NO_RECORD, Store, read_records, write_records
from deepnets_utils.sweeps.estimates import estimate
from deepnets_utils.sweeps.workers import resolve


def write_runs(file: Path, runs: Iterable[Run]) -> None:
    """Write a list, one run a line."""
    write_text(file, "".join(f"{canonical(run.to_json())}\n" for run in runs))


def read_runs(file: Path) -> list[Run]:
    """Return the runs of a list; raises ParameterError with file and line where it is not one."""
    runs: list[Run] = []
    try:
        for line in file.read_text().splitlines():
            runs.append(Run.from_json(json.loads(line)))
    except OSError as error:
        raise ParameterError(f"{file} cannot be read ({error.strerror}); `deepnets plan` writes such lists") from error
    except NO_RECORD as error:
        raise ParameterError(f"{file}, line {len(runs) + 1} is not a run: {error}") from error
    return runs


def progress(runs: Sequence[Run], stored: Sequence[Result]) -> str:
    """Return in words how many runs of a list are missing, and how long they take on this machine's CPUs."""
    there = {result.run.digest for result in stored}
    missing = [run for run in runs if run.digest not in there]
    workers = resolve("cpu", 0)[1]
    seconds = estimate(missing, stored) / workers
    time = f"about {duration(seconds)} on {workers} CPUs"
    if math.isnan(seconds):
        time = "nothing alike is stored that was trained on a CPU, to tell the time from"
    return f"{len(runs)} runs, {len(missing)} missing" + (f", {time}" if missing else "")


def publish(study: str, profile: str, runs: Sequence[Run], real: bool) -> str:
    """Copy the finished runs of a study's list into data/records/, and return in words what was done.

    Paper's file holds all that paper plans, another profile's what none of the study's other files does. What is in the
    file and planned no more leaves it. A record that is published stays, though the run was trained again here:
    published students learned from that teacher.
    real: leave runs on the embedded data out.
    """
    file = paths.RECORDS / (f"{study}.jsonl" if profile == "paper" else f"{study}_{profile}.jsonl")
    published = {each: list(read_records(each)) for each in paths.RECORDS.glob(f"{study}*.jsonl")}
    others = [other for other in published if other != file and profile != "paper"]
    elsewhere = {result.run.digest for other in others for result in published[other]}
    planned = {run.digest for run in runs if not real or embedded(run.dataset) != run.dataset}
    wanted = [run for run in runs if run.digest in planned - elsewhere]
    store = Store(published=paths.RECORDS)
    known = {result.run.digest: result for of_file in published.values() for result in of_file}
    results = [result for run in wanted if (result := known.get(run.digest) or store.get(run)) is not None]
    old = [result for result in published.get(file, []) if result.run.digest not in planned]
    if results:
        write_records(file, results)
    elif file in published and all(result.run.digest in elsewhere for result in published[file]):
        file.unlink()
    dropped = f", {len(old)} left out that are planned no more" if old and results else ""
    return f"{file}: {len(results)} runs published, {len(wanted) - len(results)} missing{dropped}"
