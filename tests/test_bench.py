"""The benchmark: its arithmetic on made-up numbers, its ways on the digits, and its command."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from deepnets_utils import bench, cli
from deepnets_utils.bench import OPPONENT, Measurement, by_package, by_replicas, make_run, summarise
from deepnets_utils.opponents import Timed, by_lightning, by_plain_loop
from deepnets_utils.parameters import ParameterError

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
    assert table.iloc[1].tolist() == ["Base", "package", "cpu", "5", "4.8", "0.35", "0.00%"]
    figure = bench.draw(rows)
    assert [len(axes.patches) for axes in figure.axes] == [4, 2]
    assert " 4.8 x" in {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)


@pytest.mark.parametrize("network", bench.NETWORKS)
def test_a_plain_loop_and_replicas_train_what_the_package_trains(network: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "REPLICA_EPOCHS", 1)
    runs = [make_run("digits_28", network, 4, seed) for seed in (3, 4)]
    expected = [by_package(run).loss for run in runs]
    assert expected[0] != pytest.approx(expected[1], rel=0.01)
    assert [by_plain_loop(run).loss for run in runs] == pytest.approx(expected, rel=1e-4)
    assert [timed.loss for timed in by_replicas(runs, "cpu")] == pytest.approx(expected, rel=1e-4)


def test_lightning_trains_what_the_package_trains():
    pytest.importorskip("lightning")
    run = make_run("digits_28", "Base", 8, 3)
    timed = by_lightning(run)
    assert timed.loss == pytest.approx(by_package(run).loss, rel=1e-4)
    assert timed.seconds > 0


def test_a_way_that_trains_something_else_does_not_agree():
    run = make_run("digits_28", "Base", 20, 0)
    losses = {OPPONENT: by_plain_loop(run).loss, "package": by_package(replace(run, learning_rate=2e-3)).loss}
    measured = [Measurement("Base", name, "cpu", 1.0, {0: loss}) for name, loss in losses.items()]
    assert bench.disagreements(summarise(measured))


def test_rounds_are_interleaved_and_seconds_are_per_thousand_steps():
    calls = []

    def way(name: str, count: int) -> bench.Way:
        def call(runs: list) -> list[Timed]:
            calls.append((name, runs[0].model.name, [run.seed for run in runs]))
            return [Timed(0.5, run.seed / 10) for run in runs]

        return bench.Way(name, "cpu", count, call)

    found = bench.measure([way("a", 1), way("b", 2)], "digits_28", rounds=2, steps=10)
    assert [call[0] for call in calls] == ["a", "b"] * 6
    assert [call[2] for call in calls[:2] + calls[-2:]] == [[0], [0, 1], [1], [1, 2]]
    assert {item.seconds for item in found} == {25.0}  # 0.5 s for the 20 steps of two epochs
    assert found[-1].losses == {1: 0.1, 2: 0.2}


def test_without_cuda_there_are_no_ways_for_it():
    assert {way.device for way in bench.make_ways([], cuda=False)} == {"cpu"}
    counts = [way.count for way in bench.make_ways([], cuda=True) if way.device == "cuda"]
    assert counts == [1, 1, 10, 30]


@pytest.mark.slow
def test_whole_benchmark_on_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    pytest.importorskip("lightning")
    monkeypatch.setenv("DEEPNETS_DATA", str(tmp_path))
    found = bench.benchmark(rounds=1, steps=2)
    rows = [row for row in found["rows"] if row["device"] == "cpu"]
    assert len(rows) == 12
    assert not bench.disagreements(rows)
    assert found["data"]["dataset"] == "digits_28"
    assert "digits_28 stands in" in capsys.readouterr().err
    assert {"torch", "torchvision", "lightning", "python", "deepnets_utils"} == found["versions"].keys()
    json.dumps(found, allow_nan=False)


def test_without_lightning_nothing_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(sys, "argv", ["deepnets", "bench"])
    with pytest.raises(SystemExit) as end:
        cli.main()
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
    monkeypatch.setattr(sys, "argv", ["deepnets", "bench", "--json", str(file), "--figure", str(figure)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code or 0) == code
    assert ("does not train None" in err) == bool(code)
    assert "package" in out
    assert json.loads(file.read_text())["rows"][1]["losses"] == {"0": loss}
    assert figure.read_bytes().startswith(b"\x89PNG")
