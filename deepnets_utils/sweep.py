"""Sweeps: runs in, results out; what is stored is not trained again. Imports no torch."""

import collections
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool

from filelock import FileLock

from deepnets_utils.progress import Reporter, duration
from deepnets_utils.runs import Result, Run
from deepnets_utils.store import Store
from deepnets_utils.workers import InProcess, WorkerProcess, call_trainer

TRAINER = "deepnets_utils.training:train"
ATTEMPTS = 3  # of a run whose worker dies
LONG_SECONDS = 2 * 3600.0
POLL_SECONDS = 0.5


class SweepTooLong(RuntimeError):
    """The missing runs are estimated at more than two hours and nobody said yes."""


class TrainingFailed(RuntimeError):
    """A run raised an error, or its worker died three times; the other runs are done and stored."""


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
    executor: any concurrent.futures Executor, in place of processes. trainer: "module:function", called as
    function(run, device=..., checkpoint=...) where the training is. yes: go on although more than two hours
    are estimated. Only this process writes records. Interrupted anywhere, what is finished stays stored and
    the next call does the rest.
    Raises SweepTooLong before anything is trained, TrainingFailed after all other runs are done.
    """
    runs = list(runs)
    unique = {run.digest: run for run in runs}
    results = {digest: store.get(run) for digest, run in unique.items()}
    missing = [unique[digest] for digest, result in results.items() if result is None]
    if missing and train == "missing":
        workers = min(workers, len(missing))
        text = f"{len(missing)} of {len(unique)} runs to train on {device}, {workers} at a time"
        seconds = estimate(missing, store, device) / workers
        if seconds > LONG_SECONDS and not yes:
            raise SweepTooLong(
                f"{title}: {text}, about {duration(seconds)}: more than two hours need the parameter yes = True "
                "(--yes on the command line)"
            )
        with Reporter(len(missing), f"{title}: {text}, {duration(seconds)}") as reporter:
            here = [run for run in missing if run.model.local or run.task.local]
            if here and (workers > 1 or executor):
                reporter.say(f"{len(here)} runs use a model or task of this notebook: trained in this process")
            elsewhere = [run for run in missing if run not in here]
            driver = Driver(store, trainer, device, reporter)
            if executor is not None:
                results |= driver.train(elsewhere, [executor] * len(elsewhere))
            elif workers > 1:
                processes = [WorkerProcess() for _ in range(workers)]
                results |= driver.train(elsewhere, processes)
            else:
                here = missing
            results |= driver.train(here, [InProcess()])
        if driver.failures:
            raise TrainingFailed("\n".join(f"{run}: {why}" for run, why in driver.failures))
    return [results[run.digest] for run in runs]


class Driver:
    """Trains runs on executors that take one run at a time, and writes each record as it comes."""

    def __init__(self, store: Store, trainer: str, device: str, reporter: Reporter) -> None:
        self.store, self.trainer, self.device, self.reporter = store, trainer, device, reporter
        self.failures: list[tuple[Run, str]] = []

    def train(self, runs: list[Run], executors: list[Executor]) -> dict[str, Result]:
        """Return the Results by digest. What another sweep holds is awaited and taken from the store."""
        queue = collections.deque(runs)
        attempts: collections.Counter[str] = collections.Counter()
        flying: dict[Future, tuple[Run, FileLock, Executor]] = {}
        free = list(executors)
        results: dict[str, Result] = {}

        def finished(run: Run, result: Result, claim: FileLock) -> None:
            results[run.digest] = result
            self.store.release(claim)
            self.reporter.advance()

        try:
            while queue or flying:
                for _ in range(len(queue) if free else 0):
                    run = queue.popleft()
                    claim = self.store.claim(run)
                    if claim is None:
                        queue.append(run)
                        continue
                    if (stored := self.store.get(run)) is not None:
                        finished(run, stored, claim)
                        continue
                    executor = free.pop()
                    arguments = (self.trainer, run, self.device, self.store.checkpoint(run))
                    flying[executor.submit(call_trainer, *arguments)] = (run, claim, executor)
                    if not free:
                        break
                if not flying:
                    time.sleep(POLL_SECONDS if queue else 0)
                    continue
                done, _ = wait(flying, POLL_SECONDS if free and queue else None, FIRST_COMPLETED)
                for future in done:
                    run, claim, executor = flying.pop(future)
                    try:
                        result = future.result()
                        self.store.put(result)
                        finished(run, result, claim)
                    except BrokenProcessPool:
                        claim.release()
                        if isinstance(executor, WorkerProcess):
                            executor.shutdown()
                            executor = WorkerProcess()
                        attempts[run.digest] += 1
                        if attempts[run.digest] < ATTEMPTS:
                            self.reporter.say(f"a worker died; its run is tried again: {run}")
                            queue.appendleft(run)
                        else:
                            self.failures.append((run, f"its worker died {ATTEMPTS} times (out of memory?)"))
                    except OSError:
                        raise
                    except Exception as error:
                        claim.release()
                        self.failures.append((run, f"{type(error).__name__}: {error}"))
                    free.append(executor)
        finally:
            for _, claim, _ in flying.values():
                claim.release()
            for executor in {id(e): e for e in [*free, *(f[2] for f in flying.values())]}.values():
                if isinstance(executor, WorkerProcess):
                    executor.shutdown(wait=False)
        return results


def estimate(runs: Iterable[Run], store: Store, device: str) -> float:
    """Return the seconds that `runs` would take one after another, NaN when nothing comparable is stored.

    Uses the median seconds per epoch of stored runs with the same model, task and data set, on a device of the
    same kind (an estimator counts as one epoch); runs with no such time count as the mean of the others.
    """
    times: dict[tuple, list[float]] = collections.defaultdict(list)
    for result in store.results():
        times[_kind(result.run)].append(result.provenance["wall_seconds"] / max(1, result.run.epochs))
    known = [statistics.median(times[_kind(run)]) * max(1, run.epochs) if _kind(run) in times else None for run in runs]
    seconds = [value for value in known if value is not None]
    return statistics.mean(seconds) * len(known) if seconds else float("nan")


def _kind(run: Run) -> tuple[str, str, str]:
    return run.model.name, run.task.name, run.dataset
