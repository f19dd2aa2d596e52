"""Fixtures that tests of training share."""

import multiprocessing
from collections.abc import Callable

import pytest
from short_trainings import numbers
from torch import nn

from deepnets_utils.models import MODELS, register_model
from deepnets_utils.runs.run import Run
from deepnets_utils.training.train import train


@pytest.fixture(scope="module")
def undisturbed() -> Callable[[Run], str]:
    """The numbers of a run that nothing disturbs; each is trained once."""
    known: dict[Run, str] = {}

    def get(run: Run) -> str:
        if run not in known:
            known[run] = numbers(train(run))
        return known[run]

    return get


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """New processes without the seconds that the imports take: they fork from one that has done them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepnets_utils.training.train", "sklearn.datasets", "torch._dynamo"])
    return context


@pytest.fixture
def linear_model(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("_factories", "_versions"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))

    @register_model()
    def one_layer() -> nn.Module:
        return nn.Linear(1, 1)

    return "one_layer"
