import dataclasses
import math
import sys
import threading
import time
import types
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import fake_trainer
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import Split, build_task, task
from deepnets_utils.models import build_model, model, register_model
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import workers as workers_module
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training import stacked
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.learning_rates import suggestion
from deepnets_utils.training.loop import make_optimizer, range_test
from deepnets_utils.training.machine import numerics
from deepnets_utils.training.replicas import Rows, StackedTraining, group_key
from deepnets_utils.training.single import train, train_group

DIGITS = "digits_28"
STEPS = 50
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
STATISTICS = ("mean", "median", "std")


def statistic(name: str = "mean") -> Spec:
    return task("pixel_statistic", statistic=name, train_size=70, validation_size=50)


def pairs(auxiliary: float, size: int = 30) -> Spec:
    return task("digit_pairs", auxiliary=auxiliary, train_size=size, test_size=20)


def make_run(name: str = "MLPRegressor", options: dict | None = None, **fields: Any) -> Run:
    defaults = {"task": statistic(), "learning_rate": 1e-3, "epochs": 2, "batch_size": 16}
    return Run(dataset=DIGITS, model=model(name, **options or {}), **defaults | fields)


def siamese(name: str, auxiliary: float = 1.0, batch_size: int = 8, **options: Any) -> dict[str, Any]:
    return {"name": name, "options": options, "task": pairs(auxiliary), "batch_size": batch_size}


penalties = {"weight_decay": 1e-3, "l1": 1e-4}
CASES = {
    "MLP": {"name": "MLPRegressor", **penalties},
    "conv": {"name": "ConvRegressor"},
    "conv, SGD": {"name": "ConvRegressor", "optimizer": "sgd", "learning_rate": 1e-2, **penalties},
    "conv + 2": {"name": "ConvRegressor", "options": {"extra_layers": 2}, "shuffle": "once"},
    "Net, sharing": {**siamese("Net"), "evaluation_mode": "train"},
    "Net": {**siamese("Net", 0.0, sharing=False, head_batch_norm=True), "learning_rate": 1e-4},
    "LeNet5, sharing": siamese("LeNet5"),
    "LeNet5": {**siamese("LeNet5", 0.5, sharing=False, batch_norm=False), "weight_decay": 1e-3},
    "FullyConv, sharing": {**siamese("LeNet5_FullyConv", 1.0, 15), "learning_rate": 2e-5},
    "FullyConv": {**siamese("LeNet5_FullyConv", 0.0, 15, sharing=False), "learning_rate": 2e-5},
    "ResNet, sharing": {**siamese("ResNet", 1.0, 2), "learning_rate": 1e-4},
    "ResNet": {**siamese("ResNet", 0.0, 2, sharing=False), "evaluation_mode": "train"},
}


def runs_of(fields: dict[str, Any]) -> list[Run]:
    """Runs with other seeds and learning rates and, where there are any, other statistics."""
    rate = fields.get("learning_rate", 1e-3)
    if "task" in fields:
        return [make_run(**fields | {"learning_rate": rate * (k + 1), "seed": k}) for k in range(2)]
    return [
        make_run(**fields | {"learning_rate": rate * (k + 1), "seed": k, "task": statistic(name)})
        for k, name in enumerate(STATISTICS)
    ]


def splits_of(run: Run, device: str = "cpu") -> dict[str, Split]:
    parts = build_task(run.task).splits(loading.load(DIGITS), run.data_seed)
    return {name: part.to(torch.device(device)) for name, part in parts.items()}


def initial(run: Run) -> nn.Module:
    torch.manual_seed(derived_seed("weights", run.seed))
    return build_model(run.model)


def stack(runs: list[Run], device: str = "cpu") -> StackedTraining:
    networks, splits = [initial(run) for run in runs], [splits_of(run) for run in runs]
    training = StackedTraining(runs, build_task(runs[0].task), networks, splits, device)
    training.rates.copy_(torch.tensor([run.learning_rate for run in runs], dtype=torch.float64)[:, None])
    return training


def orders(run: Run, size: int) -> list[Tensor]:
    """The orders of as many epochs as 50 steps need."""
    draw, epochs = generator("order", run.seed), math.ceil(STEPS / math.ceil(size / run.batch_size))
    drawn = [torch.randperm(size, generator=draw) for _ in range(epochs)]
    return drawn[:1] * epochs if run.shuffle == "once" else drawn


