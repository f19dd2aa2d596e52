"""One run, start to end: the same bits everywhere, what changes them, where the result says it came from."""

import dataclasses
import hashlib
import json
import multiprocessing
import platform
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from short_trainings import DIGITS, Interrupted, interrupt_at, make_run, numbers

from deepnets_utils.data import loading
from deepnets_utils.data.randomness import derived_seed
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training.machine import Clock, numerics, provenance
from deepnets_utils.training.schedules import schedule
from deepnets_utils.training.train import train


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


def test_fewer_epochs_are_the_first_ones(undisturbed: Callable) -> None:
    for fields in ({}, {"learning_rate": "range_test"}):
        short, long = (json.loads(undisturbed(make_run(epochs=epochs, **fields))) for epochs in (2, 4))
        assert short[-1] == {name: values[:2] for name, values in long[-1].items()}
        assert short[-2].get("range_test_losses") == long[-2].get("range_test_losses")
