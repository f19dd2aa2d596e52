"""What a sweep does while its runs train: claims them, sends them to executors, stores what comes back."""

import collections
import re
import threading
import time
import traceback
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from filelock import FileLock

from deepnets_utils.runs.progress import Reporter
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.workers import (
    InProcess,
    UnfitWorker,
    WorkerProcess,
    call_group,
    groups,
    keep_workers,
    versions,
)
from deepnets_utils.training.signals import Terminated, terminated

ATTEMPTS = 3  # of a run whose worker dies
POLL_SECONDS = 0.5
HERE = (InProcess, WorkerProcess)
LOST = "the executor gave its calls up: its scheduler was closed or cannot be reached"
NO_MEMORY = re.compile("MemoryError|out of memory|allocate memory|ALLOC_FAILED")  # of torch, CUDA and its libraries
IN_FLIGHT = 256  # runs that an Executor is sent at once: each holds a file open, many systems allow 1,024

Part = tuple[bool, list[Run]]  # what one call trains, and whether as one network


class TrainingFailed(RuntimeError):
    """A run raised an error, or its worker died three times; the other runs are done and stored.

    From an executor also: a worker that fits nothing (UnfitWorker) or a lost scheduler. These end the sweep at once.
    """


class Driver:
    """Trains runs on executors that take one part at a time, and writes each record as it comes.

    teachers: digests of runs that are trained for their weights; their students wait for them. stop: once it is set,
    what is in flight is finished (after SIGTERM: its epoch), no more.
    """

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
        self.unfinished = set(teachers)
        self.failures: list[tuple[Run, BaseException]] = []
        self.results: dict[str, Result] = {}
        self._queue: collections.deque[Part] = collections.deque()
        self._free: list[Executor] = []
        self._flying: dict[Future, tuple[Part, Executor]] = {}
        self._claims: dict[str, FileLock] = {}
        self._attempts: collections.Counter[str] = collections.Counter()

    def train(self, runs: list[Run], executors: list[Executor]) -> None:
        """Train the runs, or take them from the store when another sweep has done them; see `results`, `failures`."""
        self._queue.extend(groups(self.trainer, runs, self.device, self.teachers))
        self._free = list(executors)
        told = False
        try:
            while self._flying or (self._queue and not self.stop.is_set()):
                before = len(self.results)
                self._submit()
                if self._flying:
                    self._collect()
                    continue
                if self._queue and not told and len(self.results) == before:
                    told, count = True, sum(len(part) for _, part in self._queue)
                    self.reporter.say(f"waiting for {count} runs that another sweep is training")
                time.sleep(POLL_SECONDS if self._queue else 0)
        finally:
            self._close(executors)

    def _submit(self) -> None:
        """Send what is queued to the free executors; what waits for a teacher or another sweep stays queued."""
        students = []
        for _ in range(len(self._queue)):
            if self.stop.is_set() or not self._free or len(self._claims) >= IN_FLIGHT:
                break
            together, part = self._queue.popleft()
            if any(run.teacher is not None and run.teacher.digest in self.unfinished for run in part):
                students.append((together, part))
                continue
            group = self._claimed(together, part)
            if not group:
                continue
            executor = self._free.pop()
            claim = Path(self._claims[group[0].digest].lock_file)
            what = self.trainer, group, together, self.device, claim, self._files(group, together)
            future = executor.submit(call_group, versions(), *what)
            self._flying[future] = (together, group), executor
        self._queue.extendleft(reversed(students))

    def _claimed(self, together: bool, part: list[Run]) -> list[Run]:
        """Claim runs and return those to be trained; what another sweep holds is queued again, at the end."""
        group, awaited = [], []
        for run in part:
            if (claim := self.store.claim(run)) is None:
                awaited.append(run)
                continue
            self._claims[run.digest] = claim
            if (stored := self._stored(run)) is not None:
                self._finish(run, stored)
            else:
                group.append(run)
        if awaited:
            self._queue.append((together, awaited))
        return group

    def _collect(self) -> None:
        """Wait for calls to end, for a moment, and take what they give."""
        for _, executor in self._flying.values():
            if terminated.is_set() and isinstance(executor, WorkerProcess):
                executor.terminate()  # each time: it may be one that was started again
        for future in wait(self._flying, POLL_SECONDS, FIRST_COMPLETED).done:
            (together, group), executor = self._flying.pop(future)
            self._free.append(executor)
            broken = CancelledError(LOST) if future.cancelled() else future.exception()
            if isinstance(broken, UnfitWorker | CancelledError) and not isinstance(executor, HERE):
                raise TrainingFailed(str(broken)) from broken  # it would fail, and take, all that is left
            if isinstance(broken, Terminated) or (broken is not None and together):
                for run in group:
                    self._claims.pop(run.digest).release()
                ended = isinstance(broken, Terminated)
                self._queue.extendleft([] if ended else reversed(self._smaller(group, broken)))
                continue
            for run, result in zip(group, [None] if broken else future.result(), strict=True):
                if (error := broken or self._put(result)) is None:
                    self._finish(run, result)
                else:
                    self._fail(run, error)
            if together:
                self.store.stack_checkpoint(group).unlink(missing_ok=True)

    def _finish(self, run: Run, result: Result) -> None:
        self.results[run.digest] = result
        self.unfinished.discard(run.digest)
        self.store.release(self._claims.pop(run.digest))
        self.reporter.advance()

    def _fail(self, run: Run, error: BaseException) -> None:
        """Queue a run again whose worker died; of another error, or the third death, keep it as a failure."""
        self._claims.pop(run.digest).release()
        self._attempts[run.digest] += 1
        if isinstance(error, BrokenProcessPool):
            if self._attempts[run.digest] < ATTEMPTS:
                self.reporter.say(f"a worker died; its run is tried again: {run}")
                self._queue.appendleft((False, [run]))
                return
            error = RuntimeError(f"its worker died {ATTEMPTS} times (out of memory?)")
        self.unfinished.discard(run.digest)  # its students say that they have no teacher
        traceback.clear_frames(error.__traceback__)  # they hold its network and data, on the device, too
        self.failures.append((run, error))

    def _smaller(self, group: list[Run], error: BaseException) -> list[Part]:
        """Return what is tried in place of runs that failed as one network: two halves, or the plain loop of each."""
        self.store.stack_checkpoint(group).unlink(missing_ok=True)  # of no use to what follows
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

    def _files(self, group: list[Run], together: bool) -> dict[str, Path]:
        run = group[0]
        files = {"checkpoint": self.store.stack_checkpoint(group) if together else self.store.checkpoint(run)}
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

    def _close(self, executors: list[Executor]) -> None:
        """Leave nothing behind, whatever ended the training.

        Nothing goes on for nobody and no claim stays held: a notebook keeps the last exception and what it refers to,
        and its next sweep would wait for that lock for ever.
        """
        for future in self._flying:
            future.cancel()
        for worker in (executor for executor in executors if isinstance(executor, WorkerProcess)):
            if worker in self._free and not self.stop.is_set():
                keep_workers([worker])
            else:
                worker.shutdown(wait=False)
        for claim in self._claims.values():
            claim.release()
        self._queue.clear(), self._flying.clear(), self._claims.clear()
