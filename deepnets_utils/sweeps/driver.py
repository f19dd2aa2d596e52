"""What a sweep does while its runs train: claims them, sends them to executors, stores what comes back."""

import collections
import re
import threading
import time
import traceback
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from deepnets_utils.runs.progress import Reporter
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.workers import InProcess, UnfitWorker, WorkerProcess, call_group, groups, idle, versions
from deepnets_utils.training.signals import Terminated, terminated

ATTEMPTS = 3  # of a run whose worker dies
POLL_SECONDS = 0.5
LOST = "the executor gave its calls up: its scheduler was closed or cannot be reached"
NO_MEMORY = re.compile("MemoryError|out of memory|allocate memory|ALLOC_FAILED")  # of torch, CUDA and its libraries
IN_FLIGHT = 256  # runs that executors are sent at once: each holds a file open, many systems allow 1,024

Part = tuple[bool, list[Run]]  # whether one call trains these runs as one network, and the runs


class TrainingFailed(RuntimeError):
    """A run raised an error, or its worker died three times; the other runs are done and stored.

    From an executor also: a worker that fits nothing (UnfitWorker) or a lost scheduler. These end the sweep at once.
    """


@dataclass
class Driver:
    """Trains runs on executors that take one part at a time, and writes each record as it comes.

    teachers: digests of runs that are trained for their weights; their students wait for them. stop: once it is set,
    what is in flight is finished (after SIGTERM: its epoch), no more.
    """

    store: Store
    trainer: str
    device: str
    reporter: Reporter
    stop: threading.Event
    teachers: Collection[str]
    failures: list[tuple[Run, BaseException]] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)

    def train(self, runs: list[Run], executors: list[Executor]) -> None:
        """Train the runs, or take them from the store when another sweep has done them; see `results`, `failures`."""
        self._queue = groups(self.trainer, runs, self.device, self.teachers)
        self._free = list(executors)
        self._flying: dict[Future, tuple[Part, Executor]] = {}
        self._claims: dict[str, FileLock] = {}
        self._deaths: collections.Counter[str] = collections.Counter()
        told = False
        try:
            while self._flying or (self._queue and not self.stop.is_set()):
                self._submit()
                if self._flying:
                    self._collect()
                elif self._queue:
                    if not told:
                        count = sum(len(part) for _, part in self._queue)
                        self.reporter.say(f"waiting for {count} runs that another sweep is training")
                    told = True
                    time.sleep(POLL_SECONDS)
        finally:
            self._close(executors)

    def _submit(self) -> None:
        """Send what is queued to the free executors; what waits for a teacher or another sweep stays queued."""
        students, held = [], []
        while self._queue and self._free and len(self._claims) < IN_FLIGHT and not self.stop.is_set():
            together, part = self._queue.pop(0)
            if any(run.teacher is not None and self._is_awaited(run.teacher) for run in part):
                students.append((together, part))
                continue
            for run in part:
                if (claim := self.store.claim(run)) is not None:
                    self._claims[run.digest] = claim
            if others := [run for run in part if run.digest not in self._claims]:
                held.append((together, others))
            if group := [run for run in part if run.digest in self._claims and not self._found(run)]:
                self._send(together, group)
        self._queue = [*students, *self._queue, *held]

    def _is_awaited(self, teacher: Run) -> bool:
        over = teacher.digest in self.results or any(run == teacher for run, _ in self.failures)
        return teacher.digest in self.teachers and not over

    def _found(self, run: Run) -> bool:
        """Take the record of a claimed run from the store; of a teacher only where its weights are there, too."""
        lost = run.digest in self.teachers and not self.store.has_weights(run)
        result = None if lost else self.store.get(run)
        if result is not None:
            self._finish(run, result)
        return result is not None

    def _send(self, together: bool, group: list[Run]) -> None:
        run = group[0]
        files = {"checkpoint": self.store.stack_checkpoint(group) if together else self.store.checkpoint(run)}
        if run.digest in self.teachers:
            files["weights"] = self.store.weights(run)
        if run.teacher is not None:
            files["teacher"] = self.store.weights(run.teacher)
        executor, claim = self._free.pop(), Path(self._claims[run.digest].lock_file)
        what = self.trainer, group, together, self.device, claim, files
        self._flying[executor.submit(call_group, versions(), *what)] = (together, group), executor

    def _collect(self) -> None:
        """Wait for calls to end, for a moment, and take what they give."""
        for _, executor in self._flying.values():
            if terminated.is_set() and isinstance(executor, WorkerProcess):
                executor.terminate()  # each time: it may be one that was started again
        for future in wait(self._flying, POLL_SECONDS, FIRST_COMPLETED).done:
            (together, group), executor = self._flying.pop(future)
            self._free.append(executor)
            error = CancelledError(LOST) if future.cancelled() else future.exception()
            unfit = isinstance(error, UnfitWorker) and not isinstance(executor, InProcess | WorkerProcess)
            if unfit or isinstance(error, CancelledError):
                raise TrainingFailed(str(error)) from error  # it would fail, and take, all that is left
            if error is None:
                for run, result in zip(group, future.result(), strict=True):
                    self._put(run, result)
            else:
                for run in group:
                    self._claims.pop(run.digest).release()
                self._queue = self._instead(together, group, error) + self._queue
            if together and not isinstance(error, Terminated):
                self.store.stack_checkpoint(group).unlink(missing_ok=True)  # of no use to what follows

    def _put(self, run: Run, result: Result) -> None:
        try:
            self.store.put(result)
        except (TypeError, ValueError) as unfit:  # not OSError: where one record finds no room, no other does
            self._claims.pop(run.digest).release()
            self.failures.append((run, unfit))
        else:
            self._finish(run, result)

    def _finish(self, run: Run, result: Result) -> None:
        self.results[run.digest] = result
        self.store.release(self._claims.pop(run.digest))
        self.reporter.advance()

    def _instead(self, together: bool, group: list[Run], error: BaseException) -> list[Part]:
        """Return what is tried in place of a call that failed: a dead worker's run again, a stack in smaller parts."""
        died = isinstance(error, BrokenProcessPool)
        if isinstance(error, Terminated):
            return []
        if together:
            half = len(group) // 2
            halved = half and (died or NO_MEMORY.search("".join(traceback.format_exception(error))))
            how = "in two halves" if halved else "by the plain loop"
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            self.reporter.say(f"{len(group)} runs failed as one network and are trained {how}: {why}")
            error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold what was on the device
            return [(True, group[:half]), (True, group[half:])] if halved else [(False, [run]) for run in group]
        [run] = group
        self._deaths[run.digest] += died
        if died and self._deaths[run.digest] < ATTEMPTS:
            self.reporter.say(f"a worker died; its run is tried again: {run}")
            return [(False, group)]
        if died:
            error = RuntimeError(f"its worker died {ATTEMPTS} times (out of memory?)")
        traceback.clear_frames(error.__traceback__)  # they hold its network and data, on the device, too
        self.failures.append((run, error))
        return []

    def _close(self, executors: list[Executor]) -> None:
        """Leave nothing behind, whatever ended the training: no call that goes on for nobody, and no claim.

        A notebook keeps the last exception and what it refers to, and its next sweep would wait for that lock for ever.
        """
        for future in self._flying:
            future.cancel()
        for worker in (executor for executor in executors if isinstance(executor, WorkerProcess)):
            if worker in self._free and not self.stop.is_set():
                idle.append(worker)
            else:
                worker.shutdown(wait=False)
        for claim in self._claims.values():
            claim.release()
        self._queue, self._flying, self._claims = [], {}, {}
