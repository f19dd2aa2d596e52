import copy
import dataclasses
import hashlib
import io
import json
import math
import multiprocessing
import os
import platform
import random
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from deepnets_utils.data import loading
from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import Split, Task, build_task, task
from deepnets_utils.data.tasks.digit_pairs import DigitPairs
from deepnets_utils.models import MODELS, build_model, model, register_model
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training import checkpoints
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress, Saving
from deepnets_utils.training.loop import Training, range_test, train_epoch
from deepnets_utils.training.machine import Clock, numerics, provenance
from deepnets_utils.training.optimizers import make_optimizer
from deepnets_utils.training.range_test import suggestion, tested_rates
from deepnets_utils.training.schedules import schedule
from deepnets_utils.training.train import make_network, train, train_group, train_network

DIGITS = "digits_28"
RATES = tested_rates().tolist()


def make_run(name: str = "LeNet5", auxiliary: float = 1.0, options: dict | None = None, **fields: object) -> Run:
    """60 pairs in 3 batches, dropout and batch norm in the network."""
    options = {"dropout": 0.25} if options is None else options
    spec = task("digit_pairs", auxiliary=auxiliary, train_size=60, test_size=50)
    defaults = {"task": spec, "learning_rate": 5e-3, "epochs": 4, "batch_size": 20, "seed": 3}
    return Run(dataset=DIGITS, model=model(name, **options), **defaults | fields)


def together(run: Run, seen: Task, network: nn.Module) -> Training:
    return Training([run], seen, network, Batches([run]), [Progress.start(run.seed)])


def one_epoch(run: Run, seen: Task, network: nn.Module, optimizer: Optimizer, split: Split, order: Tensor) -> Tensor:
    """The losses of an epoch in the given order."""
    training = together(run, seen, network)
    training.progress[0].order = order
    return train_epoch(training, optimizer, split)[0]


def outcome(run: Run, seen: Task, splits: dict[str, Split]) -> dict:
    """What training on other splits than the task's gives."""
    with numerics():
        training = together(run, seen, make_network(run, torch.device("cpu")))
        return train_network(training, splits, Saving(None, 1e9, Clock(), run.digest))[0]


def numbers(result: Result) -> str:
    """What must be the same bits: everything but where and when it was made."""
    record = result.to_json()
    return canonical([record[key] for key in ("run", "status", "diverged_at_step", "metrics", "history")])


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


class Interrupted(Exception):
    pass


def interrupt_at(epoch: int) -> Callable:
    def on_epoch(number: int, history: dict) -> None:
        if number == epoch:
            raise Interrupted

    return on_epoch


# -- the same bits --------------------------------------------------------------------------------


def test_repeats_are_bit_identical_in_any_order(undisturbed: Callable) -> None:
    runs = [make_run(), make_run("ResNet", options={}), make_run(seed=4), make_run(shuffle="once")]
    first = [undisturbed(run) for run in runs]
    torch.manual_seed(random.randrange(2**31))
    assert [numbers(train(run)) for run in reversed(runs)] == first[::-1]
    assert len(set(first)) == len(runs)


def test_other_processes_give_the_same_bits(
    store: Store, undisturbed: Callable, processes: multiprocessing.context.BaseContext
) -> None:
    runs = [make_run(), make_run(seed=4), make_run(shuffle="once")]
    with ProcessPoolExecutor(2, mp_context=processes) as executor:
        results = sweep(runs, store=store, executor=executor)
    assert [numbers(result) for result in results] == [undisturbed(run) for run in runs]
    assert [numbers(store.get(run)) for run in runs] == [undisturbed(run) for run in runs], "and from the store"


def test_threads_of_the_caller_do_not_matter(undisturbed: Callable) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert numbers(train(make_run())) == undisturbed(make_run())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_callers_torch_is_left_as_it_was(interrupted: bool) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    tiny = torch.tensor(1e-40)
    if interrupted:
        with pytest.raises(Interrupted):
            train(make_run(), on_epoch=interrupt_at(1))
    else:
        train(make_run())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert (tiny * 1).item() > 0, "denormal numbers are numbers again"


