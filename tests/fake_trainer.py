"""A trainer without torch that takes milliseconds, and a driver of sweeps with it: `python fake_trainer.py ...`.

The model's name says what happens: fine, raises, no_file (an OSError), unstorable, other_data, dies, dies_once,
interrupted_once, dies_as_one (as one network with others). Its option `seconds` says how long it takes. Each call
leaves a line in `calls` of the store's folder.
"""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil

from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep

TRAINER = "fake_trainer:train"
MARK = "DEEPNETS_TEST_DRIVER"
busy: list[str] = []  # the runs that this process is at


def make_run(
    seed: int, behaviour: str = "fine", seconds: float = 0.0, version: int | str = 1, teacher: Run | None = None
) -> Run:
    model = Spec(behaviour, version, (("seconds", seconds),))
    return Run(dataset="digits_28", task=Spec("fake", 1), model=model, seed=seed, teacher=teacher)


def result_of(run: Run, wall_seconds: float = 0.01) -> Result:
    metrics = {"test_error": int(run.digest[:4], 16) / 7, "test_list": [1.0, 2.0]}
    provenance = {"wall_seconds": wall_seconds, "data_fingerprint": CANONICAL[run.dataset]}
    return Result(run=run, status="finished", metrics=metrics, provenance=provenance)


def train(
    run: Run, *, device: str, checkpoint: Path, weights: Path | None = None, teacher: Path | None = None
) -> Result:
    folder, options = checkpoint.parents[1], dict(run.model.options)
    stored = (folder / "records" / f"{run.digest}.json").exists()
    first = run.digest not in (line["digest"] for line in calls(folder))
    line = {"digest": run.digest, "pid": os.getpid(), "stored": stored, "device": device}
    if weights is not None:
        write_weights(run, weights)
    if run.teacher is not None:
        line["teacher"] = teacher.read_bytes()[32:].decode()
    with open(folder / "calls", "a") as file:  # one short write at the end of the file is never mixed with another
        file.write(json.dumps(line) + "\n")
    busy.append(run.digest)
    time.sleep(options["seconds"])
    assert busy == [run.digest], "one run at a time per process"
    busy.clear()
    behaviour = run.model.name
    if behaviour == "raises":
        raise RuntimeError("made to fail")
    if behaviour == "no_file":
        raise FileNotFoundError("made to miss a file")
    if behaviour == "dies" or (behaviour == "dies_once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "interrupted_once" and first:
        raise KeyboardInterrupt
    result = result_of(run)
    if behaviour == "unstorable":
        return dataclasses.replace(result, metrics={"test_error": {1.0}})
    if behaviour == "other_data":
        return dataclasses.replace(result, provenance={"data_fingerprint": "0" * 64})
    return result


def write_weights(run: Run, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    content = run.digest.encode()
    file.write_bytes(hashlib.sha256(content).digest() + content)


def group_key(run: Run) -> str | None:
    return run.model.name if run.model.name == "dies_as_one" else None


def group_size(run: Run) -> int:
    return 64


def train_group(runs: list[Run], *, device: str, checkpoint: Path) -> list[Result]:
    os.kill(os.getpid(), signal.SIGKILL)


def calls(folder: Path) -> list[dict]:
    """Return what was trained, in order; an empty list before the first."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def claim_files(store: Store) -> list[Path]:
    return list((store.folder / "claims").glob("*"))


def stored_runs(store: Store) -> set[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {result.run.seed for result in store.results()}


class Drivers:
    """Processes that run fake_trainer.py, recognised with all their descendants by a mark in the environment."""

    def __init__(self, store: Store) -> None:
        self.store, self.mark = store, f"{os.getpid()}-{time.monotonic_ns()}"
        self.started: list[subprocess.Popen] = []

    def start(self, count: int, seconds: float, workers: int) -> subprocess.Popen:
        self.store.folder.mkdir(exist_ok=True)
        arguments = [__file__, self.store.folder, count, seconds, workers]
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {MARK: self.mark},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def wait_for_calls(self, count: int) -> None:
        end = time.monotonic() + 30
        while len(calls(self.store.folder)) < count:
            assert time.monotonic() < end, self.started[-1].communicate(timeout=1)
            time.sleep(0.005)

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_none_left(self) -> None:
        end = time.monotonic() + 15  # a busy machine's patience; what must not go on trains for longer
        while left := self.alive():
            assert time.monotonic() < end, left
            time.sleep(0.05)


if __name__ == "__main__":
    # Trains COUNT runs of SECONDS each with WORKERS processes into the store FOLDER and prints the digests.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    folder, count, seconds, workers = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    runs = [make_run(seed, seconds=seconds) for seed in range(count)]
    results = sweep(runs, store=Store(folder, published=None), workers=workers, trainer=TRAINER)
    print(*(result.run.digest for result in results))
