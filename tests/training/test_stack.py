"""Runs that train as one network: each comes out as the run alone would."""

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepnets_utils.data import loading
from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.tasks import Split, build_task, task
from deepnets_utils.models import MODELS, build_model, model, register_model
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import workers
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training import grouping, signals
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress
from deepnets_utils.training.grouping import group_key, group_size
from deepnets_utils.training.loop import Training, evaluate, range_test, train_epoch
from deepnets_utils.training.machine import numerics
from deepnets_utils.training.optimizers import make_optimizer
from deepnets_utils.training.range_test import suggestion
from deepnets_utils.training.schedules import schedule
from deepnets_utils.training.stack import Rows, Stack, load_states, side_by_side, states
from deepnets_utils.training.train import make_network, train, train_group

STEPS, FEW, LARGE = 50, 5, ("VGG19", "GoogLeNet", "ResNet18")
CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
STATISTICS = ("mean", "median", "std")


def statistic(name: str = "mean") -> Spec:
    return task("pixel_statistic", statistic=name, train_size=70, validation_size=50)


def pairs(auxiliary: float = 1.0, size: int = 30) -> Spec:
    return task("digit_pairs", auxiliary=auxiliary, train_size=size, test_size=20)


def classes(size: int = 20, **options: Any) -> Spec:
    return task("image_classes", **{"train_size": size, "validation_size": 10, "test_size": 10} | options)


def make_run(name: str = "MLPRegressor", options: dict | None = None, **fields: Any) -> Run:
    defaults = {"dataset": "digits_28", "task": statistic(), "learning_rate": 1e-3, "epochs": 2, "batch_size": 16}
    return Run(model=model(name, **options or {}), **defaults | fields)


def siamese(name: str, auxiliary: float = 1.0, batch_size: int = 8, **options: Any) -> dict[str, Any]:
    return {"name": name, "options": options, "task": pairs(auxiliary), "batch_size": batch_size}


def pictures(name: str, learning_rate: float = 1e-4, **options: Any) -> dict[str, Any]:
    aux = {"auxiliary": 0.3} if name == "GoogLeNet" else {}
    common = {"dataset": "digits_32", "task": classes(10, **aux), "batch_size": 5, "learning_rate": learning_rate}
    return {"name": name, "options": options} | common


penalties = {"weight_decay": 1e-3, "l1": 1e-4}
momentum = {"optimizer": "sgd", "momentum": 0.9}
BINARY = {"task": classes(6, classes="3,5"), "batch_size": 3}
MODELS_AND_RECIPES = {
    "MLP": {"name": "MLPRegressor", **penalties},
    "conv": {"name": "ConvRegressor"},
    "conv, SGD": {"name": "ConvRegressor", **momentum, "learning_rate": 1e-3, **penalties},
    "conv + 2": {"name": "ConvRegressor", "options": {"extra_layers": 2}, "shuffle": "once"},
    "Net, sharing": {**siamese("Net"), "evaluation_mode": "train"},
    "Net": {**siamese("Net", 0.0, sharing=False, head_batch_norm=True), "learning_rate": 1e-4},
    "LeNet5, sharing": siamese("LeNet5"),
    "LeNet5": {**siamese("LeNet5", 0.5, sharing=False, batch_norm=False), "weight_decay": 1e-3},
    "FullyConv, sharing": {**siamese("LeNet5_FullyConv", 1.0, 15), "learning_rate": 2e-5},
    "FullyConv": {**siamese("LeNet5_FullyConv", 0.0, 15, sharing=False), "learning_rate": 2e-5},
    "ResNet, sharing": {**siamese("ResNet", 1.0, 2), "learning_rate": 1e-4},
    "ResNet": {**siamese("ResNet", 0.0, 2, sharing=False), "evaluation_mode": "train"},
    "plain notation": pictures("notation", layers="4c2-mp-6c-mp-8fc2-10fc", dropout="mp1:0.2,fc2:0.4"),
    "residual notation": pictures("notation", layers="4c2-6c4-10fc", residual=True),
    "shallow": {**pictures("ShallowNet"), **BINARY, "optimizer": "rmsprop"},
    "VGG-11": {**pictures("NarrowVGG", initialisation="he"), **BINARY, "optimizer": "rmsprop"},
    "VGG-13, batch norm": {**pictures("NarrowVGG", depth=13, variant="batch_norm"), **BINARY},
    "VGG-11, residual": {**pictures("NarrowVGG", variant="residual"), **BINARY, **momentum},
    "VGG19": {**pictures("VGG19", width=0.02), **momentum},
    "GoogLeNet": {**pictures("GoogLeNet", 1e-5, residual="projection", kernel=5), **momentum},
    "ResNet18": {**pictures("ResNet18", 1e-5), **momentum},
}


