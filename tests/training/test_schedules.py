"""Schedules on recorded curves, and runs with a schedule that go on after an interruption."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.tasks import task
from deepnets_utils.models import MODELS, model, register_model
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.training.schedules import build_schedule, schedule
from deepnets_utils.training.train import train

# A test error in percent after each epoch: it falls, stalls, falls by less and by more than 0.01 %, and stalls again.
CURVE = [72.1, 61.4, 55.0, 55.2, 54.9, 56.3, 54.8999, 54.95, 54.8, 41.2, 41.2, 40.0, 40.9, 41.0, 40.3, 40.1, 40.0]
CURVE += [39.9961, 39.9959, 44.0, 43.0, 42.0, 41.0, 40.5, 39.0, 39.5, 39.4, 39.3, 39.2, 39.1]


def sgd(learning_rate: float) -> SGD:
    return SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)


def rates(spec: Spec, learning_rate: float, curve: list[float], on: str = "validation_error") -> list[float]:
    """The learning rate of each epoch of a run with this curve, and of one epoch more."""
    chosen = build_schedule(spec)
    histories = [{"train_error": [0.0] * epoch, on: curve[:epoch]} for epoch in range(len(curve) + 1)]
    return [chosen.rate(learning_rate, epoch, history) for epoch, history in enumerate(histories)]


def by_the_rule(learning_rate: float, factor: float, patience: int, curve: list[float]) -> list[float]:
    """The rates by the rule alone: lower it after more than `patience` epochs without a fall, by 1e-8 at least."""
    best, waited, seen = float("inf"), 0, [learning_rate]
    for error in curve:
        best, waited = (error, 0) if error < best * (1 - 1e-4) else (best, waited + 1)
        if waited > patience:
            waited = 0
            if learning_rate - learning_rate * factor > 1e-8:
                learning_rate *= factor
        seen.append(learning_rate)
    return seen


@pytest.mark.parametrize("patience", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_plateau_on_a_recorded_curve(patience: int, factor: float) -> None:
    optimizer = sgd(0.1)
    reference, expected = ReduceLROnPlateau(optimizer, factor=factor, patience=patience), [0.1]
    for error in CURVE:
        reference.step(error)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = rates(schedule("plateau", factor=factor, patience=patience), 0.1, CURVE)
    assert ours == expected
    assert ours == pytest.approx(by_the_rule(0.1, factor, patience, CURVE), rel=1e-12)
    assert len(set(ours)) > 1


def test_plateau_waits_for_as_many_epochs_as_its_patience_and_one_more() -> None:
    curve = [50.0, 49.0, 49.0, 49.0, 49.0, 49.0, 48.0]
    assert rates(schedule("plateau", patience=1), 1.0, curve) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates(schedule("plateau", patience=5), 1.0, curve) == [1.0] * 8


def test_plateau_looks_at_the_number_that_it_is_told() -> None:
    stalled = {"validation_error": [9.0, 8.0, 7.0], "test_error": [5.0, 5.0, 5.0]}
    for on, expected in (("validation_error", 0.1), ("test_error", 0.001)):
        chosen = build_schedule(schedule("plateau", patience=0, on=on))
        assert chosen.rate(0.1, 3, stalled) == pytest.approx(expected)


def test_patience_0_comes_to_rest_at_1e_8() -> None:
    """Source: googlenet, Section 2.2.1: patience 0, from 0.01, has 1.0e-8 at the best test error."""
    seen = rates(schedule("plateau", patience=0), 0.01, [14.05] * 26)
    assert seen[:9] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-8], rel=1e-9)
    assert set(seen[7:]) == {seen[7]}, "a step to 1e-9 would change the rate by less than 1e-8"


def test_steps_of_4_percent() -> None:
    optimizer = sgd(0.1)
    reference, expected = StepLR(optimizer, 8, 0.96), [0.1]
    for _ in CURVE:
        optimizer.step()
        reference.step()
        expected.append(optimizer.param_groups[0]["lr"])
    ours = rates(schedule("steps"), 0.1, CURVE)
    assert ours == expected
    assert ours == pytest.approx([0.1 * 0.96 ** (epoch // 8) for epoch in range(len(CURVE) + 1)], rel=1e-12)
    assert rates(schedule("steps", factor=0.5, every=1), 1.0, CURVE[:3]) == [1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("plateau", {"factor": 1.0}, "'factor' .* must be a finite number above 0 to below 1, not 1.0"),
        ("plateau", {"patience": -1}, "'patience' .* must be an integer from 0, not -1"),
        ("plateau", {"patient": 1}, "its options are: factor, patience, on"),
        ("steps", {"every": 0}, "'every' .* must be an integer from 1, not 0"),
        ("no_such", {}, "no schedule is called 'no_such'; there are: .*plateau, steps"),
    ],
)
def test_impossible_schedules(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(name, **options)


# -- in a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """A network of the tests' own, small and with dropout."""

    @register_model(name="TinyForSchedules")
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10))

    yield
    for known in (MODELS._factories, MODELS._versions):
        known.pop("TinyForSchedules")