def alone(run: Run, device: str) -> tuple[list[float], dict[str, Any]]:
    """The loss of each step of one run and its test metrics, from the shortest loop that does what the Run says."""
    network, own, splits = initial(run).to(device), build_task(run.task), splits_of(run, device)
    optimizer, losses = make_optimizer(run, network, run.learning_rate), []
    for order in orders(run, len(splits["train"])):
        for batch in order.to(device).split(run.batch_size):
            loss = own.loss(network(splits["train"].inputs[batch]), splits["train"].targets[batch])
            loss = loss + run.l1 * sum(weight.abs().sum() for weight in network.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    network.train(run.evaluation_mode == "train")
    with torch.no_grad():
        outputs = [network(part) for part in splits["test"].inputs.split(run.batch_size)]
    tuples = isinstance(outputs[0], tuple)
    joined = type(outputs[0])(*map(torch.cat, zip(*outputs, strict=True))) if tuples else torch.cat(outputs)
    return losses, own.metrics(joined, splits["test"].targets)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_a_replica_is_the_run_alone_for_fifty_steps(case: str, device: str) -> None:
    runs = runs_of(CASES[case])
    with numerics():
        training = stack(runs, device)
        size = training.inputs["train"].length
        epochs = zip(*(orders(run, size) for run in runs), strict=True)
        losses = torch.cat([training.epoch(epoch) for epoch in epochs], 1)
        metrics = training.evaluate([build_task(run.task) for run in runs], "test")
        assert losses.shape[1] >= STEPS and losses.dtype == torch.float64
        for own, measured, run in zip(losses, metrics, runs, strict=True):
            expected, expected_metrics = alone(run, device)
            assert own.tolist() == pytest.approx(expected, rel=1e-10, abs=0)
            for name, value in expected_metrics.items():
                assert measured[f"test_{name}"] == pytest.approx(value, rel=1e-8, nan_ok=True)


def close(result: Result, expected: Result) -> None:
    """Fail where a replica and its run alone, both in float64, differ by more than rounding."""
    assert (result.run, result.status, result.diverged_at_step) == (
        expected.run, expected.status, expected.diverged_at_step,
    )  # fmt: skip
    for numbers, wanted in ((result.metrics, expected.metrics), (result.history, expected.history)):
        assert numbers.keys() == wanted.keys()
        for name, value in wanted.items():
            assert numbers[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


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
        assert result.provenance["wall_seconds"] > 0 and result.provenance["data_fingerprint"] == CANONICAL[DIGITS]
    assert len({result.metrics["test_mse"] for result in results}) == 5


@pytest.mark.parametrize("name", ["ConvRegressor", "Net"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_replica_that_diverges_disturbs_no_other(name: str, device: str) -> None:
    def group(rate: float) -> list[Run]:
        rates = (1e-3, rate, 2e-3)
        spec, size = (pairs(1.0), 30) if name == "Net" else (statistic(), 70)  # one step an epoch
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


def test_a_dead_replica_is_empty() -> None:
    training = stack([make_run(seed=0), make_run(seed=1, learning_rate=1e30)])
    losses = training.epoch([torch.arange(70)] * 2)
    assert losses.isfinite().tolist() == [[True] * 5, [True] + [False] * 4]
    assert training.alive.tolist() == [True, False]
    assert not training.network.weights[1].any() and training.network.weights[0].all()


def test_a_group_that_has_diverged_ends() -> None:
    results = train_group([make_run(learning_rate=1e30, seed=k, epochs=10**6) for k in range(2)])
    assert [result.status for result in results] == ["diverged"] * 2


# -- range test -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["MLPRegressor", "Net"])
def test_range_tests_together_are_those_alone(name: str, device: str) -> None:
    specs = [pairs(1.0)] * 2 if name == "Net" else [statistic(kind) for kind in STATISTICS]
    runs = [make_run(name, task=spec, seed=k, learning_rate=1e-3) for k, spec in enumerate(specs)]
    with numerics():
        training = stack(runs, device=device)
        before = [tensor.clone() for tensor in (training.network.weights, *training.network.buffers)]
        curves = training.range_test([run.seed for run in runs])
        after = (training.network.weights, *training.network.buffers)
        assert all(torch.equal(*both) for both in zip(before, after, strict=True)) and training.alive.all()
        for run, losses in zip(runs, curves, strict=True):
            split = splits_of(run, device)["train"]
            expected = range_test(run, build_task(run.task), initial(run).to(device), Batches(run), split)
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
    monkeypatch.setattr("deepnets_utils.training.replicas.suggestion", lambda losses, rule: next(found))
    first, second = train_group([make_run(learning_rate="range_test", seed=k) for k in range(2)])
    assert (second.status, second.diverged_at_step, second.history) == ("diverged", 0, {})
    assert second.metrics.keys() == {"learning_rate", "range_test_losses"} and len(second.metrics["range_test_losses"])
    expected = train(make_run(learning_rate=1e-3))
    assert first.history["train_loss"] == pytest.approx(expected.history["train_loss"], rel=1e-9)


# -- what trains together -------------------------------------------------------------------------


def test_runs_with_one_key() -> None:
    run = make_run()
    same = [make_run(seed=1), make_run(data_seed=1), make_run(learning_rate=2.0), make_run(task=statistic("std"))]
    assert group_key(run) is not None and {group_key(other) for other in same} == {group_key(run)}
    others = [
        make_run("ConvRegressor"), make_run(options={"hidden1": 40}), make_run(batch_size=8), make_run(epochs=3),
        make_run(optimizer="sgd"), make_run(shuffle="once"), make_run(weight_decay=0.1), make_run(l1=0.1),
        make_run(evaluation_mode="train"), make_run(learning_rate="range_test"),
        make_run(task=task("pixel_statistic", train_size=71, validation_size=50)),
        make_run(learning_rate="range_test_per_rate"),
        make_run("Net", task=pairs(0.0)), make_run("Net", task=pairs(1.0)),
    ]  # fmt: skip
    keys = {group_key(other) for other in [run, *others]}
    assert None not in keys and len(keys) == len(others) + 1


def test_runs_that_train_alone() -> None:
    @register_model()
    def local_network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 1))

    alone = [
        make_run("LeNet5", {"dropout": 0.25}, task=pairs(1.0)),
        make_run("local_network"),
        make_run(optimizer="rmsprop"),
        make_run(watch_test=True),
        make_run(precision="bfloat16"),
        Run(dataset=DIGITS, task=statistic(), model=model("constant")),
        dataclasses.replace(make_run(), model=Spec("from_the_future", 1)),
    ]  # fmt: skip
    assert [group_key(run) for run in alone] == [None] * len(alone)
    with pytest.raises(ValueError, match="need one group_key, these 1 have 1"):
        train_group(alone[:1])
    with pytest.raises(ValueError, match="need one group_key, these 2 have 2"):
        train_group([make_run(), make_run(batch_size=8)])


def test_equal_rows_are_held_once() -> None:
    first, second = torch.arange(12.0).view(4, 3), torch.arange(12.0).view(4, 3) + 100
    rows = Rows([first, second, first.clone()], "cpu")
    assert rows.values.shape == (8, 3)
    index = torch.tensor([[3, 0], [1, 1], [2, 3]])
    assert torch.equal(rows[index], torch.stack((first[[3, 0]], second[[1, 1]], first[[2, 3]])))
    with pytest.raises(ValueError, match=r"equal shapes, not \(3, 3\), \(4, 3\)"):
        Rows([first, first[:3]], "cpu")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 0), (3, 1, 1), (3, 2, 1)])
