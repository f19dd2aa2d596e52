"""Runs that train as one network in a sweep: who is in a group, and what becomes of one that fails."""

import sys
import threading
import time
import types
from collections.abc import Hashable
from pathlib import Path

import fake_trainer
import pytest
import torch

from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.sweep import sweep


class Grouping(types.ModuleType):
    """A module with a trainer without torch: runs with behaviour "fine" train together, their seeds are recorded."""

    def __init__(self, store: Store) -> None:
        super().__init__("grouping")
        self.store, self.groups, self.lonely, self.checkpoints = store, [], [], []
        self.room, self.failing, self.broken, self.size = 10**6, set(), set(), 3

    def group_key(self, run: Run) -> Hashable | None:
        return run.model if run.model.name == "fine" else None

    def group_size(self, run: Run) -> int:
        return self.size

    def train_group(self, runs: list[Run], *, device: str, checkpoint: Path, **teacher: Path) -> list[Result]:
        self.checkpoints.append(checkpoint)
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

    def train(self, run: Run, *, device: str, checkpoint: Path, **files: Path) -> Result:
        self.lonely.append(run.seed)
        if "weights" in files:
            fake_trainer.write_weights(run, files["weights"])
        if run.seed in self.broken:
            raise RuntimeError("made to fail alone")
        return fake_trainer.result_of(run)


@pytest.fixture
def grouping(store: Store, monkeypatch: pytest.MonkeyPatch) -> Grouping:
    module = Grouping(store)
    monkeypatch.setitem(sys.modules, "grouping", module)
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
    store: Store, grouping: Grouping, capfd: pytest.CaptureFixture, room: int
) -> None:
    grouping.size, grouping.room, runs = 64, room, [fake_trainer.make_run(seed) for seed in range(8)]
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


def test_a_teacher_trains_alone_and_its_students_together_after_it(store: Store, grouping: Grouping) -> None:
    teacher = fake_trainer.make_run(20)
    students = [fake_trainer.make_run(seed, teacher=teacher) for seed in range(3)]
    results = sweep([*students, teacher], store=store, device="cuda", trainer="grouping:train")
    assert [result.run for result in results] == [*students, teacher]
    assert grouping.lonely == [20] and grouping.groups == [[0, 1, 2]]


def test_each_group_has_a_checkpoint_that_goes_when_it_is_stored(store: Store, grouping: Grouping) -> None:
    runs = [fake_trainer.make_run(seed) for seed in range(4)]
    for name in {store.stack_checkpoint(runs[:3]), store.stack_checkpoint(runs[3:])}:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
    sweep(runs, store=store, device="cuda", trainer="grouping:train")
    assert grouping.checkpoints == [store.stack_checkpoint(runs[:3]), store.stack_checkpoint(runs[3:])]
    assert len(set(grouping.checkpoints)) == 2 and not any(path.exists() for path in grouping.checkpoints)
