"""Estimators that are fitted, not trained."""

import numpy as np
import pytest
from short_trainings import DIGITS, numbers

from deepnets_utils.data import loading
from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.models import model
from deepnets_utils.runs.run import Run
from deepnets_utils.training.train import train


def statistic_run(target: str, name: str, **options: object) -> Run:
    spec = task("pixel_statistic", statistic=target, validation_size=200)
    return Run(dataset=DIGITS, task=spec, model=model(name, **options))


@pytest.mark.parametrize("statistic", ["mean", "median", "std"])
@pytest.mark.parametrize("fit_on", ["train", "test"])
def test_constant_predictors(statistic: str, fit_on: str) -> None:
    splits = build_task(task("pixel_statistic", statistic=statistic, validation_size=200)).splits(
        loading.load(DIGITS), 0
    )
    targets = splits["test"].targets.double().numpy()
    seen = splits[fit_on].targets.double().numpy()
    for constant, value in (("zero", 0.0), ("mean", np.mean(seen)), ("median", np.median(seen))):
        metrics = train(statistic_run(statistic, "constant", statistic=constant, fit_on=fit_on)).metrics
        assert metrics["test_mse"] == pytest.approx(np.mean((targets - value) ** 2), rel=1e-12)
        if constant == "mean" and fit_on == "test":
            assert metrics["test_mse"] == pytest.approx(targets.var(), rel=1e-12)
        sizes = {f"{split}_size": len(content) for split, content in splits.items()}
        assert {key: metrics[key] for key in sizes} == sizes


def test_linear_regression_solves_the_mean() -> None:
    assert train(statistic_run("mean", "linear_regression")).metrics["test_mse"] < 1e-8
    assert train(statistic_run("std", "linear_regression")).metrics["test_mse"] > 1e-6


@pytest.mark.parametrize(
    ("name", "options"), [("nearest_neighbours", {"neighbours": 3}), ("gradient_boosting", {"trees": 3})]
)
def test_other_estimators_beat_the_constant_and_repeat(name: str, options: dict) -> None:
    run = statistic_run("std", name, **options)
    result = train(run)
    assert result.metrics["test_mse"] < train(statistic_run("std", "constant")).metrics["test_mse"]
    assert numbers(train(run)) == numbers(result)
    assert result.provenance["path"] == "estimator" and result.history == {}