@pytest.fixture
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas draw their dropout together, so their masks are not those of the runs alone."""
    monkeypatch.setattr(nn.functional, "dropout", lambda x, *_, **__: x)


def runs_of(fields: dict[str, Any]) -> list[Run]:
    """Runs with other seeds and learning rates and, where there are any, other statistics."""
    rate = fields.get("learning_rate", 1e-3)
    kinds = [{}] * 2 if "task" in fields else [{"task": statistic(name)} for name in STATISTICS]
    return [make_run(**fields | kind | {"learning_rate": rate * (k + 1), "seed": k}) for k, kind in enumerate(kinds)]


def splits_of(run: Run) -> dict[str, Split]:
    return build_task(run.task).splits(loading.load(run.dataset), run.data_seed)


def alone(run: Run, device: torch.device = CPU) -> Training:
    network = make_network(run, device)
    return Training([run], build_task(run.task), network, Batches([run]), [Progress.start(run.seed)])


def stack(runs: list[Run], device: torch.device = CPU) -> Training:
    network, progress = Stack([make_network(run, device) for run in runs]), [Progress.start(run.seed) for run in runs]
    return Training(runs, build_task(runs[0].task), network, Batches(runs, stacked=True), progress)


def fifty_steps(training: Training, split: Split) -> Tensor:
    """The losses of as many epochs as 50 steps need, 5 of the large networks, which take a minute for 50."""
    optimizer = make_optimizer(training.run, training.network, [run.learning_rate for run in training.runs])
    losses, wanted = [], FEW if training.run.model.name in LARGE else STEPS
    for _ in range(math.ceil(wanted / math.ceil(len(split) / training.run.batch_size))):
        for own in training.progress:
            if training.run.shuffle == "every_epoch" or own.order is None:
                own.order = torch.randperm(len(split), generator=own.generator)
        losses.append(train_epoch(training, optimizer, split))
        for own in training.progress:
            own.epoch += 1
    return torch.cat(losses, 1)


@pytest.mark.usefixtures("float64", "no_dropout")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", MODELS_AND_RECIPES)
def test_a_replica_is_the_run_alone_for_fifty_steps(case: str, device: str) -> None:
    runs, place = runs_of(MODELS_AND_RECIPES[case]), torch.device(device)
    with numerics():
        together, splits = stack(runs, place), [splits_of(run) for run in runs]
        losses = fifty_steps(together, side_by_side([own["train"] for own in splits], place))
        metrics = evaluate(together, side_by_side([own["test"] for own in splits], place), "test")
        assert losses.shape[1] >= (FEW if runs[0].model.name in LARGE else STEPS) and losses.dtype == torch.float64
        replicas = states(together.network)
        for number, (run, own) in enumerate(zip(runs, splits, strict=True)):
            single = alone(run, place)
            expected = fifty_steps(single, own["train"].to(place))[0]
            assert losses[number].tolist() == pytest.approx(expected.tolist(), rel=1e-10, abs=1e-12)
            alike(metrics[number], evaluate(single, own["test"].to(place), "test")[0])
            vector = torch.cat([weight.flatten() for weight in single.network.parameters()])
            torch.testing.assert_close(replicas[number]["weights"], vector, rtol=1e-6, atol=1e-8)
            for name, buffer in single.network.named_buffers():
                torch.testing.assert_close(replicas[number][name.replace(".", ":")], buffer, rtol=1e-6, atol=1e-8)


def alike(numbers: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Fail where numbers, or lists of them, are further apart than rounding in float64."""
    assert numbers.keys() == wanted.keys()
    for name, value in wanted.items():
        flat, own = (torch.tensor(part, dtype=torch.float64).flatten().tolist() for part in (value, numbers[name]))
        assert own == pytest.approx(flat, rel=1e-8, abs=1e-12, nan_ok=True), name


