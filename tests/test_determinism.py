"""The same numbers in any order and any process, and those of the golden records.

Golden is one run of each model, task and kind of each study's smoke profile. Where numbers change on purpose,
`python tests/test_determinism.py LIST...` makes them anew from the lists of `deepnets plan --profile smoke`. Look at
what it writes: a run that blew up (a loss of 1e8) repeats on no other CPU, so keep the old one in its place.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from deepnets_utils.machine import numerics
from deepnets_utils.parameters import study_names
from deepnets_utils.runs import Result, Run, canonical
from deepnets_utils.store import Store, read_records, write_records
from deepnets_utils.sweep import sweep

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).with_name("golden")
KERNELS = GOLDEN / "kernels.txt"  # of the machine that made them
SECONDS = 3.5  # of CPU that a golden run may take


def numbers(result: Result) -> dict:
    """All that must be the same bits; of students the weights of their teachers, too."""
    record = result.to_json()
    kept = {name: record[name] for name in ("status", "diverged_at_step", "metrics", "history")}
    return kept | {"teacher": result.provenance.get("teacher_weights_sha256")}


def kernels() -> str:
    """Return a digest of the bits that torch computes here: many different CPUs share one model name."""
    draw = torch.Generator().manual_seed(0)
    images, weights = torch.rand(8, 3, 32, 32, generator=draw), torch.rand(16, 3, 5, 5, generator=draw)
    weights.requires_grad_()
    with numerics():
        features = torch.nn.functional.batch_norm(torch.conv2d(images, weights), None, None, training=True)
        logits = torch.tanh(features).flatten(1) @ features.flatten(1).T / 1e3
        loss = torch.logsumexp(logits, 1).sum() + torch.exp(features).mean()
        loss.backward()
    bits = b"".join(tensor.detach().numpy().tobytes() for tensor in (features, logits, loss, weights.grad))
    return hashlib.sha256(bits).hexdigest()


def close(found: object, golden: object, where: str = "") -> None:
    """Fail where numbers differ by more than another CPU makes them differ.

    Without AVX all losses stayed within 0.4 %, all errors and rates the same; where a range test blows up, the last
    bits decide its losses. A pair of digits is one of about ten that lie as far apart, so it is ten points there.
    """
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), where
        for name in golden.keys() - {"range_test_losses", "teacher"}:
            close(found[name], golden[name], f"{where}.{name}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for one, other in zip(found, golden, strict=True):
            close(one, other, where)
    elif isinstance(golden, float):
        points = {"error": 5.0, "accuracy": 5.0, "distance": 20.0}.get(where.rpartition("_")[2], 1e-6)
        assert found == pytest.approx(golden, rel=0.05, abs=points), where
    else:
        assert found == golden, where


@pytest.fixture(scope="module")
def golden() -> dict[str, list[Result]]:
    return {file.stem: list(read_records(file)) for file in sorted(GOLDEN.glob("*.jsonl"))}


@pytest.fixture(scope="module")
def here(golden: dict[str, list[Result]], tmp_path_factory: pytest.TempPathFactory) -> dict[Run, Result]:
    """The golden runs, trained in this process."""
    runs = [result.run for results in golden.values() for result in results]
    store = Store(tmp_path_factory.mktemp("here"), published=None)
    return dict(zip(runs, sweep(runs, store=store), strict=True))


def test_every_study_that_trains_has_golden_records(golden: dict[str, list[Result]]) -> None:
    assert set(study_names()) - golden.keys() <= {"08_summary"}
    assert all(golden.values())


def test_another_process_and_order_give_the_same_bits(here: dict[Run, Result], tmp_path: Path) -> None:
    text = "".join(f"{canonical(run.to_json())}\n" for run in reversed(here))
    (tmp_path / "list.jsonl").write_text(text)
    command = [sys.executable, "-c", "from deepnets_utils.cli import main; main()"]
    arguments = ["train", str(tmp_path / "list.jsonl"), "--device", "cpu", "--workers", "1"]
    subprocess.run([*command, *arguments], env=os.environ | {"DEEPNETS_OUTPUT": str(tmp_path)}, check=True)
    store = Store(tmp_path / "runs", published=None)
    for run, result in here.items():
        assert numbers(store.get(run)) == numbers(result), run


def test_the_golden_numbers(here: dict[Run, Result], golden: dict[str, list[Result]]) -> None:
    alike = kernels() == KERNELS.read_text().strip()
    for study, results in golden.items():
        for result in results:
            found, facts = here[result.run], ("device", "torch")
            if alike and all(found.provenance[fact] == result.provenance[fact] for fact in facts):
                assert numbers(found) == numbers(result), f"{study}: {result.run}"
            else:
                close(numbers(found), numbers(result), f"{study}: {result.run}")


def make(file: Path) -> None:
    """Train and write the golden runs of one study's list: of each kind the one with the fewest epochs."""
    kinds: dict[tuple, Run] = {}
    for run in sorted((Run.from_json(json.loads(line)) for line in file.read_text().splitlines()), key=str):
        kind = (run.model.name, run.task.name, run.teacher is not None, run.evaluation_mode, type(run.learning_rate))
        if not run.local and (kind not in kinds or run.epochs < kinds[kind].epochs):
            kinds[kind] = run
    results = []
    with TemporaryDirectory() as folder:
        for run in kinds.values():
            [result] = sweep([run], store=Store(Path(folder), published=None))
            results += [result] if result.provenance["cpu_seconds"] < SECONDS else []
    write_records(GOLDEN / f"{file.name.removesuffix('.runs.jsonl')}.jsonl", results)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        make(Path(name))
    KERNELS.write_text(f"{kernels()}\n")
