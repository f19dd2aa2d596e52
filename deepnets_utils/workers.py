"""Where runs are trained: in this process, in processes of this machine, or wherever an Executor sends them."""

import importlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from deepnets_utils.runs import Result, Run

DEVICES = ("auto", "cpu", "cuda")


def call_trainer(trainer: str, run: Run, device: str, checkpoint: Path) -> Result:
    """Train one run with the function that "module:function" names; this is what an Executor is sent."""
    module, _, function = trainer.partition(":")
    return getattr(importlib.import_module(module), function)(run, device=device, checkpoint=checkpoint)


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

    Its death breaks this executor only: a pool of several would lose the neighbours' runs with it.
    """

    def __init__(self) -> None:
        context = get_context("spawn")
        reader, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_live_with, initargs=(reader,))

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._pool.submit(call, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process at once, whatever it does: the driver has what is finished, checkpoints the rest."""
        self._lifeline.close()
        self._pool.shutdown(wait=wait, cancel_futures=True)


def _live_with(lifeline: Connection) -> None:
    # The other end is held by the driver alone. It closes when the driver stops the worker and when the driver
    # dies in any way, SIGKILL included; the standard pool's workers would go on for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        lifeline.poll(None)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def resolve(device: str, workers: int) -> tuple[str, int]:
    """Return the device and the number of runs at a time that "auto" and 0 stand for on this machine.

    device: "auto" (cuda where there is one), "cpu" or "cuda". workers: 0 means each CPU that this process may
    use, and one on cuda. Raises ValueError for another device, and for cuda where there is none.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; it is {device!r}")
    if device != "cpu":
        import torch  # late: this module imports no torch

        if torch.cuda.is_available():
            device = "cuda"
        elif device == "cuda":
            raise ValueError("device is cuda, but torch finds no CUDA device here; there is cpu (or auto)")
        else:
            device = "cpu"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return device, workers or (usable if device == "cpu" else 1)