def close(result: Result, expected: Result) -> None:
    """Fail where a replica and its run alone, both in float64, differ by more than rounding."""
    assert (result.run, result.status, result.diverged_at_step) == (
        expected.run, expected.status, expected.diverged_at_step,
    )  # fmt: skip
    alike(result.metrics, expected.metrics)
    alike(result.history, expected.history)


TEN = {"name": "notation", "options": {"layers": "4c-mp-10fc"}, "dataset": "digits_32", "task": classes(40)}
OPTIONS = {
    "every option": {
        "keep_best": True,
        "watch_test": True,
        "gradient_steps": 5,
        "augmentation": augmentation("flip_crop"),
        **momentum,
        "learning_rate": 0.01,
    },
    "plateau": {"schedule": schedule("plateau", factor=0.5, patience=0), "epochs": 5, "optimizer": "sgd"},
    "steps": {"schedule": schedule("steps", factor=0.5, every=1), "epochs": 3},
    "grid": {"augmentation": augmentation("flip_rotate_crop_jitter"), "optimizer": "rmsprop"},
    "range test": {"learning_rate": "range_test", "augmentation": augmentation("flip_crop")},
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", OPTIONS)
def test_a_group_with_this_option_gives_what_its_runs_give_alone(case: str, device: str) -> None:
    fields, rate = TEN | OPTIONS[case], OPTIONS[case].get("learning_rate", 1e-3)
    rates = [rate] * 3 if isinstance(rate, str) else [rate * k for k in (1, 2, 4)]
    runs = [make_run(**fields | {"learning_rate": of, "seed": k, "data_seed": k % 2}) for k, of in enumerate(rates)]
    for result, run in zip(train_group(runs, device=device), runs, strict=True):
        close(result, train(run, device=device))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shuffle", ["every_epoch", "once"])
def test_a_group_gives_what_its_runs_give_alone_in_their_order(shuffle: str, device: str) -> None:
    seeds = enumerate((4, 2, 9, 2))
    runs = [make_run(task=statistic(STATISTICS[k % 3]), seed=seed, shuffle=shuffle) for k, seed in seeds]
    runs.append(make_run(data_seed=1, learning_rate=3e-3, shuffle=shuffle))
    results = train_group(runs, device=device)
    for result, run in zip(results, runs, strict=True):
        close(result, train(run, device=device))
        assert result.provenance["path"] == "replicas" and result.provenance["replicas"] == 5
        assert result.provenance["wall_seconds"] > 0 and result.provenance["data_fingerprint"] == CANONICAL["digits_28"]
    assert len({result.metrics["test_mse"] for result in results}) == 5


@pytest.mark.usefixtures("float64")
def test_students_learn_from_one_pass_of_their_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_run(**TEN | {"seed": 7})
    train(teacher, weights=tmp_path / "teacher.pt")
    taught = TEN | {"task": classes(40, distillation="kl"), "teacher": teacher, "keep_best": True}
    students = [make_run(**taught | {"seed": seed, "augmentation": augmentation("flip_crop")}) for seed in range(3)]
    passes, whole = [], Batches._taught
    monkeypatch.setattr(Batches, "_taught", lambda self, x, y: passes.append(len(x)) or whole(self, x, y))
    results = train_group(students, teacher=tmp_path / "teacher.pt")
    assert passes == [10, 10, *[48, 48, 24] * 2], "validation and test once, then each batch of all students"
    for result, student in zip(results, students, strict=True):
        close(result, train(student, teacher=tmp_path / "teacher.pt"))
        assert len(result.provenance["teacher_weights_sha256"]) == 64


def test_each_replica_draws_its_own_dropout() -> None:
    torch.manual_seed(0)
    network = Stack([nn.Sequential(nn.Dropout(0.25), nn.Linear(4_000, 1, bias=False)) for _ in range(5)]).train()
    with torch.no_grad():
        network.weights.fill_(1.0)
    kept = 0.75 * network(torch.ones(5, 2, 4_000))[..., 0] / 4_000
    assert len(kept.flatten().unique()) > 5, "each image of each replica has a mask of its own"
    assert kept.flatten().tolist() == [pytest.approx(0.75, abs=5 * math.sqrt(0.25 * 0.75 / 4_000))] * 10
    assert network.eval()(torch.ones(5, 2, 4_000)).flatten().tolist() == [4_000.0] * 10


def test_mixed_precision_in_a_stack_is_near_to_that_alone() -> None:
    runs = [make_run(**TEN | {"precision": "bfloat16", "seed": seed}) for seed in range(2)]
    for result, run in zip(train_group(runs), runs, strict=True):
        assert result.history["train_loss"] == pytest.approx(train(run).history["train_loss"], rel=0.02)
        whole = train(dataclasses.replace(run, precision="float32"))
        assert result.history["train_loss"] != whole.history["train_loss"]


# -- divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ConvRegressor", "Net"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_replica_that_diverges_disturbs_no_other(name: str, device: str) -> None:
    def group(rate: float) -> list[Run]:
        rates = (1e-3, rate, 2e-3)
        spec, size = (pairs(), 30) if name == "Net" else (statistic(), 70)  # one step an epoch
        fields = {"task": spec, "batch_size": size, "epochs": 4}
        return [make_run(name, learning_rate=r, seed=k, **fields) for k, r in enumerate(rates)]

    healthy, sick = train_group(group(1e-3), device=device), train_group(group(1e30), device=device)
    whole = int(name == "Net")  # ConvRegressor's validation images show it after the first epoch
    assert sick[1].status == "diverged" and sick[1].metrics == {}
    assert len(sick[1].history.get("train_loss", [])) == whole
    assert sick[1].diverged_at_step == train(group(1e30)[1], device=device).diverged_at_step == 1
    for k in (0, 2):
        records = [group[k].to_json() for group in (sick, healthy)]
        assert records[0]["metrics"] == records[1]["metrics"] and records[0]["history"] == records[1]["history"]
        assert sick[k].status == "finished", "the very same bits"


def test_a_group_that_has_diverged_ends() -> None:
    results = train_group([make_run(learning_rate=1e30, seed=k, epochs=10**6) for k in range(2)])
    assert [result.status for result in results] == ["diverged"] * 2


def test_the_best_weights_of_a_run_that_diverged_are_not_looked_for() -> None:
    rates = (1e-3, 1e30)
    recipe = {"dataset": "digits_32", "task": classes(40, classes="3,5"), "keep_best": True, "epochs": 3}
    runs = [make_run("ShallowNet", **recipe, learning_rate=rate) for rate in rates]
    good, bad = train_group(runs)
    assert good.metrics["selected_epoch"] and (bad.status, bad.metrics) == ("diverged", {})


# -- range test -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["MLPRegressor", "Net"])
def test_range_tests_together_are_those_alone(name: str) -> None:
    specs = [pairs()] * 2 if name == "Net" else [statistic(kind) for kind in STATISTICS]
    runs = [make_run(name, task=spec, seed=k) for k, spec in enumerate(specs)]
    with numerics():
        together, splits = stack(runs), [splits_of(run)["train"] for run in runs]
        before = {key: tensor.clone() for key, tensor in together.network.state_dict().items()}
        curves = range_test(together, side_by_side(splits, CPU))
        assert all(torch.equal(before[key], tensor) for key, tensor in together.network.state_dict().items())
        for run, split, losses in zip(runs, splits, curves, strict=True):
            [expected] = range_test(alone(run), split)
            assert losses[:70] == pytest.approx(expected[:70], rel=1e-10), "up to a rate of 4e-3"
            assert suggestion(losses) == suggestion(expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rate", ["range_test", "range_test_per_rate"])
def test_each_replica_takes_the_rate_that_its_range_test_found(rate: str) -> None:
    runs = [make_run(learning_rate=rate, task=statistic(name), seed=k) for k, name in enumerate(STATISTICS)]
    results = train_group(runs)
    for result, run in zip(results, runs, strict=True):
        close(result, train(run))
    assert len({result.metrics["learning_rate"] for result in results}) > 1


@pytest.mark.usefixtures("float64")
def test_a_range_test_that_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([1e-3, math.nan])
    monkeypatch.setattr("deepnets_utils.training.train.suggestion", lambda losses, rule: next(found))
    first, second = train_group([make_run(learning_rate="range_test", seed=k) for k in range(2)])
    assert (second.status, second.diverged_at_step, second.history) == ("diverged", 0, {})
    assert second.metrics.keys() == {"learning_rate", "range_test_losses"} and len(second.metrics["range_test_losses"])
    expected = train(make_run(learning_rate=1e-3))
    assert first.history["train_loss"] == pytest.approx(expected.history["train_loss"], rel=1e-9)


# -- checkpoints ------------------------------------------------------------------------------------


def outcome(result: Result) -> tuple:
    return result.status, result.diverged_at_step, result.metrics, result.history


def test_an_interrupted_group_goes_on_to_the_bit(tmp_path: Path) -> None:
    recipe = TEN | {"epochs": 5, "keep_best": True, "schedule": schedule("plateau", factor=0.5, patience=0)}
    recipe |= {"options": {"layers": "4c-mp-8fc-10fc", "dropout": "fc1:0.3"}, "augmentation": augmentation("flip_crop")}
    runs = [make_run(**recipe | {"seed": k, "learning_rate": rate}) for k, rate in enumerate((1e30, 0.01, 0.02))]
    runs.sort(key=lambda run: (run.learning_rate < 1, run.digest))  # the first in the stack stands still
    undisturbed = train_group(runs)
    assert [result.status for result in undisturbed] == ["diverged", "finished", "finished"]

    def stop(epoch: int, history: dict) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_group(runs, checkpoint=tmp_path / "group.pt", checkpoint_seconds=0, on_epoch=stop)
    epochs: list[int] = []
    resumed = train_group(runs, checkpoint=tmp_path / "group.pt", on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [3, 4, 5] and list(map(outcome, resumed)) == list(map(outcome, undisturbed))
    with pytest.warns(UserWarning, match="it belongs to another training"):
        train_group(runs[1:], checkpoint=tmp_path / "group.pt")


def test_sigterm_ends_a_group_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "terminated", ended := threading.Event())
    monkeypatch.setattr("deepnets_utils.training.checkpoints.terminated", ended)
    ended.set()
    with pytest.raises(signals.Terminated):
        train_group([make_run(seed=seed) for seed in range(2)], checkpoint=tmp_path / "group.pt")
    assert (tmp_path / "group.pt").exists()


# -- what trains together ---------------------------------------------------------------------------


def test_runs_with_one_key() -> None:
    run = make_run()
    same = [make_run(seed=1), make_run(data_seed=1), make_run(learning_rate=2.0), make_run(task=statistic("std"))]
    assert group_key(run) is not None and {group_key(other) for other in same} == {group_key(run)}
    others = [
        make_run("ConvRegressor"), make_run(options={"hidden1": 40}), make_run(batch_size=8), make_run(epochs=3),
        make_run(optimizer="sgd"), make_run(optimizer="rmsprop"), make_run(shuffle="once"), make_run(weight_decay=0.1),
        make_run(l1=0.1), make_run(evaluation_mode="train"), make_run(learning_rate="range_test"),
        make_run(watch_test=True), make_run(precision="bfloat16"),
        make_run(task=task("pixel_statistic", train_size=71, validation_size=50)),
        make_run(learning_rate="range_test_per_rate"), make_run("LeNet5", {"dropout": 0.25}, task=pairs()),
        make_run("Net", task=pairs(0.0)), make_run("Net", task=pairs(1.0)),
    ]  # fmt: skip
    keys = {group_key(other) for other in [run, *others]}
    assert None not in keys and len(keys) == len(others) + 1


def test_students_of_one_teacher_train_together() -> None:
    taught = TEN | {"task": classes(40, distillation="kl")}
    students = [
        make_run(**taught | {"seed": seed, "data_seed": of, "teacher": make_run(**TEN | {"data_seed": of})})
        for seed, of in ((0, 0), (1, 0), (0, 1))
    ]
    first, second, third = map(group_key, students)
    assert first == second != third, "of another teacher, and of other images"


@pytest.fixture
def local_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("_factories", "_versions"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))

    @register_model()
    def local_network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 1))

    yield "local_network"


