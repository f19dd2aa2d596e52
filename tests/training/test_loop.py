"""What the training loop computes, beside the same written plainly."""

import copy
import dataclasses
import math

import pytest
import torch
from short_trainings import DIGITS, LeastSquares, line, make_run, numbers, one_epoch, outcome
from torch import Tensor, nn
from torch.optim import Adam

from deepnets_utils.data import loading
from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import Split, build_task, task
from deepnets_utils.data.tasks.digit_pairs import DigitPairs
from deepnets_utils.models import build_model, model
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.machine import numerics
from deepnets_utils.training.optimizers import make_optimizer
from deepnets_utils.training.train import train, train_group


def textbook(run: Run, network: nn.Module, split: Split) -> list[float]:
    """The loss of each step, from the shortest loop that does what the Run says (digit pairs, Adam)."""
    optimizer = Adam(network.parameters(), lr=run.learning_rate, weight_decay=run.weight_decay, foreach=False)
    draw, cross_entropy, losses = generator("order", run.seed), nn.CrossEntropyLoss(), []
    for _ in range(run.epochs):
        for batch in torch.randperm(len(split), generator=draw).split(run.batch_size):
            outputs, targets = network(split.inputs[batch]), split.targets[batch]
            loss = cross_entropy(outputs.comparison, targets[:, 0])
            loss = loss + sum(cross_entropy(outputs.digits[:, digit], targets[:, 1 + digit]) for digit in (0, 1))
            loss = loss + run.l1 * sum(parameter.abs().sum() for parameter in network.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["Net", "LeNet5", "LeNet5_FullyConv", "ResNet"])
