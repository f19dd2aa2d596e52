"""Estimators that are fitted, not trained: scikit-learn's constant predictors, regressors and a linear classifier.

They stand in the same registry as the networks, so that a baseline is a Run like any other: stored,
published, and shown where the data set is not.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from deepnets_utils.models.registry import register_model
from deepnets_utils.runs.run import PositiveFloat, PositiveInt


class Estimator:
    """A scikit-learn estimator of the pixels.

    build: makes it of the package `sklearn`. It is called by `fit`, because scikit-learn takes seconds to import and a
    plan needs none. fit_on: the split that it sees, "train" or "test".
    """

    def __init__(self, build: Callable[[Any], Any], fit_on: str = "train") -> None:
        self._build, self.fit_on = build, fit_on

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> "Estimator":
        """Fit it to inputs, float32 [N, features] in 0 to 1, and targets, float64 [N]."""
        import sklearn
        from sklearn import dummy, ensemble, linear_model, neighbors, pipeline, preprocessing  # noqa: F401

        self._fitted = self._build(sklearn).fit(inputs, targets)
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return numbers [N], or of a classifier logits [N, classes] ([N, 1] for two)."""
        if hasattr(self._fitted, "decision_function"):
            return self._fitted.decision_function(inputs).reshape(len(inputs), -1)
        return self._fitted.predict(inputs)


@register_model(version=1)
def constant(
    *, statistic: Literal["zero", "mean", "median"] = "mean", fit_on: Literal["train", "test"] = "train"
) -> Estimator:
    """Return a constant predictor: statistic "zero", "mean" or "median" of the targets of split `fit_on`.

    Source: go_deep, Experiment 2 and Table 2 (fit_on "test" is what the table does, "train" what the text says).
    """
    options = {"strategy": "constant", "constant": 0.0} if statistic == "zero" else {"strategy": statistic}
    return Estimator(lambda sklearn: sklearn.dummy.DummyRegressor(**options), fit_on)


@register_model(version=2)
def linear_regression() -> Estimator:
    """Return ordinary least squares on the pixels, in float64: of the mean task float32 would leave its rounding."""
    return Estimator(
        lambda sklearn: sklearn.pipeline.make_pipeline(
            sklearn.preprocessing.FunctionTransformer(np.float64), sklearn.linear_model.LinearRegression()
        )
    )


@register_model(version=1)
def nearest_neighbours(*, neighbours: PositiveInt = 5) -> Estimator:
    """Return the mean target of the `neighbours` (from 1) nearest training images, Euclidean on the pixels."""
    return Estimator(lambda sklearn: sklearn.neighbors.KNeighborsRegressor(neighbours, algorithm="brute"))


@register_model(version=1)
def gradient_boosting(*, trees: PositiveInt = 100) -> Estimator:
    """Return histogram gradient boosting on the pixels with `trees` (from 1) trees, without early stopping."""
    options = {"max_iter": trees, "early_stopping": False, "random_state": 0}
    return Estimator(lambda sklearn: sklearn.ensemble.HistGradientBoostingRegressor(**options))


@register_model(version=1)
def logistic_regression(*, penalty: PositiveFloat = 1.0) -> Estimator:
    """Return logistic regression on the standardised pixels.

    penalty: weight, above 0, of half the squared weights beside the sum (not the mean) of the images' losses.
    """
    return Estimator(
        lambda sklearn: sklearn.pipeline.make_pipeline(
            sklearn.preprocessing.StandardScaler(),
            sklearn.linear_model.LogisticRegression(C=1 / penalty, max_iter=1000),
        )
    )