def test_runs_that_train_alone(local_model: str) -> None:
    alone = [
        make_run(local_model),
        make_run("VGG19", **{key: TEN[key] for key in ("dataset", "task")}),
        Run(dataset="digits_28", task=statistic(), model=model("constant")),
        dataclasses.replace(make_run(), model=Spec("from_the_future", 1)),
    ]
    assert [group_key(run) for run in alone] == [None] * len(alone)
    with pytest.raises(ValueError, match="need one group_key, these 1 have 1"):
        train_group(alone[:1])
    with pytest.raises(ValueError, match="need one group_key, these 2 have 2"):
        train_group([make_run(), make_run(batch_size=8)])


def test_large_networks_train_a_few_at_a_time() -> None:
    assert group_size(make_run()) == grouping.GROUP
    assert group_size(make_run("ResNet18")) == 4 and group_size(make_run("GoogLeNet")) == 5


def test_equal_rows_are_held_once() -> None:
    first, second = torch.arange(12.0).view(4, 3), torch.arange(12.0).view(4, 3) + 100
    rows = Rows([first, second, first.clone()], CPU)
    assert rows.values.shape == (8, 3) and len(rows) == 4
    index = torch.tensor([[3, 0], [1, 1], [2, 3]])
    assert torch.equal(rows[index], torch.stack((first[[3, 0]], second[[1, 1]], first[[2, 3]])))
    with pytest.raises(ValueError, match=r"equal shapes, not \(3, 3\), \(4, 3\)"):
        Rows([first, first[:3]], CPU)