def test_numerics() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with numerics():
            assert torch.get_num_threads() == 1
            assert (torch.tensor(1e-40) * 1).item() == 0
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")
def test_a_step_does_not_page_its_memory_in_again() -> None:
    import resource  # not on Windows

    def pages(steps: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(steps):
            [torch.zeros(1 << 21) for _ in range(4)]  # 8 MB each, 8,192 pages in all
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with numerics():
        pages(1)
        assert pages(20) < 20 * 8_192 / 4


def test_purposes_have_their_own_numbers() -> None:
    seeds = {derived_seed(purpose, seed) for purpose in ("weights", "order", "dropout", "split") for seed in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed("weights", 1) == int(hashlib.sha256(b"weights:1").hexdigest()[:16], 16) // 2


# -- what the loop computes -----------------------------------------------------------------------


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


class LeastSquares:
    """A task for tests: one linear layer, mean squared error, and a list of the batches that were seen."""

    def __init__(self, break_at: int | None = None) -> None:
        self.batches: list[Tensor] = []
        self.break_at = break_at

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.batches.append(targets.detach().clone())
        loss = (outputs.squeeze(1) - targets).square().mean()
        return loss * math.nan if len(self.batches) - 1 == self.break_at else loss

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict:
        return {"mse": (outputs.squeeze(1) - targets).square().mean().item()}


def line(number: int = 10) -> Split:
    return Split(torch.arange(float(number))[:, None] / number, torch.arange(float(number)))


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


@pytest.fixture
def linear_model(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("_factories", "_versions"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))

    @register_model()
    def one_layer() -> nn.Module:
        return nn.Linear(1, 1)

    return "one_layer"


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


def test_losses_fall() -> None:
    losses = train(make_run(options={}, epochs=15)).history["train_loss"]
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": 0.1},
        {"l1": 1e-3},
        {"optimizer": "sgd"},
        {"auxiliary": 0.0},
        {"seed": 9},
        {"data_seed": 9},
        {"batch_size": 30},
    ],
    ids=str,
)
def test_what_changes_the_numbers(undisturbed: Callable, change: dict) -> None:
    assert train(make_run(**change)).history != train(make_run()).history


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


def test_a_task_that_needs_more_images_than_there_are() -> None:
    with pytest.raises(ValueError, match="do not fit into 1397"):
        train(Run(dataset=DIGITS, task=task("pixel_statistic"), model=model("constant")))


def test_a_model_and_a_recipe_that_do_not_go_together() -> None:
    means = {"dataset": DIGITS, "task": task("pixel_statistic", train_size=64, validation_size=0)}
    with pytest.raises(ValueError, match="'constant' is fitted, not trained"):
        train(Run(**means, model=model("constant"), learning_rate=0.01, epochs=1, batch_size=8))
    with pytest.raises(ValueError, match="'MLPRegressor' is trained: its Run needs a learning_rate"):
        train(Run(**means, model=model("MLPRegressor")))


def test_provenance() -> None:
    result = train(make_run(epochs=1))
    assert result.status == "finished" and result.diverged_at_step is None
    assert result.provenance["data_fingerprint"] == CANONICAL[DIGITS]
    assert result.provenance["torch"] == torch.__version__ and result.provenance["path"] == "loop"
    assert result.provenance["wall_seconds"] > 0 and result.provenance["cpu_seconds"] > 0
    assert result.device_kind == "cpu"
    assert result.provenance["threads"] == 1 and result.provenance["device"] and result.provenance["processor"]
    assert result.provenance["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize(
    ("cpuinfo", "device", "processor"),
    [
        (
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC",
            "AMD EPYC",
            "AuthenticAMD 25 17",
        ),
        ("BogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c", "elsewhere", "0x41 0xd0c"),
        (None, "elsewhere", "elsewhere"),
    ],
    ids=["a virtual machine", "Arm", "not Linux"],
)
def test_a_processor_is_told_by_its_numbers(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, device: str, processor: str
) -> None:
    real = Path.read_text

    def read(path: Path, *arguments: object, **options: object) -> str:
        if path != Path("/proc/cpuinfo"):
            return real(path, *arguments, **options)
        if cpuinfo is None:
            raise FileNotFoundError
        return f"{cpuinfo}\n\nprocessor\t: 1\nmodel\t: other\n"

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "elsewhere")
    found = provenance("loop", "cpu", Clock(), loading.load(DIGITS))
    assert (found["device"], found["processor"]) == (device, processor)