def test_an_epoch_is_the_textbook_one(name: str) -> None:
    run = make_run(name, options={}, weight_decay=1e-3, l1=1e-4, epochs=2, batch_size=25, learning_rate=1e-3)
    split = build_task(run.task).splits(loading.load(DIGITS), run.data_seed)["train"]
    plain = build_model(run.model)
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    optimizer, draw = make_optimizer(run, fast, [run.learning_rate]), generator("order", run.seed)
    with numerics():
        losses = [
            one_epoch(run, build_task(run.task), fast, optimizer, split, torch.randperm(60, generator=draw))
            for _ in range(run.epochs)
        ]
    assert torch.cat(losses).tolist() == pytest.approx(textbook(run, plain, split), rel=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_run_is_the_textbook_one() -> None:
    run = make_run(options={"batch_norm": False}, weight_decay=1e-3, l1=1e-4, epochs=3, batch_size=25)
    result = train(run)
    splits = build_task(run.task).splits(loading.load(DIGITS), run.data_seed)
    torch.manual_seed(derived_seed("weights", run.seed))
    network = build_model(run.model)
    losses = torch.tensor(textbook(run, network, splits["train"])).view(3, 3).mean(1)
    assert result.history["train_loss"] == pytest.approx(losses.tolist(), rel=1e-9)
    with torch.no_grad():
        wrong = network.eval()(splits["test"].inputs).comparison.argmax(1) != splits["test"].targets[:, 0]
    assert result.metrics["test_error"] == pytest.approx(100 * wrong.double().mean().item())


@pytest.mark.usefixtures("float64")
def test_one_step_of_sgd_with_both_penalties() -> None:
    run = make_run(optimizer="sgd", learning_rate=0.1, weight_decay=0.3, l1=0.2, batch_size=10)
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.bias.fill_(-1.0)
    split = line()
    losses = one_epoch(
        run, LeastSquares(), network, make_optimizer(run, network, [run.learning_rate]), split, torch.arange(10)
    )
    x, y = split.inputs[:, 0], split.targets
    error = 2 * x - 1 - y
    assert losses.tolist() == pytest.approx([(error.square().mean() + 0.2 * (2 + 1)).item()], rel=1e-12)
    weight = 2 - 0.1 * (2 * (error * x).mean().item() + 0.3 * 2 + 0.2)
    bias = -1 - 0.1 * (2 * error.mean().item() + 0.3 * -1 - 0.2)
    assert network.weight.item() == pytest.approx(weight, rel=1e-12)
    assert network.bias.item() == pytest.approx(bias, rel=1e-12)


def test_an_epoch_sees_every_example_once_and_the_rest_in_a_smaller_batch() -> None:
    run, seen = make_run(batch_size=4), LeastSquares()
    network = nn.Linear(1, 1)
    losses = one_epoch(
        run, seen, network, make_optimizer(run, network, [run.learning_rate]), line(), torch.arange(9, -1, -1)
    )
    assert [len(batch) for batch in seen.batches] == [4, 4, 2] and losses.shape == (3,)
    assert torch.cat(seen.batches).tolist() == list(range(9, -1, -1))


def batches_per_epoch(linear_model: str, shuffle: str) -> list[list[float]]:
    run = make_run(linear_model, options={}, shuffle=shuffle, epochs=3, batch_size=4)
    seen = LeastSquares()
    outcome(run, seen, {"train": line(), "test": line()})
    order = torch.cat(seen.batches).tolist()
    return [order[start : start + 10] for start in (0, 10, 20)]


def test_shuffled_once_or_every_epoch(linear_model: str) -> None:
    once, every = batches_per_epoch(linear_model, "once"), batches_per_epoch(linear_model, "every_epoch")
    assert once[0] == once[1] == once[2]
    assert every[0] == once[0], "runs that differ in the shuffle alone start with the same batches"
    assert len({tuple(epoch) for epoch in every}) == 3
    assert all(sorted(epoch) == list(range(10)) for epoch in every)


@pytest.mark.parametrize("step", [0, 2, 3, 7])
def test_a_loss_that_is_not_finite_ends_the_run(linear_model: str, step: int) -> None:
    run = make_run(linear_model, options={}, epochs=5, batch_size=4)
    ended = outcome(run, LeastSquares(step), {"train": line(), "test": line()})
    assert ended["status"] == "diverged" and ended["diverged_at_step"] == step
    assert len(ended["history"].get("train_loss", [])) == step // 3, "whole epochs before it"


def test_a_learning_rate_that_is_far_too_high(store: Store) -> None:
    run = make_run("Net", options={}, learning_rate=1e30)
    result = train(run)
    assert (result.status, result.diverged_at_step) == ("diverged", 1), "the first loss is that of the initial weights"
    store.put(result)
    assert numbers(store.get(run)) == numbers(result)


@pytest.mark.parametrize("together", [False, True])
def test_a_network_that_its_last_step_broke_has_diverged(together: bool) -> None:
    run = make_run("Net", options={}, learning_rate=1e30, epochs=1, batch_size=60)  # one step in all
    result = train_group([run, dataclasses.replace(run, learning_rate=1e-3)])[0] if together else train(run)
    assert (result.status, result.diverged_at_step, result.metrics, result.history) == ("diverged", 1, {}, {})


def test_a_network_that_gives_no_numbers_after_an_epoch_has_diverged(linear_model: str) -> None:
    class Breaks(LeastSquares):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            self.seen = getattr(self, "seen", 0) + 1
            return super().metrics(outputs * (math.nan if self.seen == 3 else 1), targets)

    run = make_run(linear_model, options={}, learning_rate=1e-3, epochs=5, batch_size=4)
    ended = outcome(run, Breaks(), {"train": line(), "validation": line(), "test": line()})
    assert (ended["status"], ended["diverged_at_step"], ended["metrics"]) == ("diverged", 9, {})
    assert {name: len(values) for name, values in ended["history"].items()} == {"train_loss": 2, "validation_mse": 2}


def test_a_range_test_sees_the_augmented_batches_of_the_training() -> None:
    run = Run(
        dataset="digits_32",
        task=task("image_classes", train_size=300, validation_size=0, test_size=10),
        model=model("notation", layers="4c-mp-10fc"),
        augmentation=augmentation("flip_crop"),
        learning_rate="range_test",
        epochs=1,
        batch_size=2,
    )
    split = build_task(run.task).splits(loading.load(run.dataset), run.data_seed)["train"]
    order = torch.randperm(len(split), generator=generator("order", run.seed))
    (first, _), (tested, _) = (next(Batches([run]).training(split, [part], 0)) for part in (order, order[:200]))
    assert torch.equal(first, tested)


def test_a_diverged_run_leaves_no_checkpoint_in_the_store(store: Store) -> None:
    run = make_run("Net", options={}, learning_rate=1e30)
    store.put(train(run, checkpoint=store.checkpoint(run), checkpoint_seconds=0))
    assert not store.checkpoint(run).exists()


def test_on_epoch_sees_the_history_grow() -> None:
    seen = []
    result = train(make_run(), on_epoch=lambda epoch, history: seen.append((epoch, list(history["train_loss"]))))
    losses = result.history["train_loss"]
    assert seen == [(epoch, losses[:epoch]) for epoch in (1, 2, 3, 4)]


def test_batch_norm_in_evaluation_mode_and_in_training_mode() -> None:
    results = [train(make_run("Net", options={}, evaluation_mode=mode)) for mode in ("eval", "train")]
    assert results[0].history == results[1].history, "the mode is one of testing"
    assert results[0].metrics != results[1].metrics


@pytest.mark.usefixtures("float64")
def test_training_mode_tests_in_batches_with_their_own_statistics() -> None:
    run = make_run("Net", options={}, evaluation_mode="train", task=task("digit_pairs", train_size=60, test_size=40))
    splits = build_task(run.task).splits(loading.load(DIGITS), 0)
    networks = []

    class Recorded(DigitPairs):
        def metrics(self, outputs, targets):
            networks.append(outputs.comparison)
            return super().metrics(outputs, targets)

    recorded = Recorded(train_size=60, test_size=40)
    outcome(run, recorded, splits)
    reordered = Split(splits["test"].inputs.flip(0), splits["test"].targets.flip(0))
    outcome(run, recorded, splits | {"test": reordered})
    same_batches = networks[1].flip(0)
    torch.testing.assert_close(networks[0], same_batches)
    shifted = Split(splits["test"].inputs.roll(7, 0), splits["test"].targets.roll(7, 0))
    outcome(run, recorded, splits | {"test": shifted})
    assert not torch.allclose(networks[0], networks[2].roll(-7, 0), rtol=1e-3, atol=1e-3)


def test_raw_test_inputs_change_the_test_alone() -> None:
    spec = {"auxiliary": 1.0, "train_size": 60, "test_size": 50}
    results = [train(make_run(task=task("digit_pairs", test_inputs=kind, **spec))) for kind in ("standardised", "raw")]
    assert results[0].history == results[1].history
    assert results[0].metrics["test_digit_error"] != results[1].metrics["test_digit_error"]
