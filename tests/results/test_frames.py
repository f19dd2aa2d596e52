"""Tables of runs and of epochs, and what is read from them."""

import numpy as np
import pandas as pd
import pytest

from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.reports.exports import costs
from deepnets_utils.results import frames
from deepnets_utils.runs.run import Result, Run

PROVENANCE = {"cpu_seconds": 2.0, "wall_seconds": 3.0, "device": "x", "path": "loop"}


def make(seed: int, rate: float | str = 0.1) -> Run:
    options = {"learning_rate": rate, "epochs": 3, "batch_size": 10}
    return Run(dataset="digits_28", task=task("digit_pairs"), model=model("LeNet5"), seed=seed, **options)


def table_with(*results: Result | None, rate: float | str = 0.1) -> tuple[pd.DataFrame, dict[str, Result]]:
    planned = frames.plan(lambda name, seed: make(seed, rate), {"name": ["a"], "seed": range(len(results))})
    filled = [result and Result(run=run, **result) for run, result in zip(planned["run"], results, strict=True)]
    return frames.tidy(planned, filled), {item.run.digest: item for item in filled if item}


def finished(*errors: float) -> dict:
    known = {"status": "finished", "metrics": {"test_error": errors[-1]}, "provenance": PROVENANCE}
    return known | {"history": {"test_error": list(errors), "train_loss": [1.0] * len(errors)}}


DIVERGED = {"status": "diverged", "metrics": {}, "history": {"test_error": [1.0]}, "provenance": PROVENANCE}


def test_missing_and_diverged_runs_stay_in_the_table():
    table, _ = table_with(finished(30.0, 10.0), DIVERGED, None)
    assert list(table["status"]) == ["finished", "diverged", "missing"]
    assert frames.factors_of(table) == ["name", "seed"] and list(table["learning_rate"]) == [0.1] * 3
    assert table["test_error"].tolist() == pytest.approx([10, np.nan, np.nan], nan_ok=True)
    assert frames.values(table, "test_error").tolist() == pytest.approx([10, np.nan], nan_ok=True)
    assert len(frames.values(table, "test_error", seed=2)) == 0
    described = frames.describe(table, "test_error", ["name"]).iloc[0]
    assert (described["n"], described["diverged"], described["mean"]) == (1, 1, 10)


def test_what_is_counted_has_no_status_and_is_all_there():
    counted = pd.DataFrame({"network": ["A", "B"], "count": [3, 4]})
    assert frames.values(counted, "count").tolist() == [3.0, 4.0]
    assert frames.values(counted, "count", network="B").tolist() == [4.0]


def test_a_table_has_its_metrics_without_any_run():
    table, _ = table_with(None, rate="range_test")
    assert {"test_error", "test_digit_error", "test_error_by_distance", "range_test_losses"} <= set(table)
    assert np.isnan(table["learning_rate"].item()) and frames.describe(table, "test_error", ["name"])["n"].item() == 0
    assert frames.describe(table[:0], "test_error", ["name", "seed"]).empty
    assert frames.curves(table, {}, ["train_loss"]).empty
    none = frames.plan(lambda **factors: None, {"name": ["a"], "test_loss": [1]})
    empty = frames.tidy(none, [], table.columns[2:])
    assert empty.empty and frames.factors_of(empty) == ["name", "test_loss"] and set(table.columns[2:]) <= set(empty)
    assert np.isnan(empty["test_error"].mean()) and "test_error" not in frames.tidy(none, [])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"epoch": [1]}, "cannot be called epoch"),
        ({"sweep": [1], "digest": [2]}, "cannot be called digest, sweep"),
        ({"change": [None, "flip"]}, "a value of factor change is None"),
    ],
)
def test_factors_that_a_table_cannot_hold(factors, message):
    with pytest.raises(ValueError, match=message):
        frames.plan(lambda **labels: make(0, 0.1), factors)


def test_exact_values_that_differ_are_not_one_number():
    table = pd.DataFrame({"row": ["a", "a", "b", "b"], "value": [1.0, 1.0, 1.0, 2.0]})
    [found] = frames.by_label(table, "row", "x y", "value", exact=True).values()
    assert found["a", "x y"] == 1.0 and list(found["b", "x y"]) == [1.0, 2.0]


def test_runs_that_share_an_index_have_no_curves_of_their_own_and_a_history_takes_a_factors_place():
    table, results = table_with(finished(3.0, 2.0))
    with pytest.raises(ValueError, match="ignore_index=True"):
        frames.curves(pd.concat([table, table]), results, ["train_loss"])
    named = table.rename(columns={"name": "train_loss"})
    assert frames.curves(named, results, ["train_loss"])["train_loss"].tolist() == [1.0, 1.0]


def test_a_rate_that_a_range_test_found_is_in_the_table_of_a_diverged_run_too():
    found = DIVERGED | {"metrics": {"learning_rate": 0.5, "range_test_losses": [3.0, 2.0]}}
    table, _ = table_with(found, rate="range_test")
    assert frames.values(table, "learning_rate").tolist() == [0.5]


def test_what_is_read_from_curves():
    table, results = table_with(finished(50, 20, 30, 20), finished(50, 21), DIVERGED, None)
    curves = frames.curves(table, results, ["test_error", "validation_error"])
    assert list(curves.index) == [0] * 4 + [1] * 2 + [2] and curves["validation_error"].isna().all()
    lowest = frames.at_best(curves, "test_error")
    assert lowest["epoch"].to_dict() == {0: 2, 1: 2}, "the first of equal ones, and nothing of a diverged run"
    assert frames.reached(curves, "test_error", 20.0).to_dict() == {0: 2, 1: np.inf}
    assert frames.converged(curves, "test_error", points=10).to_dict() == {0: 2, 1: 2}
    assert frames.converged(curves, "test_error", factor=2.5).to_dict() == {0: 1, 1: 1}
    assert table.join(lowest["epoch"])["epoch"].isna().tolist() == [False, False, True, True]


def test_a_cell_costs_what_its_runs_took_and_what_is_missing_would():
    table, _ = table_with(finished(5.0), DIVERGED, None)
    cost = costs("all", table, {make(2).digest: 7.0}).iloc[0]
    assert (cost["cell"], cost["n"], cost["missing"], cost["diverged"]) == ("name a", 2, 1, 1)
    assert (cost["cpu_seconds_a_run"], cost["missing take"], cost["device"]) == (2, "7 s", "x")
