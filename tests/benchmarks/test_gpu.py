"""The first hour on a card, rehearsed on the CPU."""

import json
import time
from pathlib import Path

import pytest
import torch
import typer

from benchmarks import gpu
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.lists import write_runs


def plan(folder: Path, epochs: int) -> Run:
    run = Run(
        dataset="digits_28",
        task=task("pixel_statistic", train_size=100, validation_size=0),
        model=model("MLPRegressor"),
        learning_rate=1e-3,
        epochs=epochs,
        batch_size=50,
    )
    write_runs(folder / "reports" / "paper" / "02_depth_sweep.runs.jsonl", [run])
    return run


def test_a_rehearsal_checks_measures_and_trains(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CHECKED", ("None",))
    monkeypatch.setattr(gpu, "CASES", {"None": gpu.CASES["None"]})
    monkeypatch.setattr(gpu, "group_size", lambda run: 2)
    run, file = plan(output, epochs=2), output / "found.json"
    with pytest.raises(typer.Exit) as ended:
        gpu.main(minutes=3, device="cpu", steps=2, json_file=file)
    assert ended.value.exit_code == 0
    found = json.loads(file.read_text())
    assert [row["check"] for row in found["checks"]] == list(gpu.BOUNDS) and all(row["ok"] for row in found["checks"])
    ways = [row["way"] for row in found["measurements"]]
    assert ways[-3:-1] == ["package, a stack"] * 2 and "plain loop" in ways and "package, one run" in ways
    assert all(row["images_per_second"] > 0 for row in found["measurements"] if "failed" not in row)
    assert found["begun"] == ["02_depth_sweep.runs.jsonl"] and Store().get(run).status == "finished"


def test_when_the_time_is_over_the_run_keeps_its_checkpoint(output: Path) -> None:
    run = plan(output, epochs=1_000_000)
    gpu.train_until(time.monotonic() + 30, "cpu")
    assert Store().checkpoint(run).exists() and Store().get(run) is None


def test_a_check_that_fails_is_told(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CHECKED", ("None",))
    monkeypatch.setattr(gpu, "measurements", lambda *_: iter(()))
    monkeypatch.setattr(gpu, "BOUNDS", gpu.BOUNDS | {"bfloat16 against float32": 0.0})
    with pytest.raises(typer.Exit) as ended:
        gpu.main(minutes=1, device="cpu", steps=2, json_file=output / "found.json")
    assert ended.value.exit_code == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_card_nothing_is_begun(output: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(typer.Exit) as ended:
        gpu.main(json_file=output / "found.json")
    assert ended.value.exit_code == 2 and "no CUDA device here" in capsys.readouterr().err
    assert not list(output.iterdir())
