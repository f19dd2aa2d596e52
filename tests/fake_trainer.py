"""A trainer without torch that takes milliseconds, and a driver of sweeps with it: `python fake_trainer.py ...`.

The model's name says what happens: fine, raises, no_file (an OSError), unstorable, other_data, dies, dies_once,
interrupted_once. Its option `seconds` says how long it takes. Each call leaves a line in `calls` of the store's folder.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from deepnets_utils.datasets import CANONICAL
from deepnets_utils.runs import Result, Run, Spec
from deepnets_utils.store import Store
from deepnets_utils.sweep import sweep

TRAINER = "fake_trainer:train"


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
        weights.parent.mkdir(exist_ok=True)
        weights.write_text(run.digest)
    if run.teacher is not None:
        line["teacher"] = teacher.read_text()
    with open(folder / "calls", "a") as file:  # one short write at the end of the file is never mixed with another
        file.write(json.dumps(line) + "\n")
    time.sleep(options["seconds"])
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


def calls(folder: Path) -> list[dict]:
    """Return what was trained, in order; an empty list before the first."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    # Trains COUNT runs of SECONDS each with WORKERS processes into the store FOLDER and prints the digests.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    folder, count, seconds, workers = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    runs = [make_run(seed, seconds=seconds) for seed in range(count)]
    results = sweep(runs, store=Store(folder, published=None), workers=workers, trainer=TRAINER)
    print(*(result.run.digest for result in results))
