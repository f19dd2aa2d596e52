"""Sweeps: runs in, results out; what is stored is not trained again. Imports no torch."""

import contextlib
import functools
import itertools
import math
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace

from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.progress import Reporter, duration
from deepnets_utils.runs.run import LOOP_VERSION, Result, Run
from deepnets_utils.runs.sizes import images_seen
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.driver import IN_FLIGHT, Driver, TrainingFailed
from deepnets_utils.sweeps.estimates import basis, estimate
from deepnets_utils.sweeps.workers import InProcess, take_workers
from deepnets_utils.training.signals import TERMINATED, Terminated, handled, terminated

TRAINER = "deepnets_utils.training.train:train"
LONG_SECONDS = 2 * 3600.0
MANY_IMAGES = 20e6  # seen in training, from which on a sweep of unknown time may be long: 100 s to days on two CPUs
SAID = {
    signal.SIGINT: "interrupted: what is training is finished and stored; interrupt once more to end now",
    signal.SIGTERM: "SIGTERM: what is training saves a checkpoint at the end of its epoch, and ends",
}


class SweepTooLong(RuntimeError):
    """The missing runs are estimated at more than two hours, or are many of unknown time, and nobody said yes."""


def sweep(
    runs: Iterable[Run],
    *,
    store: Store,
    train: str = "missing",
    device: str = "cpu",
    workers: int = 1,
    executor: Executor | None = None,
    trainer: str = TRAINER,
    yes: bool = False,
    title: str = "sweep",
) -> list[Result | None]:
    """Return the Result of each run, in order; train those that are not stored.

    train: "missing", or "never" (a run that is not stored gives None). workers: processes of this machine, from 1; with
    1, and for what a notebook defines, the training is in this process. executor: any concurrent.futures Executor in
    their place; `workers` is then how many runs it trains at a time. Where it shares the store's folder there are
    checkpoints; teachers and students need that. trainer: "module:function", called as `training.train` is; its
    module's train_group gets what has one group_key. yes: go on although more than two hours are estimated.
    A teacher whose weights are not in the store is trained before its students. Interrupted anywhere, what is finished
    stays stored and the next call does the rest: after the first Ctrl-C the runs that train on this machine are
    finished, after the second none is, and KeyboardInterrupt follows. After SIGTERM they save a checkpoint at the end
    of their epoch, and Terminated follows.
    Raises ValueError, ParameterError for runs of another training loop, and SweepTooLong before anything is trained;
    OSError when a record cannot be written; TrainingFailed, from the first error, after all other runs are done.
    """
    if train not in ("missing", "never"):
        raise ValueError(f"train must be missing or never, not {train!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    runs = list(runs)
    unique = {run.digest: run for run in runs}
    results = {digest: store.get(run) for digest, run in unique.items()}
    missing = {digest: unique[digest] for digest, result in results.items() if result is None}
    if missing and train == "missing":
        if outdated := {run.loop_version for run in missing.values()} - {LOOP_VERSION}:
            raise ParameterError(f"runs of training loop {outdated}, here it is {LOOP_VERSION}: plan them again")
        store.remove_parts()
        ordered, teachers = _with_teachers(missing.values(), store)
        workers = min(workers, len(ordered))
        plan = f"{len(missing)} of {len(unique)} runs to train on {device}, {workers} at a time"
        if more := len(ordered) - len(missing):
            plan += f", and {more} teachers whose weights are not here"
        plan += f", {_priced(ordered, store, device, workers, yes, f'{title}: {plan}')}"
        with (
            Reporter(len(ordered), title, plan) as reporter,
            _gently(reporter) if executor is None else contextlib.nullcontext(threading.Event()) as stop,
        ):
            driver = Driver(store, trainer, device, reporter, stop, teachers)
            _drive(driver, ordered, workers, executor)
        if driver.failures:
            raise TrainingFailed(_in_words(driver.failures)) from driver.failures[0][1]
        results |= driver.results
    return [results[run.digest] for run in runs]


def _with_teachers(runs: Iterable[Run], store: Store) -> tuple[list[Run], dict[str, Run]]:
    """Return runs, each after its teacher where the teacher's weights are not in the store, and these teachers."""
    there = functools.cache(store.has_weights)
    lost: dict[str, Run] = {}
    ordered: dict[str, Run] = {}
    for run in runs:
        chain = [run]
        while chain[-1].teacher is not None and not there(chain[-1].teacher):
            chain.append(chain[-1].teacher)
        lost |= {teacher.digest: teacher for teacher in chain[1:]}
        for one in reversed(chain):
            ordered.setdefault(one.digest, one)
    return list(ordered.values()), lost


def _priced(runs: list[Run], store: Store, device: str, workers: int, yes: bool, what: str) -> str:
    """Return in words how long runs take; raises SweepTooLong, with `what` it is about, where nobody allowed it."""
    known = list(store.results())
    seconds = estimate(runs, known, device) / workers
    if math.isnan(seconds):
        time = f"nothing alike is stored that was trained on {device}, to tell the time from"
        long = sum(map(images_seen, runs)) > MANY_IMAGES
    else:
        time, long = f"about {duration(seconds)}", seconds > LONG_SECONDS
    if long and not yes:
        needed = "more than two hours need the parameter yes = True (--yes on the command line)"
        raise SweepTooLong(f"{what}, {time}: {needed}")
    return time if device == "cpu" else f"{time} {basis(known, device)}".removesuffix(",")


def _drive(driver: Driver, missing: list[Run], workers: int, executor: Executor | None) -> None:
    """Train the missing runs where they can be trained: what a notebook defines in this process."""
    alone = executor is None and workers == 1
    here = [run for run in missing if run.local or alone]
    elsewhere = [run for run in missing if not (run.local or alone)]
    if here and not alone:
        driver.reporter.say(f"{len(here)} runs use a model or task of this notebook: trained in this process")
    if elsewhere:
        taken = take_workers(min(workers, len(elsewhere))) if executor is None else [executor] * IN_FLIGHT
        driver.train(elsewhere, taken)
    driver.train(here, [InProcess()])


def _in_words(failures: list[tuple[Run, BaseException]]) -> str:
    said: dict[str, list[Run]] = {}
    for run, error in failures:
        said.setdefault(f"{type(error).__name__}: {error}", []).append(run)
    counts = {why: f" (and {len(runs) - 1} more runs)" if len(runs) > 1 else "" for why, runs in said.items()}
    return "\n".join(f"{runs[0]}{counts[why]}: {why}" for why, runs in said.items())


@contextlib.contextmanager
def _gently(reporter: Reporter) -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C and SIGTERM set, and raise KeyboardInterrupt or Terminated at the end.

    The second Ctrl-C raises KeyboardInterrupt at once.
    """
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        if number == signal.SIGTERM and terminated.is_set():
            return  # a cluster may send it twice
        stop.set()
        if number == signal.SIGTERM:
            terminated.set()
        else:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(RuntimeError):  # this process was about to print, too
            reporter.say(SAID[number])

    try:
        with handled(dict.fromkeys(SAID, end)):
            yield stop
    finally:
        ended = terminated.is_set()
        terminated.clear()
    if ended:
        raise Terminated(TERMINATED)
    if stop.is_set():
        raise KeyboardInterrupt


def in_rounds(runs: Iterable[Run], *, last_cell_first: bool = False) -> list[Run]:
    """Return the first run of every cell, then the second, and so on; runs of a cell differ in their seeds alone."""
    cells: dict[Run, list[Run]] = {}
    for run in dict.fromkeys(runs):
        cells.setdefault(_without_seeds(run), []).append(run)
    ordered = list(cells.values())[:: -1 if last_cell_first else 1]
    return [run for of_a_round in itertools.zip_longest(*ordered) for run in of_a_round if run is not None]


def _without_seeds(run: Run) -> Run:
    return replace(run, seed=0, data_seed=0, teacher=run.teacher and _without_seeds(run.teacher))