# -- checkpoints ----------------------------------------------------------------------------------


def interrupted_run(run: Run, path: Path, epoch: int) -> None:
    """Train until the end of `epoch`, at which the checkpoint of the epoch before it is there."""
    with pytest.raises(Interrupted):
        train(run, checkpoint=path, checkpoint_seconds=0, on_epoch=interrupt_at(epoch))


def resume(run: Run, path: Path) -> tuple[str, list[int]]:
    """Return the numbers and the epochs that were trained."""
    epochs: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    return numbers(result), epochs


@pytest.mark.parametrize("shuffle", ["every_epoch", "once"])
@pytest.mark.parametrize("fields", [{}, {"evaluation_mode": "train"}, {"optimizer": "sgd"}], ids=str)
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Callable, shuffle: str, fields: dict, epoch: int
) -> None:
    run = make_run(shuffle=shuffle, **fields)
    interrupted_run(run, tmp_path / "run.pt", epoch)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), list(range(epoch, 5)))


def test_a_run_may_be_interrupted_every_epoch(tmp_path: Path, undisturbed: Callable) -> None:
    run = make_run("LeNet5_FullyConv", options={})
    for epoch in (2, 3, 4):
        interrupted_run(run, tmp_path / "run.pt", epoch)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [4])


def test_a_run_interrupted_in_its_last_test_trains_no_epoch_again(tmp_path: Path, undisturbed: Callable) -> None:
    run = make_run()
    train(run, checkpoint=tmp_path / "run.pt", checkpoint_seconds=0)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [])


def test_checkpoints_are_written_after_their_seconds_only(tmp_path: Path) -> None:
    train(make_run(), checkpoint=tmp_path / "run.pt", checkpoint_seconds=3600)
    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_where_its_checkpoint_has_no_room(tmp_path: Path, undisturbed: Callable) -> None:
    (tmp_path / "file").touch()  # no folder, so that nothing can be written below it
    with pytest.warns(UserWarning, match="goes on without a checkpoint"):
        result = train(make_run(), checkpoint=tmp_path / "file" / "run.pt", checkpoint_seconds=0)
    assert numbers(result) == undisturbed(make_run())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_best": True}, "keep_best needs a task with a validation split and an error"),
        (
            {"schedule": schedule("plateau")},
            "looks at validation_error, .* measures \\['validation_mse'\\]",
        ),
        ({"schedule": schedule("plateau", on="validation_loss")}, "looks at validation_loss, and of each epoch"),
        (
            {"schedule": schedule("plateau", on="test_loss"), "watch_test": True, "model": model("Net")}
            | {"task": task("digit_pairs", train_size=64, test_size=64)},
            "looks at test_loss, and of each epoch this run measures \\['test_error', 'test_digit_error'\\]",
        ),
    ],
)
def test_what_is_not_measured_fails_before_anything_is_trained(change: dict, message: str) -> None:
    mean = task("pixel_statistic", statistic="mean", train_size=64, validation_size=64)
    run = Run(dataset="digits_28", task=mean, model=model("ConvRegressor"), learning_rate=0.01, epochs=2, batch_size=32)
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(run, **change), on_epoch=lambda *_: pytest.fail("an epoch was trained"))


def test_a_schedule_may_look_at_the_test_error_of_pairs() -> None:
    pairs = task("digit_pairs", train_size=40, test_size=40)
    known = {"dataset": "digits_28", "task": pairs, "model": model("LeNet5"), "learning_rate": 0.01, "batch_size": 20}
    result = train(Run(**known, epochs=2, watch_test=True, schedule=schedule("plateau", on="test_error")))
    assert len(result.history["learning_rate"]) == 2


