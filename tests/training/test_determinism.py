"""The same numbers in any order and any process, and those of the golden records.

Golden is one run of each model, task and kind of each study's smoke profile: its float32 bits, which are those of some
CPUs and one PyTorch, and its numbers in float64, which are those of any CPU. Where numbers change on purpose,
`python tests/training/test_determinism.py LIST...` makes them anew from the lists of `deepnets plan --profile smoke`.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_float64 import in_float64
from torch import nn

from deepnets_utils.reports.notebooks import study_names
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import Store, read_records, write_records
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training.machine import numerics

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).with_name("golden")
FLOAT64 = GOLDEN / "float64"
KERNELS = GOLDEN / "kernels.txt"  # of the machine that made them
SECONDS = 3.5  # of CPU that a golden run may take


def numbers(result: Result) -> dict:
    """All that must be the same bits; of students the weights of their teachers, too."""
    record = result.to_json()
    kept = {name: record[name] for name in ("status", "diverged_at_step", "metrics", "history")}
    return kept | {"teacher": result.provenance.get("teacher_weights_sha256")}


def kernels() -> str:
    """Return a digest of the bits that torch and numpy compute here: different CPUs share a model name, and kernels."""
    with numerics():
        torch.manual_seed(0)
        images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
        network = nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 64, 3), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            *(nn.Linear(512, 300), nn.BatchNorm1d(300), nn.Sigmoid(), nn.Linear(300, 10)),
        ).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(network.parameters(), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        turned = F.grid_sample(
            images, F.affine_grid(torch.randn(16, 2, 3), [16, 1, 28, 28], False), align_corners=False
        )
        weights = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    solved = np.linalg.lstsq(np.float64(images.flatten(1).T), np.float64(turned.flatten(1).T))[0]
    return hashlib.sha256(weights.numpy().tobytes() + turned.numpy().tobytes() + solved.tobytes()).hexdigest()


def close(found: object, golden: object, where: str = "") -> None:
    """Fail where numbers in float64 differ by more than another CPU makes them differ.

    One CPU's AVX-512, AVX2 and SSE ways are 1e-10 apart at most; ten thousand times that is no CPU's rounding.
    """
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), where
        for name in golden.keys() - {"teacher"}:  # a digest of bits
            close(found[name], golden[name], f"{where}.{name}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for one, other in zip(found, golden, strict=True):
            close(one, other, where)
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-6, abs=1e-12), where
    else:
        assert found == golden, where


def golden(folder: Path = GOLDEN) -> dict[Run, Result]:
    return {result.run: result for file in sorted(folder.glob("*.jsonl")) for result in read_records(file)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[Run, Result]:
    """The golden runs, trained in this process."""
    store = Store(tmp_path_factory.mktemp("here"), published=None)
    return dict(zip(golden(), sweep(golden(), store=store), strict=True))


def test_every_study_that_trains_has_golden_records() -> None:
    course = {name for name in study_names() if name[:2] < "08"}  # your own needs none
    assert course == {file.stem for file in GOLDEN.glob("*.jsonl")}
    assert golden().keys() == golden(FLOAT64).keys() and len(golden()) > 20


def test_another_process_and_order_give_the_same_bits(here: dict[Run, Result], tmp_path: Path) -> None:
    text = "".join(f"{canonical(run.to_json())}\n" for run in reversed(here))
    (tmp_path / "list.jsonl").write_text(text)
    command = [sys.executable, "-c", "from deepnets_utils.cli import main; main()"]
    arguments = ["train", str(tmp_path / "list.jsonl"), "--device", "cpu", "--workers", "1"]
    subprocess.run([*command, *arguments], env=os.environ | {"DEEPNETS_OUTPUT": str(tmp_path)}, check=True)
    store = Store(tmp_path / "runs", published=None)
    for run, result in here.items():
        assert numbers(store.get(run)) == numbers(result), run


def test_the_golden_bits(here: dict[Run, Result]) -> None:
    made = {result.provenance["torch"] for result in golden().values()}
    if kernels() != KERNELS.read_text().strip() or made != {torch.__version__}:
        pytest.skip("this CPU or PyTorch has other bits; the numbers in float64 are compared")
    for run, result in golden().items():
        assert numbers(here[run]) == numbers(result), run


@pytest.mark.usefixtures("float64")
def test_the_golden_numbers(store: Store) -> None:
    for (run, result), found in zip(golden(FLOAT64).items(), sweep(golden(FLOAT64), store=store), strict=True):
        close(numbers(found), numbers(result), str(run))


def make(file: Path) -> None:
    """Train and write the golden runs of one study's list: of each kind the one with the fewest epochs."""
    kinds: dict[tuple, Run] = {}
    for run in sorted((Run.from_json(json.loads(line)) for line in file.read_text().splitlines()), key=str):
        kind = (run.model.name, run.task.name, run.teacher is not None, run.evaluation_mode, type(run.learning_rate))
        if not run.local and (kind not in kinds or run.epochs < kinds[kind].epochs):
            kinds[kind] = run
    made = [(run, trained(run)) for run in kinds.values()]
    kept = [(run, result) for run, result in made if result.provenance["cpu_seconds"] < SECONDS]
    name = f"{file.name.removesuffix('.runs.jsonl')}.jsonl"
    write_records(GOLDEN / name, [result for _, result in kept])
    with in_float64():
        write_records(FLOAT64 / name, [trained(run) for run, _ in kept])


def trained(run: Run) -> Result:
    with TemporaryDirectory() as folder:
        return sweep([run], store=Store(Path(folder), published=None))[0]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        make(Path(name))
    KERNELS.write_text(f"{kernels()}\n")
