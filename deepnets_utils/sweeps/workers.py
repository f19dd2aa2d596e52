"""Where runs are trained: in this process, in processes of this machine, or wherever an Executor sends them."""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepnets_utils.runs.errors import DataError, ParameterError
from deepnets_utils.runs.run import LOOP_VERSION, Result, Run
from deepnets_utils.training.signals import terminated

DEVICES = ("auto", "cpu", "cuda")
DASK = "DEEPNETS_DASK"  # environment variable with the address of a Dask scheduler
SCHEDULER_SECONDS = 10.0  # in which a scheduler answers
STACKED = ("cuda",)  # kinds of device on which runs train as one network: it fills those, and a CPU is full

_one_run = threading.Lock()  # torch's generator and number formats belong to the whole process


class UnfitWorker(RuntimeError):
    """A worker has other versions than the driver, no data set, or not the folder that a teacher's weights need."""


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions on which numbers depend; torch's without its build, so that CPU and CUDA work together."""
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in ("deepnets-utils", "torch")}
    return installed | {"training loop": str(LOOP_VERSION)}


def call_group(
    driver: dict[str, str],
    trainer: str,
    runs: list[Run],
    together: bool,
    device: str,
    claim: Path,
    files: dict[str, Path],
) -> list[Result]:
    """Train one run, or several together as one network, one call at a time in a process; an Executor is sent this.

    driver: its `versions`. trainer: "module:function". files: what is read and written, by option. claim: a file of the
    driver; a worker that does not see it shares no folder with the driver and trains without checkpoints. Raises
    UnfitWorker, before anything is trained.
    """
    host = f"worker {os.getpid()} on {socket.gethostname()}"
    if versions() != driver:
        raise UnfitWorker(f"{host} has {versions()}, the driver has {driver}: install the same")
    if not claim.exists():
        if files.keys() - {"checkpoint"}:
            raise UnfitWorker(f"{host} does not share {claim.parents[1]}: teachers and students need a common folder")
        files = {}
    try:
        with _one_run:
            if together:
                module, _, _ = trainer.partition(":")
                return importlib.import_module(module).train_group(runs, device=device, **files)
            [run] = runs
            return [pkgutil.resolve_name(trainer)(run, device=device, **files)]
    except DataError as error:
        raise UnfitWorker(f"{host}: {error}") from error


def groups(trainer: str, runs: Iterable[Run], device: str, teachers: Collection[str]) -> list[tuple[bool, list[Run]]]:
    """Return the runs of each call, and whether they train as one network.

    On cuda those do that have one group_key in the trainer's module, as many as its group_size says; teachers, digests
    of runs whose weights are wanted, train alone.
    """
    # Late: this module imports no torch.
    module = importlib.import_module(trainer.partition(":")[0]) if device.startswith(STACKED) else None
    key_of = getattr(module, "group_key", lambda run: None)
    alike: dict[Any, list[Run]] = {}
    for run in runs:
        key = None if run.digest in teachers else key_of(run)
        alike.setdefault((key is not None, key or run.digest), []).append(run)
    parts = []
    for (together, _), group in alike.items():
        size = module.group_size(group[0]) if together else 1
        parts += [(together, group[start : start + size]) for start in range(0, len(group), size)]
    return parts