def test_seconds_of_earlier_attempts_count(tmp_path: Path) -> None:
    run, path = make_run(epochs=2), tmp_path / "run.pt"

    def slow(epoch: int, history: dict) -> None:
        time.sleep(0.3)
        if epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run, checkpoint=path, checkpoint_seconds=0, on_epoch=slow)
    assert train(run, checkpoint=path).provenance["wall_seconds"] > 0.3


@pytest.mark.parametrize("shuffle", ["every_epoch", "once"])
def test_kill_9_at_random_moments(
    tmp_path: Path, undisturbed: Callable, processes: multiprocessing.context.BaseContext, shuffle: str
) -> None:
    run, path = make_run(epochs=25, shuffle=shuffle), tmp_path / "run.pt"
    for _ in range(4):
        arguments = {"checkpoint": path, "checkpoint_seconds": 0}
        process = processes.Process(target=train, args=(run,), kwargs=arguments)
        process.start()
        end, before = time.monotonic() + 30, path.stat().st_mtime_ns if path.exists() else 0
        while process.is_alive() and (not path.exists() or path.stat().st_mtime_ns == before):
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.06))
        process.kill()
        process.join()
        assert path.exists(), "the first checkpoint was written, and then the process was killed"
    bits, epochs = resume(run, path)
    assert bits == undisturbed(run)
    assert len(epochs) < 22, "it went on from where it was"


