"""Sweeps: runs in, results out; what is stored is not trained again. Imports no torch."""

import collections
import contextlib
import functools
import math
import re
import signal
import threading
import time
import traceback
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from filelock import FileLock

from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.progress import Reporter, duration
from deepnets_utils.runs.run import LOOP_VERSION, Result, Run, canonical
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.estimates import estimate, images_seen
from deepnets_utils.sweeps.workers import (
    InProcess,
    UnfitWorker,
    WorkerProcess,
    call_group,
    groups,
    keep_workers,
    take_workers,
    versions,
)
from deepnets_utils.training.signals import TERMINATED, Terminated, handled, terminated

TRAINER = "deepnets_utils.training.single:train"
ATTEMPTS = 3  # of a run whose worker dies
LONG_SECONDS = 2 * 3600.0
MANY_IMAGES = 20e6  # seen in training, from which on a sweep of unknown time may be long: 100 s to days on two CPUs
POLL_SECONDS = 0.5
HERE = (InProcess, WorkerProcess)
LOST = "the executor gave its calls up: its scheduler was closed or cannot be reached"
NO_MEMORY = re.compile("MemoryError|out of memory|allocate memory|ALLOC_FAILED")  # of torch, CUDA and its libraries
IN_FLIGHT = 256  # runs that an Executor is sent at once: each holds a file open, many systems allow 1,024


class SweepTooLong(RuntimeError):
    """The missing runs are estimated at more than two hours, or are many of unknown time, and nobody said yes."""


class TrainingFailed(RuntimeError):
    """A run raised an error, or its worker died three times; the other runs are done and stored.

    From an executor also: a worker that fits nothing (UnfitWorker) or a lost scheduler. These end the sweep at once.
    """


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
    from 1; with 1, and for models that a notebook defines, the training is in this process. A script that uses more
    guards its call by `if __name__ == "__main__":`, for each process imports the script.
    executor: any concurrent.futures Executor, in place of processes; `workers` is then how many runs it trains at a
    time, for the estimate. Where it shares the store's folder there are checkpoints; teachers and students need that.
    trainer: "module:function", called as function(run, device=..., checkpoint=...) where the training is, of a teacher
    also with weights=..., the file to write them to, of a student with teacher=..., the file to read. A teacher whose
    weights are not in the store is trained before its students. On cuda its module's train_group(runs, device=...)
    gets together what has one group_key(run). yes: go on although more than two hours are estimated. Only this process
    writes records. Interrupted anywhere, what is finished stays stored and the next call does the rest: after the first
    Ctrl-C the runs that train on this machine are finished, after the second none is; KeyboardInterrupt follows. After
    SIGTERM they save a checkpoint at the end of their epoch, and Terminated follows; those that train as one network
    have none and are finished.
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
        again = len(missing) - new
        workers = min(workers, len(missing))
        text = f"{new} of {len(unique)} runs to train on {device}, {workers} at a time"
        text += f", and {again} teachers whose weights are not here" if again else ""
        seconds = estimate(missing, store.results(), device) / workers
        time = f"about {duration(seconds)}"
        if math.isnan(seconds):
            time = f"nothing alike is stored that was trained on {device}, to tell the time from"
        if too_long(missing, seconds) and not yes:
            raise SweepTooLong(
                f"{title}: {text}, {time}: more than two hours need the parameter yes = True "
                "(--yes on the command line)"
            )
        with (
            Reporter(len(missing), title, f"{text}, {time}") as reporter,
            _gently(reporter) if executor is None else contextlib.nullcontext(threading.Event()) as stop,
        ):
            driver = Driver(store, trainer, device, reporter, stop, teachers)
            alone = executor is None and workers == 1
            here = [run for run in missing if run.local or alone]
            elsewhere = [run for run in missing if not (run.local or alone)]
            if here and not alone:
                reporter.say(f"{len(here)} runs use a model or task of this notebook: trained in this process")
            if elsewhere:
                taken = take_workers(min(workers, len(elsewhere))) if executor is None else None
                results |= driver.train(elsewhere, taken or [executor] * min(len(elsewhere), IN_FLIGHT))
            results |= driver.train(here, [InProcess()])
        if driver.failures:
            text = "\n".join(f"{run}: {type(error).__name__}: {error}" for run, error in driver.failures)
            raise TrainingFailed(text) from driver.failures[0][1]
    return [results[run.digest] for run in runs]


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