def make_run(changed: Spec, augmented: str = "flip_crop", **fields: object) -> Run:
    """Seven epochs of 300 digits in batches of 64, the last one smaller."""
    defaults = {
        "task": task("image_classes", train_size=300, validation_size=200, test_size=100),
        "augmentation": augmentation(augmented),
        "keep_best": True,
        "seed": 1,
    }
    recipe = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": 7, "batch_size": 64}
    return Run(dataset="digits_28", model=model("TinyForSchedules"), schedule=changed, **recipe | defaults | fields)


def outcome(result: Result) -> tuple:
    return result.status, result.metrics, result.history


# Rates that soon are too small to change a prediction: then the best weights are those of an early epoch, and an
# error that does not move makes the plateau's rate fall.
@pytest.mark.usefixtures("float64")  # when the rate changes is the same on any CPU
@pytest.mark.parametrize("augmented", ["flip_crop", "flip_rotate_crop_jitter"])
@pytest.mark.parametrize(
    ("changed", "learning_rate"),
    [
        (schedule("plateau", factor=0.5, patience=0, on="test_error"), 1e-5),
        (schedule("steps", every=2, factor=1e-3), 0.1),
    ],
    ids=["plateau", "steps"],
)
def test_an_interrupted_run_goes_on_to_the_bit(
    tmp_path: Path, changed: Spec, learning_rate: float, augmented: str
) -> None:
    run, file = make_run(changed, augmented, learning_rate=learning_rate, watch_test=True), tmp_path / "checkpoint.pt"
    undisturbed = train(run)
    used = undisturbed.history["learning_rate"]
    assert len(set(used[:5])) > 1 and len(set(used[5:])) > 1, "the rate changes before and after the interruption"
    assert undisturbed.metrics["selected_epoch"] <= 4, "the best weights are in the checkpoint"

    for interrupted in (2, 6):

        def stop(epoch: int, history: dict, last: int = interrupted) -> None:
            if epoch == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(run, checkpoint=file, checkpoint_seconds=0, on_epoch=stop)
    epochs: list[int] = []
    resumed = train(run, checkpoint=file, on_epoch=lambda epoch, history: epochs.append(epoch))
    assert epochs == [6, 7]
    assert outcome(resumed) == outcome(undisturbed)


def test_the_history_holds_each_epochs_rate() -> None:
    history = train(make_run(schedule("steps", every=2, factor=0.5), epochs=5)).history
    assert history["learning_rate"] == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_a_number_that_the_run_does_not_record() -> None:
    run = make_run(schedule("plateau", on="test_error"), epochs=1)
    with pytest.raises(ValueError, match="looks at test_error, and of each epoch .*'validation_error'"):
        train(run)
    with pytest.raises(ValueError, match="'on' .* must be one of 'validation_error', .*, not 'train_error'"):
        schedule("plateau", on="train_error")
