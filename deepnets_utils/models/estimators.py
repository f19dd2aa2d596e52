"""Estimators that are fitted, not trained: constant predictors, scikit-learn's regressors and a linear classifier.

They stand in the same registry as the networks, so that a baseline is a Run like any other: stored,
published, and shown where the data set is not.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from deepnets_utils.models.registry import register_model
from deepnets_utils.runs.run import PositiveFloat, PositiveInt


class Estimator(Protocol):
    """What `training` fits. fit_on: the split that it sees, "train" or "test".

    inputs: float32 [N, features], in 0 to 1. targets: float64 [N]. Predictions: what the task's metrics take:
    numbers [N], or logits [N, classes] ([N, 1] for two).
    """

    fit_on: str

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> object: ...

    def predict(self, inputs: np.ndarray) -> np.ndarray: ...


class Constant:
    """Predicts one number for every image.

    Source: go_deep, Experiment 2 and Table 2 (fit_on "test" is what the table does, "train" what the text says).
    """

    def __init__(self, statistic: str, fit_on: str) -> None:
        self.statistic, self.fit_on = statistic, fit_on
        self.value = 0.0

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> "Constant":
        statistics = {"zero": lambda y: 0.0, "mean": np.mean, "median": np.median}
        self.value = float(statistics[self.statistic](targets))
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return np.full(len(inputs), self.value)


class Regressor:
    """A scikit-learn regressor on the pixels, fitted on the training split.

    build: makes it. It is called by `fit`, because scikit-learn takes seconds to import and a plan needs none.
    """

    fit_on = "train"

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> "Regressor":
        self._fitted = self._build().fit(inputs, targets)
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self._fitted.predict(inputs)


class Classifier(Regressor):
    """A scikit-learn classifier on the pixels, fitted on the training split; it predicts logits."""

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self._fitted.decision_function(inputs).reshape(len(inputs), -1)


@register_model(version=1)
def constant(
    *, statistic: Literal["zero", "mean", "median"] = "mean", fit_on: Literal["train", "test"] = "train"
) -> Estimator:
    """Return a constant predictor: statistic "zero", "mean" or "median" of the targets of split `fit_on`."""
    return Constant(statistic, fit_on)


@register_model(version=2)
def linear_regression() -> Estimator:
    """Return ordinary least squares on the pixels, in float64: of the mean task float32 would leave its rounding."""

    def build() -> Any:
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer

        return make_pipeline(FunctionTransformer(np.float64), LinearRegression())

    return Regressor(build)


@register_model(version=1)
def nearest_neighbours(*, neighbours: PositiveInt = 5) -> Estimator:
    """Return the mean target of the `neighbours` (from 1) nearest training images, Euclidean on the pixels."""

    def build() -> Any:
        from sklearn.neighbors import KNeighborsRegressor

        return KNeighborsRegressor(neighbours, algorithm="brute")

    return Regressor(build)


@register_model(version=1)
def gradient_boosting(*, trees: PositiveInt = 100) -> Estimator:
    """Return histogram gradient boosting on the pixels with `trees` (from 1) trees, without early stopping."""

    def build() -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(max_iter=trees, early_stopping=False, random_state=0)

    return Regressor(build)


@register_model(version=1)
def logistic_regression(*, penalty: PositiveFloat = 1.0) -> Estimator:
    """Return logistic regression on the standardised pixels.

    penalty: weight, above 0, of half the squared weights beside the sum (not the mean) of the images' losses.
    """

    def build() -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))

    return Classifier(build)