def test_a_grouped_convolution_is_that_of_each_replica(kernel: int, stride: int, padding: int, device: str) -> None:
    layers = [nn.Conv2d(3, 4, kernel, stride, padding).double().to(device) for _ in range(5)]
    x = torch.randn(2, 5, 3, 9, 11, dtype=torch.float64, device=device).transpose(0, 1).requires_grad_()
    weight, bias = (torch.stack([getattr(layer, name) for layer in layers]).detach() for name in ("weight", "bias"))
    leaves = (x, weight.requires_grad_(), bias.requires_grad_())
    expected = torch.stack([layer(own) for layer, own in zip(layers, x, strict=True)])
    result = stacked.grouped_convolution(layers[0], *leaves)
    torch.testing.assert_close(result, expected)
    alone = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    own = torch.autograd.grad(expected.square().sum(), (x, *alone))
    stacked_own = torch.autograd.grad(result.square().sum(), leaves)
    torch.testing.assert_close(stacked_own, (own[0], torch.stack(own[1::2]), torch.stack(own[2::2])))


# -- capture --------------------------------------------------------------------------------------


class NothingLeavesTheDevice(TorchDispatchMode):
    """Fails where a step would copy between host and device. Numbers of the host are constants of a captured graph."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        assert all(tensor.is_meta or tensor.dim() == 0 for tensor in tensors), function
        moved = {tensor.device.type for tensor in tensors} if "copy" in function.name() else set()
        assert len(moved) < 2, function
        return result


@pytest.mark.parametrize("case", CASES)
def test_a_step_touches_nothing_but_its_device(case: str) -> None:
    # The meta device has no numbers: what reads one fails there, as it would in a capture.
    training = stack(runs_of(CASES[case]), device="meta")
    with NothingLeavesTheDevice():
        training._step(torch.zeros(len(training.alive), 8, dtype=torch.int64, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_an_epoch_of_captured_steps_waits_for_nothing() -> None:
    runs = runs_of(CASES["Net, sharing"])
    with numerics():
        training = stack(runs, "cuda")
        training.epoch([orders(run, 30)[0] for run in runs])
        assert training._graphs.keys() == {8, 6}, "one graph for whole batches, one for the last"
        batches = training.batches([orders(run, 30)[1] for run in runs])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for index in batches:
                training.step(index)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("float64")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_sweep_on_cuda_trains_groups(store: Store) -> None:
    runs = [make_run(seed=seed) for seed in range(3)] + [make_run("LeNet5", {"dropout": 0.25}, task=pairs(1.0))]
    results = sweep(runs, store=store, device="cuda")
    assert [result.provenance.get("replicas") for result in results] == [3, 3, 3, None]
    close(results[2], train(runs[2], device="cuda"))


# -- groups in a sweep ----------------------------------------------------------------------------


class Grouping(types.ModuleType):
    """A module with a trainer without torch: runs with behaviour "fine" train together, their seeds are recorded."""

    def __init__(self, store: Store) -> None:
        super().__init__("grouping")
        self.store, self.groups, self.lonely = store, [], []
        self.room, self.failing, self.broken = 10**6, set(), set()

    def group_key(self, run: Run) -> Hashable | None:
        return run.model if run.model.name == "fine" else None

    def train_group(self, runs: list[Run], *, device: str) -> list[Result]:
        assert all(self.store.claim(run) is None for run in runs), "every run of a group is claimed"
        self.groups.append([run.seed for run in runs])
        if len(runs) > self.room:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            finally:  # the end of a capture fails, too
                raise RuntimeError("operation failed due to a previous error during capture\nmore")
        if self.failing & set(self.groups[-1]):
            raise RuntimeError("made to fail")
        return [fake_trainer.result_of(run) for run in runs]

    def train(self, run: Run, *, device: str, checkpoint: Path) -> Result:
        self.lonely.append(run.seed)
        if run.seed in self.broken:
            raise RuntimeError("made to fail alone")
        return fake_trainer.result_of(run)


@pytest.fixture
def grouping(store: Store, monkeypatch: pytest.MonkeyPatch) -> Grouping:
    module = Grouping(store)
    monkeypatch.setitem(sys.modules, "grouping", module)
    monkeypatch.setattr(workers_module, "GROUP", 3)
    return module


def fake_runs() -> list[Run]:
    """Seven that may train together in two groups, and two that may not, among them."""
    runs = [fake_trainer.make_run(seed, seconds=float(seed % 2)) for seed in range(7)]
    return [*runs[:3], fake_trainer.make_run(10, "alone"), *runs[3:], fake_trainer.make_run(11, "alone")]


def test_on_cuda_a_sweep_trains_groups(store: Store, grouping: Grouping) -> None:
    runs = fake_runs()
    assert sweep(runs, store=store, device="cuda", trainer="grouping:train") == list(map(fake_trainer.result_of, runs))
    assert sorted(grouping.groups) == [[0, 2, 4], [1, 3, 5], [6]] and grouping.lonely == [10, 11]
    assert [store.get(run) for run in runs] == list(map(fake_trainer.result_of, runs))
    assert list((store.folder / "claims").glob("*")) == []


def test_on_a_cpu_every_run_trains_alone(store: Store, grouping: Grouping) -> None:
    sweep(fake_runs(), store=store, trainer="grouping:train")
    assert grouping.groups == [] and len(grouping.lonely) == 9


def test_what_is_stored_is_left_out_of_its_group(store: Store, grouping: Grouping) -> None:
    store.put(fake_trainer.result_of(fake_trainer.make_run(2)))
    sweep(fake_runs(), store=store, device="cuda", trainer="grouping:train")
    assert sorted(grouping.groups) == [[0, 4, 6], [1, 3, 5]]


def test_what_another_sweep_holds_is_awaited_and_the_rest_of_its_group_is_trained(
    store: Store, grouping: Grouping
) -> None:
    held = fake_runs()[2]
    claim = store.claim(held)

    def other_sweep() -> None:
        time.sleep(0.3)
        store.put(fake_trainer.result_of(held))
        store.release(claim)

    thread = threading.Thread(target=other_sweep)
    thread.start()
    assert None not in sweep(fake_runs(), store=store, device="cuda", trainer="grouping:train")
    thread.join()
    assert sorted(grouping.groups) == [[0, 4], [1, 3, 5], [6]]


def test_a_group_that_fails_is_trained_by_the_plain_loop(
    store: Store, grouping: Grouping, capfd: pytest.CaptureFixture
) -> None:
    grouping.failing, grouping.broken = {3, 6}, {3}
    with pytest.raises(TrainingFailed) as failure:
        sweep(fake_runs(), store=store, device="cuda", trainer="grouping:train")
    assert len(str(failure.value).splitlines()) == 1 and "seed=3: RuntimeError: made to fail alone" in str(
        failure.value
    )
    assert sorted(grouping.groups) == [[0, 2, 4], [1, 3, 5], [6]], "as one network nothing is tried twice"
    assert sorted(grouping.lonely) == [1, 3, 5, 6, 10, 11]
    assert {result.run.seed for result in store.results()} == {0, 1, 2, 4, 5, 6, 10, 11}
    said = capfd.readouterr().err
    for count in (3, 1):
        line = f"{count} runs failed as one network and are trained by the plain loop: RuntimeError: made to fail"
        assert said.count(line) == 1
    assert store.claim(fake_runs()[4]) is not None, "no claim is kept on a run that failed"


@pytest.mark.parametrize("room", [2, 1, 0])
def test_a_group_without_memory_is_halved_and_at_last_trained_by_the_plain_loop(
    store: Store, grouping: Grouping, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, room: int
) -> None:
    monkeypatch.setattr(workers_module, "GROUP", 64)
    grouping.room, runs = room, [fake_trainer.make_run(seed) for seed in range(8)]
    assert sweep(runs, store=store, device="cuda", trainer="grouping:train") == list(map(fake_trainer.result_of, runs))
    assert [len(group) for group in grouping.groups if 0 in group] == [8, 4, 2, 1][: 4 - room // 2]
    assert sorted(grouping.lonely) == ([] if room else list(range(8)))
    said = capfd.readouterr().err
    why = "RuntimeError: operation failed due to a previous error during capture\n"
    assert said.count(f"8 runs failed as one network and are trained in two halves: {why}") == 1
    assert said.count(f"1 runs failed as one network and are trained by the plain loop: {why}") == 8 * (not room)
    assert list((store.folder / "claims").glob("*")) == []


def test_a_worker_that_dies_with_a_group_costs_no_run(store: Store, capfd: pytest.CaptureFixture) -> None:
    runs = [fake_trainer.make_run(seed, "dies_as_one") for seed in range(4)]
    options = {"store": store, "workers": 2, "device": "cuda", "trainer": fake_trainer.TRAINER}
    assert sweep([*runs, fake_trainer.make_run(9)], **options)[:4] == list(map(fake_trainer.result_of, runs))
    said = capfd.readouterr().err
    assert "4 runs failed as one network and are trained in two halves: BrokenProcessPool" in said
    assert said.count("trained by the plain loop: BrokenProcessPool") == 4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("error", "replicas"), [(torch.OutOfMemoryError("CUDA out of memory"), 2), (OSError(), None)])
def test_runs_whose_network_fails_as_one_are_what_they_are_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, replicas: int | None
) -> None:
    whole = StackedTraining.epoch

    def epoch(self: StackedTraining, own: list[Tensor]) -> Tensor:
        if len(own) > 2 or not replicas:
            raise error
        return whole(self, own)

    monkeypatch.setattr(StackedTraining, "epoch", epoch)
    monkeypatch.setattr(workers_module, "group_key", lambda trainer, run, device: group_key(run))  # on the CPU, too
    runs = [make_run(seed=seed) for seed in range(4)]
    results = sweep(runs, store=store)
    for result, run in zip(results, runs, strict=True):
        close(result, train(run))
    assert [result.provenance.get("replicas") for result in results] == [replicas] * 4