def with_checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return with_checksum(file.getvalue())


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def damaged(kind: str, content: bytes, folder: Path) -> bytes:
    state = torch.load(io.BytesIO(content[32:]), weights_only=True)
    progress, network, optimizer = state["parts"]
    weight = next(iter(network))
    match kind:
        case "empty":
            return b""
        case "half":
            return content[: len(content) // 2]
        case "last_byte_missing":
            return content[:-1]
        case "flipped_in_the_weights":
            return flip(content, content.index(network[weight].numpy().tobytes()) + 5)
        case "flipped_at_random":
            return flip(content, random.randrange(len(content)))
        case "another_run":
            return saved(state | {"digest": "0" * 16})
        case "begun_on_cuda":
            return saved(state | {"place": f"cuda with torch {torch.__version__}"})
        case "no_optimizer":
            return saved(state | {"parts": [progress, network, None]})
        case _ if kind in state:
            return saved({key: value for key, value in state.items() if key != kind})
        case _ if kind in progress:
            return saved(
                state | {"parts": [{key: progress[key] for key in progress if key != kind}, network, optimizer]}
            )
        case "another_network":
            del network[weight]
            return saved(state)
        case "another_optimizer":
            optimizer["param_groups"][0]["params"].pop()
            return saved(state)
        case "payload":
            return saved(state | {"parts": [progress | {"history": Payload(folder / "executed")}, network, optimizer]})
        case "foreign":
            return with_checksum(b"not a checkpoint")
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["empty", "half", "last_byte_missing", "flipped_in_the_weights", "flipped_at_random", "another_run", "no_optimizer"]
    + ["begun_on_cuda", "place"]
    + ["torch_generator", "cuda_generator", "seconds", "parts"]
    + ["generator", "epoch", "order", "history", "gradients", "best", "diverged_at"]
    + ["another_network", "another_optimizer", "payload", "foreign"],
)
def test_a_checkpoint_that_cannot_be_used(tmp_path: Path, undisturbed: Callable, kind: str) -> None:
    run, path = make_run(), tmp_path / "run.pt"
    interrupted_run(run, path, 3)
    content = damaged(kind, path.read_bytes(), tmp_path)
    path.write_bytes(content)
    epochs = []
    with pytest.warns(UserWarning, match=r"(?s)checkpoint run.pt is not used: .*moved to .*run.pt.damaged-1"):
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    assert numbers(result) == undisturbed(run) and epochs == [1, 2, 3, 4], "as if there had been none"
    assert (tmp_path / "run.pt.damaged-1").read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_cannot_be_read_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = make_run(), tmp_path / "run.pt"
    interrupted_run(run, path, 3)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="stale file handle"):
        patched.setattr(checkpoints, "load_state", lambda *of: (_ for _ in ()).throw(OSError("stale file handle")))
        train(run, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_of_another_torch_is_not_continued(
    tmp_path: Path, undisturbed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path, epochs = make_run(), tmp_path / "run.pt", []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.11.0+cpu")
        interrupted_run(run, path, 3)
    line = f"begun on cpu with torch 2.11.0.cpu, this is cpu with torch {torch.__version__}".replace("+", ".")
    with pytest.warns(UserWarning, match=f"{line}, so that the run starts again"):
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    assert numbers(result) == undisturbed(run) and epochs == [1, 2, 3, 4]


# -- learning rates that a range test finds -------------------------------------------------------


def statistics_run(**fields: object) -> Run:
    """90 images in 5 batches and a validation split."""
    spec = task("pixel_statistic", train_size=90, validation_size=30)
    return make_run("MLPRegressor", options={}, task=spec, **fields)


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


@pytest.mark.parametrize("run", [make_run(), statistics_run(shuffle="once")], ids=["LeNet5", "once"])
def test_a_resumed_run_finds_its_rate_again(tmp_path: Path, undisturbed: Callable, run: Run) -> None:
    run = dataclasses.replace(run, learning_rate="range_test")
    interrupted_run(run, tmp_path / "run.pt", 3)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [3, 4])


def test_fewer_epochs_are_the_first_ones(undisturbed: Callable) -> None:
    for fields in ({}, {"learning_rate": "range_test"}):
        short, long = (json.loads(undisturbed(make_run(epochs=epochs, **fields))) for epochs in (2, 4))
        assert short[-1] == {name: values[:2] for name, values in long[-1].items()}
        assert short[-2].get("range_test_losses") == long[-2].get("range_test_losses")


# -- estimators -----------------------------------------------------------------------------------


def statistic_run(target: str, name: str, **options: object) -> Run:
    spec = task("pixel_statistic", statistic=target, validation_size=200)
    return Run(dataset=DIGITS, task=spec, model=model(name, **options))


@pytest.mark.parametrize("statistic", ["mean", "median", "std"])
@pytest.mark.parametrize("fit_on", ["train", "test"])
def test_constant_predictors(statistic: str, fit_on: str) -> None:
    splits = build_task(task("pixel_statistic", statistic=statistic, validation_size=200)).splits(
        loading.load(DIGITS), 0
    )
    targets = splits["test"].targets.double().numpy()
    seen = splits[fit_on].targets.double().numpy()
    for constant, value in (("zero", 0.0), ("mean", np.mean(seen)), ("median", np.median(seen))):
        metrics = train(statistic_run(statistic, "constant", statistic=constant, fit_on=fit_on)).metrics
        assert metrics["test_mse"] == pytest.approx(np.mean((targets - value) ** 2), rel=1e-12)
        if constant == "mean" and fit_on == "test":
            assert metrics["test_mse"] == pytest.approx(targets.var(), rel=1e-12)
        sizes = {f"{split}_size": len(content) for split, content in splits.items()}
        assert {key: metrics[key] for key in sizes} == sizes


def test_linear_regression_solves_the_mean() -> None:
    assert train(statistic_run("mean", "linear_regression")).metrics["test_mse"] < 1e-8
    assert train(statistic_run("std", "linear_regression")).metrics["test_mse"] > 1e-6


@pytest.mark.parametrize(
    ("name", "options"), [("nearest_neighbours", {"neighbours": 3}), ("gradient_boosting", {"trees": 3})]
)
def test_other_estimators_beat_the_constant_and_repeat(name: str, options: dict) -> None:
    run = statistic_run("std", name, **options)
    result = train(run)
    assert result.metrics["test_mse"] < train(statistic_run("std", "constant")).metrics["test_mse"]
    assert numbers(train(run)) == numbers(result)
    assert result.provenance["path"] == "estimator" and result.history == {}
