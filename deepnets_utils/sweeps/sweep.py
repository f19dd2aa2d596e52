"""Sweeps: runs in, results out; what is stored is not trained again. Imports no torch."""

import collections
import contextlib
import functools
import math
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.progress import Reporter, duration
from deepnets_utils.runs.run import LOOP_VERSION, Result, Run, canonical
from deepnets_utils.runs.sizes import images_seen
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.driver import IN_FLIGHT, Driver, TrainingFailed
from deepnets_utils.sweeps.estimates import basis, estimate
from deepnets_utils.sweeps.workers import InProcess, take_workers
from deepnets_utils.training.signals import TERMINATED, Terminated, handled, terminated

TRAINER = "deepnets_utils.training.train:train"
LONG_SECONDS = 2 * 3600.0
MANY_IMAGES = 20e6  # seen in training, from which on a sweep of unknown time may be long: 100 s to days on two CPUs


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

    train: "missing", or "never" (a run that is not stored gives None). workers: processes of this machine,
    from 1; with 1, and for models that a notebook defines, the training is in this process.
    executor: any concurrent.futures Executor, in place of processes; `workers` is then how many runs it trains at a
    time, for the estimate. Where it shares the store's folder there are checkpoints; teachers and students need that.
    trainer: "module:function", called as function(run, device=..., checkpoint=...) where the training is, of a teacher
    also with weights=..., the file to write them to, of a student with teacher=..., the file to read. A teacher whose
    weights are not in the store is trained before its students. On cuda its module's train_group(runs, device=...,
    checkpoint=...) gets together what has one group_key(run). yes: go on although more than two hours are estimated.
    Only this process writes records. Interrupted anywhere, what is finished stays stored and the next call does the
    rest: after the first Ctrl-C the runs that train on this machine are finished, after the second none is;
    KeyboardInterrupt follows. After SIGTERM they save a checkpoint at the end of their epoch, and Terminated follows.
    Raises ValueError for an impossible train or workers, ParameterError for runs of another training loop, and
    SweepTooLong, before anything is trained, OSError when a record cannot be written, TrainingFailed (from the first
    error) after all other runs are done.
    """
    if train not in ("missing", "never"):
        raise ValueError(f"train must be missing or never, not {train!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    runs = list(runs)
    unique = {run.digest: run for run in runs}
    results = {digest: store.get(run) for digest, run in unique.items()}
    missing = [unique[digest] for digest, result in results.items() if result is None]
    if missing and train == "missing":
        if outdated := {run.loop_version for run in missing} - {LOOP_VERSION}:
            raise ParameterError(f"runs of training loop {outdated}, here it is {LOOP_VERSION}: plan them again")
        store.remove_parts()
        new = len(missing)
        missing, teachers = _with_teachers(missing, store)
        workers = min(workers, len(missing))
        text = f"{new} of {len(unique)} runs to train on {device}, {workers} at a time"
        text += f", and {len(missing) - new} teachers whose weights are not here" if len(missing) > new else ""
        known = list(store.results())
        seconds = estimate(missing, known, device) / workers
        text += f", {_priced(missing, seconds, device, yes, f'{title}: {text}')}"
        text += f" {basis(known, device)}".removesuffix(",") if device != "cpu" else ""
        with (
            Reporter(len(missing), title, text) as reporter,
            _gently(reporter) if executor is None else contextlib.nullcontext(threading.Event()) as stop,
        ):
            driver = Driver(store, trainer, device, reporter, stop, teachers)
            _drive(driver, missing, workers, executor)
        if driver.failures:
            said: dict[str, list[Run]] = {}
            for run, error in driver.failures:
                said.setdefault(f"{type(error).__name__}: {error}", []).append(run)
            more = {text: f" (and {len(runs) - 1} more runs)" if len(runs) > 1 else "" for text, runs in said.items()}
            text = "\n".join(f"{runs[0]}{more[text]}: {text}" for text, runs in said.items())
            raise TrainingFailed(text) from driver.failures[0][1]
        results |= driver.results
    return [results[run.digest] for run in runs]


def _drive(driver: Driver, missing: list[Run], workers: int, executor: Executor | None) -> None:
    """Train the missing runs where they can be trained: what a notebook defines in this process."""
    alone = executor is None and workers == 1
    here = [run for run in missing if run.local or alone]
    elsewhere = [run for run in missing if not (run.local or alone)]
    if here and not alone:
        driver.reporter.say(f"{len(here)} runs use a model or task of this notebook: trained in this process")
    if elsewhere:
        taken = take_workers(min(workers, len(elsewhere))) if executor is None else None
        driver.train(elsewhere, taken or [executor] * min(len(elsewhere), IN_FLIGHT))
    driver.train(here, [InProcess()])


def _priced(runs: list[Run], seconds: float, device: str, yes: bool, what: str) -> str:
    """Return in words how long runs take; raises SweepTooLong, with `what` it is about, where nobody allowed it."""
    time = f"about {duration(seconds)}"
    if math.isnan(seconds):
        time = f"nothing alike is stored that was trained on {device}, to tell the time from"
    if too_long(runs, seconds) and not yes:
        raise SweepTooLong(
            f"{what}, {time}: more than two hours need the parameter yes = True (--yes on the command line)"
        )
    return time


def in_rounds(runs: Iterable[Run], *, last_cell_first: bool = False) -> list[Run]:
    """Return the first run of every cell, then the second, and so on; runs of a cell differ in their seeds alone."""
    places: collections.Counter[str] = collections.Counter()
    rounds: dict[int, list[Run]] = collections.defaultdict(list)
    for run in {run.digest: run for run in runs}.values():
        cell = canonical(_without_seeds(run.to_json()))
        rounds[places[cell]].append(run)
        places[cell] += 1
    return [run for number in sorted(rounds) for run in rounds[number][:: -1 if last_cell_first else 1]]


def _without_seeds(run: dict[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in run.items() if name not in ("seed", "data_seed")}
    return left | ({"teacher": _without_seeds(run["teacher"])} if "teacher" in run else {})


def too_long(runs: Iterable[Run], seconds: float) -> bool:
    """Return whether runs that are estimated at `seconds` (NaN: unknown) need the word of who started them."""
    return seconds > LONG_SECONDS or (math.isnan(seconds) and sum(map(images_seen, runs)) > MANY_IMAGES)


@contextlib.contextmanager
def _gently(reporter: Reporter) -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C and SIGTERM set, and raise KeyboardInterrupt or Terminated at the end.

    The second Ctrl-C raises KeyboardInterrupt at once.
    """
    stop = threading.Event()

    def say(text: str) -> None:
        with contextlib.suppress(RuntimeError):  # this process was about to print, too
            reporter.say(text)

    def interrupt(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("interrupted: what is training is finished and stored; interrupt once more to end now")

    def terminate(number: int, frame: object) -> None:
        if not terminated.is_set():  # a cluster may send it twice
            say("SIGTERM: what is training saves a checkpoint at the end of its epoch, and ends")
        stop.set()
        terminated.set()

    try:
        with handled({signal.SIGINT: interrupt, signal.SIGTERM: terminate}):
            yield stop
    finally:
        ended = terminated.is_set()
        terminated.clear()
    if ended:
        raise Terminated(TERMINATED)
    if stop.is_set():
        raise KeyboardInterrupt


def _with_teachers(missing: list[Run], store: Store) -> tuple[list[Run], dict[str, Run]]:
    """Return the missing runs, each after its teacher where its weights are not in the store, and these teachers."""
    lost: dict[str, Run] = {}
    order: dict[str, Run] = {}
    there = functools.cache(store.has_weights)

    def add(run: Run) -> None:
        if run.teacher is not None and not there(run.teacher):
            lost[run.teacher.digest] = run.teacher
            add(run.teacher)
        order.setdefault(run.digest, run)

    for run in missing:
        add(run)
    return list(order.values()), lost