def test_the_best_weights_of_a_replica_are_a_copy_of_its_own_alone() -> None:
    network, progress = Stack([build_model(model("notation", layers="4c-10fc")) for _ in range(3)]), Progress.start(0)
    progress.record({"validation_error": 1.0})
    progress.keep_best(states(network)[1])
    kept = progress.best["network"]["weights"]
    with torch.no_grad():
        network.weights.zero_()
    assert kept.any() and kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_states_of_replicas_can_be_put_back() -> None:
    network = Stack([build_model(model("notation", layers="4c-10fc")) for _ in range(3)])
    own = [{name: tensor.clone() for name, tensor in state.items()} for state in states(network)]
    load_states(network, own[::-1])
    assert all(torch.equal(tensor, own[2][name]) for name, tensor in states(network)[0].items())


# -- in a sweep ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("error", "replicas"), [(torch.OutOfMemoryError("CUDA out of memory"), 2), (OSError(), None)])
def test_runs_whose_network_fails_as_one_are_what_they_are_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, replicas: int | None
) -> None:
    whole = Stack.forward

    def forward(self: Stack, inputs: Tensor) -> Any:
        if len(inputs) > 2 or not replicas:
            raise error
        return whole(self, inputs)

    monkeypatch.setattr(Stack, "forward", forward)
    monkeypatch.setattr(workers, "STACKED", ("cpu",))
    runs = [make_run(seed=seed) for seed in range(4)]
    results = sweep(runs, store=store)
    for result, run in zip(results, runs, strict=True):
        close(result, train(run))
    assert [result.provenance.get("replicas") for result in results] == [replicas] * 4


@pytest.mark.usefixtures("float64")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_sweep_on_cuda_trains_groups(store: Store) -> None:
    runs = [make_run(seed=seed) for seed in range(3)] + [make_run("LeNet5", task=pairs())]
    results = sweep(runs, store=store, device="cuda")
    assert [result.provenance.get("replicas") for result in results] == [3, 3, 3, 1]
    close(results[2], train(runs[2], device="cuda"))