class InProcess(Executor):
    """Runs a call at once, in this process."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerProcess(Executor):
    """One process on this machine that ends when it is stopped and when the process that made it dies.

    Its death breaks the call that it was at, no other: a pool of several would lose the neighbours' runs with it.
    The next call starts a new process.
    """

    def __init__(self) -> None:
        context = get_context("spawn")
        reader, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_live_with, initargs=(reader,))

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        # A process that is spawned now would run this one's script again, and its sweep once more. What a worker is
        # sent stands in modules: models of a notebook or script train in the process that defines them.
        main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
        try:
            return self._pool.submit(call, *args, **kwargs)
        except BrokenProcessPool:
            self.shutdown()
            self.__init__()
            return self._pool.submit(call, *args, **kwargs)
        finally:
            sys.modules["__main__"] = main

    def terminate(self) -> None:
        """Have the process end its training at its epoch's end with Terminated; a process that just starts, too."""
        with contextlib.suppress(OSError):  # it is gone
            self._lifeline.send_bytes(b"terminated")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process at once, whatever it does: the driver has what is finished, checkpoints the rest."""
        self._lifeline.close()
        self._pool.shutdown(wait=wait, cancel_futures=True)


idle: list[WorkerProcess] = []  # what a sweep leaves to the next one, for a start costs seconds


def take_workers(count: int) -> list[WorkerProcess]:
    """Return `count` workers, idle ones first."""
    return [idle.pop() if idle else WorkerProcess() for _ in range(count)]


def end_workers() -> None:
    """End the workers that are idle; they end with this process, too."""
    while idle:
        idle.pop().shutdown()


def _live_with(lifeline: Connection) -> None:
    # The other end is held by the driver alone. It closes when the driver stops the worker and when the driver
    # dies in any way, SIGKILL included; the standard pool's workers would go on for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Of SIGTERM, which a cluster sends to all processes, the driver tells who trains; who does not may go.
    signal.signal(signal.SIGTERM, lambda *_: _one_run.locked() or os._exit(0))

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            while lifeline.recv_bytes():
                terminated.set()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def engine(device: str, workers: int) -> dict[str, Any]:
    """Return where a sweep trains, as its options device, workers and executor: here, or on a Dask cluster.

    device, workers: from `resolve`. The cluster is the one whose scheduler $DEEPNETS_DASK names. On cuda each call
    takes one of the worker resource GPU; ParameterError where no worker offers it.
    """
    if not os.environ.get(DASK):
        return {"device": device, "workers": workers}
    client = _client(os.environ[DASK])
    offered = [worker["resources"].get("GPU", 0) for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    if device == "cuda":
        if offered and not any(offered):
            raise ParameterError("device is cuda, but no Dask worker offers a GPU: start them with --resources GPU=1")
        workers, resources = int(sum(offered)), {"resources": {"GPU": 1}}
    else:
        workers, resources = len(offered), {}
    # Not pure: Dask would answer a run that is tried again with the failure that it still remembers.
    return {"device": device, "workers": max(1, workers), "executor": client.get_executor(pure=False, **resources)}


@functools.cache
def _client(address: str) -> Any:
    from distributed import Client

    return Client(address, set_as_default=False)


def use_cluster(address: str) -> None:
    """Have this process, and those that it starts, train on the Dask cluster with a scheduler at tcp://host:port.

    Raises ParameterError where dask.distributed is missing or nothing answers.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ParameterError('a Dask cluster needs dask.distributed: pip install -e ".[cluster]"')
    try:
        url = urlsplit(address)
        socket.create_connection((url.hostname or "", url.port or 0), SCHEDULER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ParameterError(f"no Dask scheduler answers at {address!r} (tcp://host:port): {error}") from None
    os.environ[DASK] = address


def resolve(device: str, workers: int) -> tuple[str, int]:
    """Return the device and the number of runs at a time that "auto" and 0 stand for on this machine.

    device: "auto" (cuda where there is one), "cpu" or "cuda". workers: 0 means one a CPU that this process may use (by
    its affinity, a container's quota and $LOKY_MAX_CPU_COUNT), and one on cuda. For a Dask cluster "auto" is cpu: this
    machine says nothing about the workers'.
    Raises ParameterError for other values, and for cuda where there is none.
    """
    if workers < 0:
        raise ParameterError(f"workers must not be below 0, it is {workers}")
    if device not in DEVICES:
        raise ParameterError(f"device must be one of {', '.join(DEVICES)}; it is {device!r}")
    if os.environ.get(DASK):
        device = "cpu" if device == "auto" else device
    elif device != "cpu":
        import torch  # late: this module imports no torch

        if device == "cuda" and not torch.cuda.is_available():
            raise ParameterError("device is cuda, but torch finds no CUDA device here; there is cpu (or auto)")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not workers and device == "cpu":
        from joblib import cpu_count  # late: help needs none

        workers = cpu_count()
    return device, workers or 1
