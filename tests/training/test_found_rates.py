"""Learning rates that a range test finds within a training."""

import copy
import dataclasses
import math

import pytest
import torch
from short_trainings import DIGITS, LeastSquares, line, make_run, numbers, one_epoch, outcome, statistics_run, together

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import build_task
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import Store
from deepnets_utils.training.loop import range_test
from deepnets_utils.training.machine import numerics
from deepnets_utils.training.optimizers import make_optimizer
from deepnets_utils.training.range_test import suggestion, tested_rates
from deepnets_utils.training.train import make_network, train

RATES = tested_rates().tolist()


@pytest.mark.parametrize(
    ("run", "rule"),
    [
        (make_run(epochs=2), "range_test"),  # batch norm and dropout
        (statistics_run(epochs=2), "range_test"),
        (statistics_run(epochs=2, optimizer="sgd"), "range_test_per_rate"),
        (statistics_run(epochs=2, shuffle="once", weight_decay=0.1), "range_test_per_rate"),
    ],
    ids=["LeNet5", "adam", "sgd", "once"],
)
def test_a_range_test_leaves_no_trace(run: Run, rule: str) -> None:
    found = train(dataclasses.replace(run, learning_rate=rule))
    given = train(dataclasses.replace(run, learning_rate=found.metrics["learning_rate"]))
    assert found.metrics.keys() - given.metrics.keys() == {"learning_rate", "range_test_losses"}
    one, other = (
        canonical([result.status, result.history, {key: result.metrics[key] for key in given.metrics}])
        for result in (found, given)
    )
    assert one == other, "to the bit"


def test_a_range_test_changes_neither_weights_nor_generators() -> None:
    run, content = make_run(), build_task(make_run().task)
    with numerics():
        network, split = make_network(run, torch.device("cpu")), content.splits(loading.load(DIGITS), 0)["train"]
        before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
        [losses] = range_test(together(run, content, network), split)
        after = network.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items()), "running statistics included"
        assert torch.equal(torch.get_rng_state(), state)
        order = torch.randperm(len(split), generator=generator("order", run.seed))
        trained = one_epoch(run, content, network, make_optimizer(run, network, [1e-8]), split, order)
    assert losses[:2] == trained[:2].tolist(), "batch norm and dropout were those of the training"


@pytest.mark.usefixtures("float64")
def test_a_range_test_of_sgd_by_hand(linear_model: str) -> None:
    run = make_run(linear_model, options={}, optimizer="sgd", learning_rate="range_test", epochs=1, batch_size=10)
    with numerics():
        layer = make_network(run, torch.device("cpu"))
    weight, bias, losses = layer.weight.item(), layer.bias.item(), []
    x, y = line().inputs[:, 0].numpy(), line().targets.numpy()
    for rate in RATES:
        error = weight * x + bias - y
        losses.append((error**2).mean())
        weight, bias = weight - rate * 2 * (error * x).mean(), bias - rate * 2 * error.mean()
    metrics = outcome(run, LeastSquares(), {"train": line(), "test": line()})["metrics"]
    assert metrics["range_test_losses"] == pytest.approx(losses, rel=1e-9)
    assert metrics["learning_rate"] == suggestion(losses)


@pytest.mark.parametrize(("images", "per_epoch"), [(10, 3), (400, 100), (450, 113)])
def test_a_range_test_has_the_batches_of_the_training_and_goes_on_where_they_end(
    linear_model: str, images: int, per_epoch: int
) -> None:
    run = make_run(linear_model, options={}, learning_rate="range_test", epochs=1, batch_size=4)
    seen = LeastSquares()
    outcome(run, seen, {"train": line(images), "test": line()})
    tested, trained = seen.batches[:100], seen.batches[100:]
    draw, expected = generator("order", run.seed), []
    while len(expected) < 100:
        expected += torch.randperm(images, generator=draw).float().split(4)
    assert all(torch.equal(one, other) for one, other in zip(tested, expected[:100], strict=True))
    same = min(100, per_epoch)
    assert len(trained) == per_epoch
    assert all(torch.equal(one, other) for one, other in zip(tested[:same], trained[:same], strict=True))


def test_a_range_test_that_finds_nothing_is_a_diverged_run(linear_model: str, store: Store) -> None:
    run = make_run(linear_model, options={}, learning_rate="range_test", epochs=5, batch_size=4)
    seen = LeastSquares(break_at=11)  # two finite points are too few, and the first ten are left out
    ended = outcome(run, seen, {"train": line(), "test": line()})
    assert (ended["status"], ended["diverged_at_step"], ended["history"]) == ("diverged", 0, {})
    assert math.isnan(ended["metrics"]["learning_rate"]) and len(seen.batches) == 100, "nothing was trained"
    whole = train(statistics_run(learning_rate="range_test", l1=1e300))
    assert (whole.status, whole.diverged_at_step) == ("diverged", 0) and math.isnan(whole.metrics["learning_rate"])
    store.put(whole)
    assert numbers(store.get(whole.run)) == numbers(whole)


def test_a_range_test_that_breaks_off_late_still_finds(linear_model: str) -> None:
    run = make_run(linear_model, options={}, learning_rate="range_test", epochs=5, batch_size=4)
    ended = outcome(run, LeastSquares(break_at=60), {"train": line(), "test": line()})
    assert ended["status"] == "finished" and math.isfinite(ended["metrics"]["test_mse"])
    losses = ended["metrics"]["range_test_losses"]
    assert [math.isnan(loss) for loss in losses] == [False] * 60 + [True] * 40
    assert RATES[10] <= ended["metrics"]["learning_rate"] == suggestion(losses) < RATES[60]


def test_a_diverged_run_keeps_the_rate_that_was_found(linear_model: str) -> None:
    run = make_run(linear_model, options={}, learning_rate="range_test", epochs=5, batch_size=4)
    splits = {"train": line(), "test": line()}
    good, bad = outcome(run, LeastSquares(), splits), outcome(run, LeastSquares(break_at=104), splits)
    assert (bad["status"], bad["diverged_at_step"]) == ("diverged", 4), "counted from the training's first step"
    results = [Result.from_json(Result(run=run, **ended).to_json()) for ended in (good, bad)]
    rate = good["metrics"]["learning_rate"]
    assert [result.metrics["learning_rate"] for result in results] == [rate, rate]
    assert math.isfinite(results[0].metrics["test_mse"]) and "test_mse" not in results[1].metrics
