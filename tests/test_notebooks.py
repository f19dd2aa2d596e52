"""The notebooks themselves: each runs whole in smoke, and their numbers on the real data are the printed ones."""

import json

import pandas as pd
import pytest

from deepnets_utils import data, published
from deepnets_utils.cells import Cells
from deepnets_utils.models import build_model, model
from deepnets_utils.parameters import study_names
from deepnets_utils.reports import make_report
from deepnets_utils.runs import Run
from deepnets_utils.store import Store
from deepnets_utils.sweep import sweep
from deepnets_utils.tasks import task


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("output")
        patch.setenv("DEEPNETS_OUTPUT", str(folder))
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("study", study_names())
def test_smoke_runs_whole_and_a_second_time_from_the_store(study, output):
    folder = output / "reports" / "smoke"
    first = make_report(study, {"profile": "smoke"})
    assert first.error == ""
    before = json.loads((folder / f"{study}.json").read_text())
    assert before["runs"]["trained"] > 0
    assert before["runs"]["missing"] == 0 and before["banner"]
    numbers = [pd.read_csv(folder / table["file"]) for table in before["tables"]]
    assert all(len(frame) and frame["ours"].notna().all() for frame in numbers)

    second = make_report(study, {"profile": "smoke", "train": "never"})
    assert second.error == ""
    after = json.loads((folder / f"{study}.json").read_text())
    assert after["runs"]["trained"] == 0
    for table, frame in zip(after["tables"], numbers, strict=True):
        pd.testing.assert_frame_equal(pd.read_csv(folder / table["file"]), frame)
    verdicts = {claim["id"]: claim["verdict"] for claim in after["claims"]}
    assert verdicts == {claim["id"]: claim["verdict"] for claim in before["claims"]}
    assert (folder / f"{study}.html").stat().st_size > 50_000


def test_table_2_of_go_deep_is_printed_digit_for_digit_but_for_one_cell(store: Store):
    if not data.present("fashion_mnist"):
        pytest.skip("Fashion-MNIST is not on this machine")
    labels = [(statistic, value) for statistic in ("mean", "median", "std") for value in ("zero", "mean", "median")]
    runs = [
        Run(
            dataset="fashion_mnist",
            task=task("pixel_statistic", statistic=statistic, validation_size=0),
            model=model("constant", statistic=value, fit_on="test"),
        )
        for statistic, value in labels
    ]
    cells = Cells({label: [result] for label, result in zip(labels, sweep(runs, store=store), strict=True)})
    sigma = {(statistic, "sigma"): value for (statistic, _), value in cells.exact("test_target_std").items()}
    losses = published.compare(cells.exact("test_mse"), "go_deep", "table2", "test_mse", exact=True)
    spreads = published.compare(sigma, "go_deep", "table2", "target_std", exact=True)
    table = pd.concat([losses, spreads])
    assert len(table) == 12
    different = table[table["verdict"] == "differs"]
    assert list(zip(different["row"], different["column"], strict=True)) == [("mean", "sigma")]
    assert different["ours"].item() == pytest.approx(0.12576, abs=5e-6)
    zeros = cells.exact("test_target_zero_fraction")["median", "zero"]
    assert zeros == pytest.approx(0.480, abs=5e-4)


def test_the_printed_parameter_counts_are_those_of_the_networks():
    names = ("LeNet5", "LeNet5_FullyConv", "Net", "ResNet")
    counts = {(name, "parameters"): sum(p.numel() for p in build_model(model(name)).parameters()) for name in names}
    table = published.compare(counts, "siamese", "text", "parameters", exact=True)
    assert list(table["verdict"]) == ["agrees"] * 4
