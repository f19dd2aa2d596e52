import linecache
import os
import textwrap
from collections.abc import Callable

import pytest
import torch
from fake_trainer import calls
from torch import nn

from deepnets_utils import models
from deepnets_utils.data import tasks
from deepnets_utils.models import MODELS, build_model, model
from deepnets_utils.runs.registry import Registry
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep

PACKAGE_MODELS = MODELS.names()


@pytest.fixture(autouse=True)
def own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(MODELS, "_factories", dict(MODELS._factories))
    monkeypatch.setattr(MODELS, "_versions", dict(MODELS._versions))
    monkeypatch.setattr(MODELS, "_checked", set(MODELS._checked))


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Runs source as a notebook's kernel runs a cell: in __main__, its source known under a name of its own."""
    number = iter(range(100))

    def run(source: str) -> dict:
        source = textwrap.dedent(source)
        name = f"/tmp/ipykernel_1/{next(number)}.py"
        monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(keepends=True), name))
        space = {"__name__": "__main__"}
        exec(compile(source, name, "exec"), space)
        return space

    return run


FUNCTION = """
    from torch import nn
    from deepnets_utils.models import register_model

    class Small(nn.Sequential):
        def __init__(self, width):
            super().__init__(nn.Linear(3, width), nn.ReLU())

    @register_model()
    def mine(*, width: int = 4):
        return Small(width)
"""
CLASS = """
    from torch import nn
    from deepnets_utils.models import register_model

    @register_model(name="mine")
    class Mine(nn.Module):
        def __init__(self, *, width: int = 4):
            super().__init__()
            self.layer = nn.Linear(3, width)
"""


@pytest.mark.parametrize("source", [FUNCTION, CLASS])
def test_a_model_of_a_notebook(cell: Callable, source: str) -> None:
    cell(source)
    spec = model("mine", width=7)
    assert spec.local and spec.version.startswith("source-")
    assert spec.options == (("width", 7),)
    assert isinstance(build_model(spec), nn.Module)
    with pytest.raises(ValueError, match="its options are: width"):
        model("mine", depth=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [("nn.ReLU()", "nn.Tanh()"), ("width: int = 4", "width: int = 5"), ("nn.Linear(3, width)", "nn.Linear(4, width)")],
)
def test_an_edited_cell_is_another_model(cell: Callable, old: str, new: str) -> None:
    cell(FUNCTION)
    before = model("mine")
    cell(FUNCTION)
    assert model("mine") == before, "the cell was only run again"
    cell(FUNCTION.replace(old, new))
    after = model("mine")
    assert after != before
    with pytest.raises(ValueError, match="'mine' is at version source-.* plan it again"):
        build_model(before)
    build_model(after)


def test_without_source_there_is_no_version() -> None:
    space: dict = {}
    with pytest.raises(ValueError, match="no source of <nowhere>"):
        exec(compile(textwrap.dedent(FUNCTION), "<nowhere>", "exec"), space)


@pytest.mark.parametrize("name", PACKAGE_MODELS)
def test_names_of_the_package_are_taken(name: str) -> None:
    before = MODELS._factories[name]
    for version in (None, 2):
        with pytest.raises(ValueError, match=f"model name '{name}' is taken by the package"):
            models.register_model(version=version, name=name)(lambda: None)
    assert MODELS._factories[name] is before
    with pytest.raises(ValueError, match="task name 'digit_pairs' is taken"):
        tasks.register_task(version=2, name="digit_pairs")(lambda: None)


def test_another_version_of_a_model_is_not_built() -> None:
    with pytest.raises(ValueError, match="'Net' is at version 1 here, the run was made for version 2"):
        build_model(Spec("Net", 2))
    with pytest.raises(ValueError, match="no model is called 'Nett'; there are: .*ResNet"):
        build_model(Spec("Nett", 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "option 'kernel' of model 'GoogLeNet' must be one of 3, 5, not 4"),
        ({"auxiliary": 1}, "option 'auxiliary' of model 'GoogLeNet' must be True or False, not 1"),
        ({"size": 3}, "model 'GoogLeNet' has no option 'size'; its options are: kernel, residual, auxiliary, stem"),
    ],
)
def test_bad_options_of_a_stored_spec_are_not_built(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(Spec.from_json({"name": "GoogLeNet", "version": 1, "options": options}))


@pytest.mark.parametrize("name", PACKAGE_MODELS)
def test_a_spec_is_made_without_side_effects(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    MODELS._checked.clear()
    spec = model(name)
    assert torch.equal(torch.get_rng_state(), before)
    built = build_model(spec)
    if isinstance(built, nn.Module):
        assert all(parameter.device.type == "cpu" for parameter in built.parameters())


def test_a_spec_is_tried_out_once() -> None:
    tried = []
    registry = Registry("thing", try_out=lambda build: tried.append(build()))

    @registry.register(version=3)
    def thing(*, size: int = 1, speed: float | None = None) -> tuple:
        if size > 2:
            raise ValueError("size is above 2")
        return size, speed

    assert registry.spec("thing") == registry.spec("thing", size=1, speed=None) == Spec("thing", 3)
    assert registry.spec("thing", speed=1) == Spec("thing", 3, (("speed", 1.0),))
    assert tried == [(1, None), (1, 1.0)]
    with pytest.raises(ValueError, match="thing 'thing' cannot be made with {'size': 3}: size is above 2"):
        registry.spec("thing", size=3)
    with pytest.raises(ValueError, match="option 'speed' of thing 'thing' must be a finite number or None, not 'fast'"):
        registry.spec("thing", speed="fast")


def test_a_model_of_a_notebook_is_trained_in_this_process(
    cell: Callable, store: Store, capfd: pytest.CaptureFixture
) -> None:
    cell(CLASS.replace("mine", "fine").replace("width: int = 4", "seconds: float = 0.1").replace("width", "4"))
    task = tasks.task("digit_pairs")
    runs = [Run(dataset="digits_28", task=task, model=model("fine", seconds=0.0), seed=seed) for seed in range(2)]
    results = sweep(runs, store=store, workers=2, trainer="fake_trainer:train")
    assert [result.run for result in results] == runs
    assert {call["pid"] for call in calls(store.folder)} == {os.getpid()}
    assert "2 runs use a model or task of this notebook: trained in this process" in capfd.readouterr().err
