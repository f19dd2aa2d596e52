"""What a run's numbers and seconds depend on beside the run: number formats, threads, clocks, versions."""

import contextlib
import ctypes
import datetime
import functools
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from deepnets_utils.data.loading import Images

# A mode of torch.compile, "" for none. To be set where `python -m benchmarks.gpu` has measured that it wins: without a
# measurement the default is what is simplest. (bfloat16 is a Run's own; channels_last was measured, see `batches`.)
COMPILE = ""


class Clock:
    """Wall and CPU seconds of this process since it was made, with those of earlier attempts added."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add(self, seconds: tuple[float, float]) -> None:
        self._wall, self._cpu = self._wall - seconds[0], self._cpu - seconds[1]

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MB that are freed; elsewhere nothing is done.

    A step's tensors would go back to the system and come again page by page, zeroed: 30 % of ShallowNet's step on a
    CPU, 8 % of MLPRegressor's, nothing that could be measured of a large network's.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h; setting one alone would stop glibc from adapting the other
    with contextlib.suppress(AttributeError, OSError, TypeError):
        malloc_option = ctypes.CDLL(None).mallopt
        malloc_option(trim_threshold, 256 << 20)
        malloc_option(mmap_threshold, 32 << 20)


@contextlib.contextmanager
def numerics() -> Iterator[None]:
    """Set what makes numbers repeatable: one CPU thread, float32 without TF32, deterministic kernels.

    Denormal numbers are flushed to zero: the moments of a dead unit decay into them and make steps slow.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_num_threads(), matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, torch.get_rng_state()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    cudnn.deterministic = True
    try:
        yield
    finally:
        threads, matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, state = before
        torch.set_rng_state(state)
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def provenance(path: str, device: str, clock: Clock, images: Images, runs: int = 1) -> dict[str, Any]:
    """Return where a Result comes from; its seconds are shared out evenly among so many runs."""
    wall, cpu = clock.seconds()
    return {
        "wall_seconds": round(wall / runs, 3),
        "cpu_seconds": round(cpu / runs, 3),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor("model name"),
        # A model name may be that of all processors which a cloud has: the bits go with these two.
        "processor": _processor("vendor_id", "cpu family", "model", "CPU implementer", "CPU part"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
        "path": path,
        "torch": torch.__version__,
        "deepnets_utils": version("deepnets-utils"),
        "python": platform.python_version(),
        "data_fingerprint": images.fingerprint,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processor(*names: str) -> str:
    """Return what Linux says under these names of the first processor, where it has them; else what Python knows."""
    facts = {}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(facts[name] for name in names if name in facts) or platform.processor() or platform.machine()
