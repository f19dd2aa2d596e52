"""The range test by hand, on odd curves, and beside PyTorch Lightning's finder.

lightning_finder.jsonl holds what two versions of that finder gave for RUNS: one of 2021, the year of the document, and
one of today. `python tests/training/test_range_test.py` records the version that can be imported anew (1.5.7 needs
tensorboard, torchmetrics 0.6, pyDeprecate 0.3 and setuptools below 70). What the finder of 2021 does is what this
package does; the one of today differs in three ways, which `check_present_finder` spells out.
"""

import importlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.models import build_model, model
from deepnets_utils.runs.run import Run
from deepnets_utils.training.machine import numerics
from deepnets_utils.training.range_test import smoothed, suggestion, tested_rates
from deepnets_utils.training.train import train

FIXTURE = Path(__file__).with_name("lightning_finder.jsonl")
OF_2021, PRESENT = "1.5.7", "2.6.6"
RATES = tested_rates()


def make_run(network: Any, seed: int) -> Run:
    """1,197 images in 19 batches, so the test goes through six epochs, each with a smaller batch at its end."""
    spec = task("pixel_statistic", validation_size=200)
    fields = {"learning_rate": "range_test", "epochs": 1, "batch_size": 64, "seed": seed}
    return Run(dataset="digits_28", task=spec, model=network, **fields)


# Chosen so that rounding does not matter: initial weights that differ by a millionth stop at the same step and
# suggest the same rate.
RUNS = {
    "goes to the end": make_run(model("ConvRegressor"), 42),
    "stops": make_run(model("MLPRegressor"), 46),
    "stops today, not in 2021": make_run(model("MLPRegressor", hidden1=40, hidden2=25), 50),
}


def means(losses: list[float]) -> list[float]:
    """The smoothed curve of the whole list, written as the weighted mean that it is."""
    return [np.average(losses[: k + 1], weights=0.98 ** np.arange(k, -1, -1)) for k in range(len(losses))]


# -- by hand --------------------------------------------------------------------------------------


def test_rates() -> None:
    assert RATES[0] == 1e-8 and RATES[-1] == 1
    assert RATES[1:].tolist() == pytest.approx([1e-8 * 1e8 ** ((k + 1) / 100) for k in range(1, 100)], rel=1e-14)
    assert len(RATES) == 100 and np.log10(RATES[:4]).tolist() == pytest.approx([-8, -7.84, -7.76, -7.68])


def test_smoothing() -> None:
    assert smoothed([5.0]).tolist() == pytest.approx([5])
    assert smoothed([1.0, 3.0, 2.0]).tolist() == pytest.approx([1, 3.98 / 1.98, (0.9604 + 0.98 * 3 + 2) / 2.9404])
    losses = np.random.default_rng(0).uniform(1, 2, 100).tolist()
    assert smoothed(losses).tolist() == pytest.approx(means(losses), rel=1e-12)
    assert smoothed([]).tolist() == []


@pytest.mark.parametrize(("factor", "length"), [(1 - 1e-9, 100), (1 + 1e-9, 31)])
def test_the_test_stops_above_four_times_the_best(factor: float, length: int) -> None:
    weights = 0.98 ** np.arange(31)
    jump = (4 * weights.sum() - weights[1:].sum()) * factor  # after thirty ones it takes the mean to four
    curve = smoothed([1.0] * 30 + [jump] + [0.0] * 69)
    assert len(curve) == length and curve[30] == pytest.approx(4)


def test_the_first_step_is_never_the_best_and_the_second_never_the_last() -> None:
    assert len(smoothed([1e-3] + [1.0] * 99)) == 100, "1.0 is a thousand times the first loss"
    assert len(smoothed([1.0, 1e6] + [1e6] * 98)) == 100, "the second is the first best"
    assert len(smoothed([1.0, 1.0, 1e6] + [1e6] * 97)) == 3


def test_the_best_is_the_lowest_so_far() -> None:
    random = np.random.default_rng(1)
    lengths = []
    for _ in range(30):
        losses = np.exp(np.cumsum(random.normal(0, 1.5, 100))).tolist()
        curve = means(losses)
        stop = next((k for k in range(2, 100) if curve[k] > 4 * min(curve[1:k])), 99)
        assert smoothed(losses).tolist() == pytest.approx(curve[: stop + 1], rel=1e-12)
        lengths.append(stop)
    assert len(set(lengths)) > 10


def test_the_two_rules() -> None:
    # A small fall at step 20 and a large one at step 70, where a step's rates lie ten thousand times further apart.
    losses = [2.0] * 20 + [1.9] * 50 + [0.0] * 30
    assert suggestion(losses) == suggestion(losses, "per_step") == RATES[70]
    assert suggestion(losses, "per_rate") == RATES[20]