class Driver:
    """Trains runs on executors that take one group of runs at a time, and writes each record as it comes."""

    def __init__(
        self,
        store: Store,
        trainer: str,
        device: str,
        reporter: Reporter,
        stop: threading.Event,
        teachers: Collection[str],
    ) -> None:
        self.store, self.trainer, self.device, self.reporter, self.stop = store, trainer, device, reporter, stop
        self.teachers = teachers
        self.unfinished = set(teachers)  # their students wait
        self.failures: list[tuple[Run, BaseException]] = []

    def train(self, runs: list[Run], executors: list[Executor]) -> dict[str, Result]:
        """Return the Results by digest. What another sweep holds is awaited and taken from the store.

        Once `stop` is set, what is in flight is finished (after SIGTERM: its epoch), no more.
        """
        queue = collections.deque(groups(self.trainer, runs, self.device))
        attempts: collections.Counter[str] = collections.Counter()
        claims: dict[str, FileLock] = {}
        flying: dict[Future, tuple[bool, list[Run], Executor]] = {}
        free = list(executors)
        results: dict[str, Result] = {}
        waiting = False

        def settle(run: Run, result: Result) -> None:
            results[run.digest] = result
            self.unfinished.discard(run.digest)
            self.store.release(claims.pop(run.digest))
            self.reporter.advance()

        try:
            while flying or (queue and not self.stop.is_set()):
                before, students = len(results), []  # these wait for their teacher
                for _ in range(len(queue)):
                    if self.stop.is_set() or not free or len(claims) >= IN_FLIGHT:
                        break
                    group, awaited = [], []
                    stacked, part = queue.popleft()
                    if any(run.teacher is not None and run.teacher.digest in self.unfinished for run in part):
                        students.append((stacked, part))
                        continue
                    for run in part:
                        if (claim := self.store.claim(run)) is None:
                            awaited.append(run)
                            continue
                        claims[run.digest] = claim
                        if (stored := self._stored(run)) is not None:
                            settle(run, stored)
                        else:
                            group.append(run)
                    queue.extend([(stacked, awaited)] if awaited else [])
                    if group:
                        executor = free.pop()
                        claim = Path(claims[group[0].digest].lock_file)
                        files = None if stacked else self._files(group[0])
                        arguments = (versions(), self.trainer, group, self.device, claim, files)
                        flying[executor.submit(call_group, *arguments)] = (stacked, group, executor)
                queue.extendleft(reversed(students))
                if not flying:
                    if queue and not waiting and len(results) == before:
                        waiting = True
                        count = sum(len(part) for _, part in queue)
                        self.reporter.say(f"waiting for {count} runs that another sweep is training")
                    time.sleep(POLL_SECONDS if queue else 0)
                    continue
                for *_, executor in flying.values():
                    if terminated.is_set() and isinstance(executor, WorkerProcess):
                        executor.terminate()  # each time: it may be one that was started again
                done, _ = wait(flying, POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    stacked, group, executor = flying.pop(future)
                    free.append(executor)
                    broken = CancelledError(LOST) if future.cancelled() else future.exception()
                    if isinstance(broken, UnfitWorker | CancelledError) and not isinstance(executor, HERE):
                        raise TrainingFailed(str(broken)) from broken  # it would fail, and take, all that is left
                    if isinstance(broken, Terminated) or (broken is not None and stacked):
                        for run in group:
                            claims.pop(run.digest).release()
                        queue.extendleft(reversed(self._smaller(group, broken)) if stacked else [])
                        continue
                    for run, result in zip(group, [None] if broken else future.result(), strict=True):
                        if (error := broken or self._put(result)) is None:
                            settle(run, result)
                            continue
                        claims.pop(run.digest).release()
                        attempts[run.digest] += 1
                        if isinstance(error, BrokenProcessPool) and attempts[run.digest] < ATTEMPTS:
                            self.reporter.say(f"a worker died; its run is tried again: {run}")
                            queue.appendleft((False, [run]))
                            continue
                        if isinstance(error, BrokenProcessPool):
                            error = RuntimeError(f"its worker died {ATTEMPTS} times (out of memory?)")
                        self.unfinished.discard(run.digest)  # its students say that they have no teacher
                        self.failures.append((run, error))
        finally:
            # Whatever ends this, nothing goes on for nobody and no claim stays held: a notebook keeps the last
            # exception and what it refers to, and its next sweep would wait for that lock for ever.
            for future in flying:
                future.cancel()
            for worker in (executor for executor in executors if isinstance(executor, WorkerProcess)):
                if worker in free and not self.stop.is_set():
                    keep_workers([worker])
                else:
                    worker.shutdown(wait=False)
            for claim in claims.values():
                claim.release()
        return results

    def _smaller(self, group: list[Run], error: BaseException) -> list[tuple[bool, list[Run]]]:
        """Return what is tried in place of runs that failed as one network: two halves, or the plain loop of each."""
        half = len(group) // 2
        short = isinstance(error, BrokenProcessPool) or NO_MEMORY.search("".join(traceback.format_exception(error)))
        how = "in two halves" if short and half else "by the plain loop"
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        self.reporter.say(f"{len(group)} runs failed as one network and are trained {how}: {why}")
        # They hold what the group had on the device.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        if short and half:
            return [(True, group[:half]), (True, group[half:])]
        return [(False, [run]) for run in group]

    def _stored(self, run: Run) -> Result | None:
        """Return the record of a run; of one that is trained for its weights only where these are there, too."""
        lost = run.digest in self.teachers and not self.store.has_weights(run)
        return None if lost else self.store.get(run)

    def _files(self, run: Run) -> dict[str, Path]:
        files = {"checkpoint": self.store.checkpoint(run)}
        if run.digest in self.teachers:
            files["weights"] = self.store.weights(run)
        if run.teacher is not None:
            files["teacher"] = self.store.weights(run.teacher)
        return files

    def _put(self, result: Result) -> Exception | None:
        """Write a record; return the error where it is none that can be stored."""
        try:
            self.store.put(result)
        except (TypeError, ValueError) as unfit:  # not OSError: where one record finds no room, no other does
            return unfit
        return None


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
