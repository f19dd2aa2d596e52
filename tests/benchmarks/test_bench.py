"""The benchmark: its arithmetic on made-up numbers, its ways on the digits, and its command."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import bench
from benchmarks.bench import OPPONENT, Measurement, by_package, by_replicas, make_run, summarise
from benchmarks.opponents import Pictures, Timed, by_lightning, by_plain_loop, prepare
from deepnets_utils.data import loading
from deepnets_utils.data.tasks import build_task
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.sweeps.workers import InProcess

MEASURED = [
    Measurement("Base", OPPONENT, "cpu", 20.0, {0: 0.5}),
    Measurement("Base", "package", "cpu", 4.0, {0: 0.51, 1: 0.4}),
    Measurement("Base", OPPONENT, "cuda", 6.0, {0: 0.5}),
    Measurement("Base", "replicas", "cuda", 0.1, {0: 0.5, 9: 7.0}),
    Measurement("Base", OPPONENT, "cpu", 90.0, {1: 0.4}),
    Measurement("Base", "package", "cpu", 8.0, {1: 0.4, 2: 0.3}),
    Measurement("Base", OPPONENT, "cpu", 24.0, {2: 0.3}),
    Measurement("Base", "package", "cpu", 5.0, {2: 0.3, 3: 0.1}),
]


def differing(loss: float) -> list[Measurement]:
    return [Measurement("None", OPPONENT, "cpu", 1.0, {0: 0.2}), Measurement("None", "package", "cpu", 1.0, {0: loss})]


def test_medians_and_ratios_are_those_of_the_same_device():
    rows = {(row["way"], row["device"]): row for row in summarise(MEASURED)}
    package = rows["package", "cpu"]
    assert package["seconds"] == [4.0, 8.0, 5.0] and package["median_seconds"] == 5.0
    assert package["ratio"] == pytest.approx(24 / 5)
    assert rows["replicas", "cuda"]["ratio"] == pytest.approx(60)
    assert [rows[OPPONENT, device]["ratio"] for device in ("cpu", "cuda")] == [1, 1]


def test_losses_are_compared_seed_by_seed():
    package = summarise(MEASURED)[1]
    assert package["losses"] == {0: 0.51, 1: 0.4, 2: 0.3, 3: 0.1}
    assert package["loss_difference"] == 0  # the median of 2 %, 0 and 0; seed 3 has nothing to be compared with
    assert summarise(differing(0.19))[1]["loss_difference"] == pytest.approx(0.05)


@pytest.mark.parametrize(("loss", "count"), [(0.2, 0), (0.205, 0), (0.195, 0), (0.22, 1), (0.18, 1), (float("nan"), 1)])
def test_losses_that_differ_are_found(loss: float, count: int):
    texts = bench.disagreements(summarise(differing(loss)))
    assert len(texts) == count
    assert all("package on cpu does not train None as" in text for text in texts)


def test_table_and_figure_show_every_row():
    rows = summarise([*MEASURED, *differing(0.2)])
    table = bench.table(rows)
    assert len(table) == len(rows) == 6
    assert table.iloc[1].tolist() == ["Base", "package", "cpu", "5", "12,800", "4.8", "0.35", "0.00%"]
    figure = bench.draw(rows)
    assert [len(axes.patches) for axes in figure.axes] == [4, 2]
    assert " 4.8 x" in {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)


SMALL = [name for name, case in bench.CASES.items() if case.fewer == 1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("network", SMALL)
def test_a_plain_loop_and_replicas_train_what_the_package_trains(network: str):
    runs = [make_run("digits_28", network, 4, seed) for seed in (3, 4)]
    expected = [by_package(run).loss for run in runs]
    assert expected[0] != pytest.approx(expected[1], rel=0.01)
    assert [by_plain_loop(run).loss for run in runs] == pytest.approx(expected, rel=1e-9)
    assert [timed.loss for timed in by_replicas(runs, "cpu")] == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("network", ["3-layer-linear", "ResNet18"])
def test_a_plain_loop_classifies_as_the_package_does(network: str):
    run = make_run("digits_32", network, 2, 0)
    seen = replace(run.task, options=tuple(sorted((dict(run.task.options) | {"train_size": 16}).items())))
    run = replace(run, task=seen, augmentation=None, batch_size=8)
    expected = by_package(run).loss
    assert by_plain_loop(run).loss == pytest.approx(expected, rel=1e-9)
    other = replace(run, learning_rate=1.001 * run.learning_rate)
    assert by_plain_loop(other).loss != pytest.approx(expected, rel=1e-9)


def test_the_plain_loops_loss_counts_auxiliary_classifiers():
    run = make_run("digits_32", "GoogLeNet", 1, 0)
    *_, loss = prepare(run)
    logits, labels = tuple(torch.randn(3, 4, 10)), torch.tensor([0, 3, 9, 1])
    assert loss(logits, labels) == pytest.approx(build_task(run.task).loss(logits, labels).item(), rel=1e-6)
    assert loss(logits, labels) > loss(logits[0], labels)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("Teacher-1", ["RandomHorizontalFlip", "RandomCrop"]),
        ("ResNet18", ["RandomHorizontalFlip", "RandomRotation", "RandomResizedCrop", "ColorJitter"]),
    ],
)
def test_the_plain_loops_pictures_are_changed_as_the_run_says(network: str, names: list[str]):
    run = make_run("digits_32", network, 1, 0)
    pictures = Pictures(run, build_task(run.task).splits(loading.load("digits_32"), 0)["train"])
    chain = [type(change).__name__ for change in pictures.transform.transforms]
    assert chain == [*names, "PILToTensor", "ToDtype", "Normalize"]
    image, label = pictures[0]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and label == pictures.targets[0]
    assert not torch.equal(image, pictures[0][0]), "drawn anew each time"


@pytest.mark.usefixtures("float64")
def test_lightning_trains_what_the_package_trains():
    pytest.importorskip("lightning")
    run = make_run("digits_28", "Base", 8, 3)
    timed = by_lightning(run)
    assert timed.loss == pytest.approx(by_package(run).loss, rel=1e-9)
    assert timed.seconds > 0


def test_a_way_that_trains_something_else_does_not_agree():
    run = make_run("digits_28", "Base", 20, 0)
    losses = {OPPONENT: by_plain_loop(run).loss, "package": by_package(replace(run, learning_rate=1e-4)).loss}
    measured = [Measurement("Base", name, "cpu", 1.0, {0: loss}) for name, loss in losses.items()]
    assert bench.disagreements(summarise(measured))


def test_rounds_are_interleaved_and_seconds_are_per_thousand_steps():
    calls = []

    def way(name: str, count: int) -> bench.Way:
        def call(runs: list) -> list[Timed]:
            calls.append((name, runs[0].model.name, [run.seed for run in runs]))
            return [Timed(0.5, run.seed / 10) for run in runs]

        return bench.Way(name, "cpu", count, call, SMALL)

    datasets = {"fashion_mnist": "digits_28", "cifar10": "digits_32"}
    found = bench.measure([way("a", 1), way("b", 2)], datasets, rounds=2, steps=10)
    assert [call[0] for call in calls] == ["a", "b"] * 6
    assert [call[2] for call in calls[:2] + calls[-2:]] == [[0], [0, 1], [1], [1, 2]]
    assert {item.seconds for item in found} == {25.0}  # 0.5 s for the 20 steps of two epochs
    assert found[-1].losses == {1: 0.1, 2: 0.2}
    large = replace(way("c", 1), networks=["GoogLeNet", "3-layer-linear"])
    found = bench.measure([large], datasets, rounds=1, steps=200)
    seconds = {item.network: item.seconds for item in found}
    assert seconds == {"3-layer-linear": 12.5, "GoogLeNet": 125.0}  # 40 and 4 steps: they are so much longer


def test_without_cuda_there_are_no_ways_for_it():
    assert {way.device for way in bench.make_ways([], InProcess(), cuda=False)} == {"cpu"}
    ways = bench.make_ways([], InProcess(), cuda=True)
    counts = {name: [w.count for w in ways if w.device == "cuda" and name in w.networks] for name in bench.CASES}
    assert counts["Base"] == [1, 1, 10, 30]
    assert counts["GoogLeNet"] == counts["Teacher-1"] == [1, 1]


def test_not_every_core_takes_a_large_network_at_once():
    ways = [way for way in bench.make_ways([None] * 64, InProcess(), cuda=False) if "processes" in way.name]
    counts = {name: [way.count for way in ways if name in way.networks] for name in bench.CASES}
    assert counts["Base"] == counts["Teacher-1"] == [64]
    assert counts["VGG19"] == [bench.LARGE_AT_ONCE]


@pytest.mark.slow
def test_whole_benchmark_on_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    pytest.importorskip("lightning")
    monkeypatch.setenv("DEEPNETS_DATA", str(tmp_path))
    chosen = {name: bench.CASES[name] for name in [*SMALL, "3-layer-linear"]}
    chosen["ResNet18"] = replace(bench.CASES["ResNet18"], batch_size=8)
    monkeypatch.setattr(bench, "CASES", chosen)
    found = bench.benchmark(rounds=1, steps=2)
    rows = [row for row in found["rows"] if row["device"] == "cpu"]
    assert len(rows) == 3 * 4 + 2 * 3
    assert not bench.disagreements([row for row in rows if row["network"] in SMALL])
    assert {row["first"] for row in rows if row["network"] == "ResNet18"} == {"plain loop"}
    assert set(found["data"]) == {"digits_28", "digits_32"}
    assert found["steps"]["ResNet18"] == {"timed": 2, "before": 1}
    errors = capsys.readouterr().err
    assert "digits_28 stands in" in errors and "digits_32 stands in" in errors
    assert {"torch", "torchvision", "lightning", "python", "deepnets_utils"} == found["versions"].keys()
    json.dumps(found, allow_nan=False)


def test_without_lightning_nothing_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(SystemExit) as end:
        command.app([])
    assert end.value.code == 2
    assert 'pip install -e ".[bench]"' in capsys.readouterr().err


@pytest.mark.parametrize(("rounds", "steps"), [(0, 10), (1, 0)])
def test_impossible_rounds_and_steps(rounds: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setenv("DEEPNETS_DATA", str(tmp_path))
    with pytest.raises(ParameterError, match="rounds must be at least 1 and steps 1 to 21"):
        bench.benchmark(rounds, steps)


@pytest.mark.parametrize(("loss", "code"), [(0.2, 0), (0.3, 1)])
def test_command_writes_what_it_found_and_fails_when_losses_differ(
    loss: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(bench, "benchmark", lambda rounds, steps: {"rows": summarise(differing(loss))})
    file, figure = tmp_path / "new" / "found.json", tmp_path / "figure.png"
    with pytest.raises(SystemExit) as end:
        command.app(["--json", str(file), "--figure", str(figure)])
    out, err = capsys.readouterr()
    assert (end.value.code or 0) == code
    assert ("does not train None" in err) == bool(code)
    assert "package" in out
    assert json.loads(file.read_text())["rows"][1]["losses"] == {"0": loss}
    assert figure.read_bytes().startswith(b"\x89PNG")