def test_the_first_ten_steps_and_the_last_are_not_looked_at() -> None:
    assert suggestion([9.0] * 5 + [1.0] * 95) == RATES[10], "the slope that is left of the fall at step 5"
    late, flat = [1.0] * 98 + [1.0, 0.0], [1.0] * 100
    assert suggestion(late) == suggestion(flat), "the last loss does not matter"
    assert suggestion([1.0] * 98 + [0.0, 0.0]) == RATES[98]


# -- curves that end, explode or never begin ------------------------------------------------------


@pytest.mark.parametrize("rule", ["per_step", "per_rate"])
def test_too_few_points(rule: str) -> None:
    for length in (0, 1, 10, 12):
        assert math.isnan(suggestion([1.0] * length, rule))
    assert suggestion(np.linspace(2, 1, 13), rule) in RATES[10:12], "11 and 12 are two points"
    assert math.isnan(suggestion([1.0] * 11 + [1e9] * 89, rule)), "it stops at the twelfth step"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", ["per_step", "per_rate"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_curve_that_explodes_is_judged_by_what_came_before(rule: str, bad: float) -> None:
    before = [2.0] * 30 + [1.0] * 30
    curve = smoothed(before + [bad] * 40)
    assert curve[:60].tolist() == pytest.approx(means(before)) and not curve[60] < 1e9
    assert len(curve) == (100 if math.isnan(bad) else 61), "NaN is not above anything"
    assert suggestion(before + [bad] * 40, rule) == RATES[30]
    # A record holds null for either, which is read as NaN.
    assert suggestion(before + [bad] + [math.nan] * 39, rule) == RATES[30]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", ["per_step", "per_rate"])
@pytest.mark.parametrize("losses", [[math.nan] * 100, [math.inf] * 100, [1.0] * 5 + [math.nan] * 95], ids=repr)
def test_nothing_is_found(rule: str, losses: list[float]) -> None:
    assert math.isnan(suggestion(losses, rule))


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="rule must be one of per_step, per_rate, not 'steepest'"):
        suggestion([1.0] * 100, "steepest")


# -- PyTorch Lightning's finder -------------------------------------------------------------------


def lightning() -> Any:
    """The Lightning that can be imported, under its present name or that of 2021."""
    try:
        return importlib.import_module("lightning.pytorch")
    except ImportError:
        return importlib.import_module("pytorch_lightning")


class Order(Sampler):
    """The order that the run's training has, epoch by epoch."""

    def __init__(self, run: Run, length: int) -> None:
        self.draw, self.length = generator("order", run.seed), length

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.length, generator=self.draw).tolist())

    def __len__(self) -> int:
        return self.length


def lightning_curve(run: Run, folder: str) -> dict[str, Any]:
    """What Lightning's finder with its defaults gives for a run's network, batches and seed, with torch's own Adam."""
    pl, content = lightning(), build_task(run.task)
    split = content.splits(loading.load(run.dataset), run.data_seed)["train"]
    torch.manual_seed(derived_seed("weights", run.seed))
    losses = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.learning_rate = build_model(run.model), 1e-3

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            loss = content.loss(self.network(batch[0]), batch[1])
            losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), self.learning_rate)

    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    with numerics():
        loader = DataLoader(TensorDataset(split.inputs, split.targets), run.batch_size, sampler=Order(run, len(split)))
        trainer = pl.Trainer(accelerator="cpu", max_epochs=-1, default_root_dir=folder, **off)
        finder = pl.tuner.tuning.Tuner(trainer).lr_find(Module(), train_dataloaders=loader)
    found = {"rates": finder.results["lr"], "losses": losses, "smoothed": finder.results["loss"]}
    return found | {"suggestion": finder.suggestion()}


def record() -> None:
    """Write the curves of RUNS by the Lightning that can be imported into the fixture, beside other versions'."""
    versions = {"lightning": lightning().__version__, "torch": torch.__version__}
    lines = [line for line in recorded() if line["lightning"] != versions["lightning"]]
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append({**versions, "case": name, "run": run.to_json(), **lightning_curve(run, folder)})
    lines.sort(key=lambda line: line["lightning"])
    FIXTURE.write_text("".join(json.dumps(line) + "\n" for line in lines))


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FIXTURE.read_text().splitlines()] if FIXTURE.exists() else []


def recorded_curve(version: str, name: str) -> dict[str, Any]:
    curve = next(line for line in recorded() if (line["lightning"], line["case"]) == (version, name))
    assert curve["run"] == RUNS[name].to_json()
    assert len(curve["rates"]) == len(curve["losses"]) == len(curve["smoothed"])
    return curve


