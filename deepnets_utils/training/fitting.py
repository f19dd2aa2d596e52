"""One estimator, fitted and measured."""

from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from deepnets_utils.data.tasks import Split, Task
from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run


def fit_estimator(run: Run, task: Task, splits: dict[str, Split]) -> dict[str, Any]:
    """Return status and metrics of the estimator that `run` names, and a description of the targets of a regression.

    A classifier is measured on all splits, a regressor on the test split. Raises ValueError for a network.
    """
    estimator = build_model(run.model)
    if isinstance(estimator, nn.Module):
        raise ValueError(f"model {run.model.name!r} is trained: its Run needs a learning_rate, epochs and a batch_size")
    import sklearn.linear_model  # noqa: F401  its threads can be limited once it is there

    inputs = {name: split.pixels(split.inputs).flatten(1).numpy() for name, split in splits.items()}
    metrics: dict[str, Any] = {}
    with threadpool_limits(1):
        estimator.fit(inputs[estimator.fit_on], splits[estimator.fit_on].targets.double().numpy())
        for name in splits if hasattr(task, "hits") else ("test",):
            predictions = torch.as_tensor(estimator.predict(inputs[name]))
            measured = task.metrics(predictions, splits[name].targets)
            metrics |= {f"{name}_{key}": value for key, value in measured.items()}
    if hasattr(task, "describe"):
        for name, split in splits.items():
            metrics |= {f"{name}_{key}": value for key, value in task.describe(split.targets).items()}
    return {"status": "finished", "metrics": metrics, "history": {}}
