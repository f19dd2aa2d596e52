"""The notebooks themselves: each runs whole in smoke, and their numbers on the real data are the printed ones."""

import json

import pandas as pd
import pytest

from deepnets_utils import data, published
from deepnets_utils.cells import Cells
from deepnets_utils.models import build_model, model
from deepnets_utils.parameters import study_names
from deepnets_utils.reports import make_reports
from deepnets_utils.runs import Run
from deepnets_utils.store import Store
from deepnets_utils.sweep import sweep
from deepnets_utils.tasks import task


@pytest.fixture(scope="module")
def smoke(request, tmp_path_factory):
    """Each study's summary, outcomes and tables after a smoke report and after a second one from the store.

    Of the studies that are tested; several at once, as `make report` does.
    """
    asked = {item.callspec.params["study"] for item in request.session.items if "smoke" in item.fixturenames}
    with pytest.MonkeyPatch.context() as patch:
        output = tmp_path_factory.mktemp("output")
        patch.setenv("DEEPNETS_OUTPUT", str(output))
        folder = output / "reports" / "smoke"
        reports = []
        for train in ("missing", "never"):
            outcomes = make_reports([(study, {"profile": "smoke", "train": train}) for study in sorted(asked)])
            summaries = {study: json.loads((folder / f"{study}.json").read_text()) for study in asked}
            tables = {table["file"] for summary in summaries.values() for table in summary["tables"]}
            frames = {file: pd.read_csv(folder / file) for file in tables}
            reports.append(({outcome.study: outcome.error for outcome in outcomes}, summaries, frames))
        yield folder, *reports


@pytest.mark.slow
@pytest.mark.parametrize("study", study_names())
def test_smoke_runs_whole_and_a_second_time_from_the_store(study, smoke):
    folder, (first_errors, first, numbers), (second_errors, second, stored) = smoke
    assert first_errors[study] == second_errors[study] == ""
    before, after = first[study], second[study]
    assert before["runs"]["trained"] > 0 == before["runs"]["missing"] and before["banner"]
    assert after["runs"]["trained"] == 0
    for table in before["tables"]:
        frame = numbers[table["file"]]
        assert len(frame) and frame["ours"].notna().all()
        pd.testing.assert_frame_equal(stored[table["file"]], frame)
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