def check_present_finder(curve: dict[str, Any]) -> None:
    """Everything in which Lightning from 2.5.3 on differs, computed from the losses that it saw itself."""
    rates = RATES[: len(curve["rates"])]
    assert curve["rates"] == pytest.approx(rates.tolist(), rel=1e-14), "the same rates, the second one included"
    # 1. Since 1.6 the finder's step counts the update that is just done: the divisor is 1 - 0.98^(k+2). So its curve
    # begins at about half the loss and rises where the losses do not.
    k = np.arange(len(rates))
    expected = means(curve["losses"]) * (1 - 0.98 ** (k + 1)) / (1 - 0.98 ** (k + 2))
    assert curve["smoothed"] == pytest.approx(expected.tolist(), rel=1e-12)
    # 2. For the same reason the first value, which is too low, counts as the best, and may end the test earlier. The
    # value that ends it is the last of the curve, as in 2021.
    above = [expected[step] > 4 * min(expected[:step]) for step in k[1:]]
    assert not any(above[:-1]) and (len(k) == 100 or above[-1])
    # 3. Since 2.5.3 the gradient is per rate (in float32).
    inner = slice(10, -1)
    gradient = torch.gradient(torch.tensor(curve["smoothed"][inner]), spacing=[torch.tensor(curve["rates"][inner])])[0]
    assert curve["suggestion"] == curve["rates"][10 + gradient.argmin().item()]


@pytest.fixture(scope="module")
def losses_of() -> Callable[[str], list[float]]:
    """The losses of our range test of a run; each is trained once."""
    known: dict[str, list[float]] = {}

    def get(name: str) -> list[float]:
        if name not in known:
            known[name] = train(RUNS[name]).metrics["range_test_losses"]
        return known[name]

    return get


@pytest.mark.parametrize("name", RUNS)
def test_rates_smoothing_stop_and_suggestion_are_those_of_2021(name: str) -> None:
    curve = recorded_curve(OF_2021, name)
    assert curve["rates"] == pytest.approx(RATES[: len(curve["rates"])].tolist(), rel=1e-14)
    assert smoothed(curve["losses"]).tolist() == pytest.approx(curve["smoothed"], rel=1e-14)
    assert len(curve["smoothed"]) == {"stops": 96}.get(name, 100)
    assert suggestion(curve["losses"]) == pytest.approx(curve["suggestion"], rel=1e-14)


@pytest.mark.parametrize("name", RUNS)
def test_in_what_the_present_finder_differs(name: str) -> None:
    curve = recorded_curve(PRESENT, name)
    check_present_finder(curve)
    assert len(curve["smoothed"]) == {"stops": 96, "stops today, not in 2021": 98}.get(name, 100)
    of_2021 = recorded_curve(OF_2021, name)
    assert curve["losses"] == pytest.approx(of_2021["losses"][: len(curve["losses"])], rel=1e-6), "the same training"


@pytest.mark.parametrize("name", RUNS)
def test_the_rule_per_rate_is_that_of_the_present_finder(name: str) -> None:
    curve = recorded_curve(PRESENT, name)
    assert smoothed(curve["losses"], "per_rate").tolist() == pytest.approx(curve["smoothed"], rel=1e-12)
    assert suggestion(curve["losses"], "per_rate") == pytest.approx(curve["suggestion"], rel=1e-12)
    assert suggestion(recorded_curve(OF_2021, name)["losses"], "per_rate") <= suggestion(curve["losses"])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("version", [OF_2021, PRESENT])
def test_our_training_gives_the_recorded_losses(losses_of: Callable, name: str, version: str) -> None:
    check_same_losses(losses_of(name), recorded_curve(version, name)["losses"])


@pytest.mark.parametrize("name", RUNS)
def test_our_range_test_finds_what_the_finder_of_2021_found(losses_of: Callable, name: str) -> None:
    curve = recorded_curve(OF_2021, name)
    assert len(losses_of(name)) == 100, "it goes on to the end, and the curve is cut"
    assert len(smoothed(losses_of(name))) == len(curve["smoothed"])
    assert smoothed(losses_of(name)).tolist() == pytest.approx(curve["smoothed"], rel=0.02)
    assert suggestion(losses_of(name)) == pytest.approx(curve["suggestion"])


def check_same_losses(ours: list[float], theirs: list[float]) -> None:
    """Float32 on another machine rounds in another way, and rates near 1 make much of it.

    Measured on one machine: 1e-7 in the first 60 steps (rates up to 7e-4), 1e-4 to the end; with initial weights that
    differ by a millionth 5e-6 and, in the smoothed curve, 5e-3.
    """
    assert ours[:60] == pytest.approx(theirs[:60], rel=1e-4)
    assert means(ours[: len(theirs)]) == pytest.approx(means(theirs), rel=0.02)


def test_the_finder_that_is_installed(losses_of: Callable, tmp_path: Path) -> None:
    pytest.importorskip("lightning", minversion="2.5.3")
    curve = lightning_curve(RUNS["goes to the end"], str(tmp_path))
    check_present_finder(curve)
    check_same_losses(losses_of("goes to the end"), curve["losses"])
    assert suggestion(losses_of("goes to the end")) == suggestion(curve["losses"])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    record()
