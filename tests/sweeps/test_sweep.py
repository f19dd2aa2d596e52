"""Runs in, results out: what is stored is not trained again, and nothing is lost."""

import dataclasses
import itertools
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from fake_trainer import TRAINER, Drivers, calls, claim_files, make_run, result_of, stored_runs

from deepnets_utils.runs.run import Result
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import driver as driver_module
from deepnets_utils.sweeps import workers as workers_module
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.sweep import in_rounds, sweep


def test_order_is_kept_and_duplicates_are_trained_once(store: Store) -> None:
    runs = [make_run(seed) for seed in (2, 0, 1, 0, 2)]
    results = sweep(iter(runs), store=store, trainer=TRAINER)
    assert [result.run for result in results] == runs
    assert [result.metrics for result in results] == [result_of(run).metrics for run in runs]
    assert Counter(call["digest"] for call in calls(store.folder)) == {make_run(seed).digest: 1 for seed in range(3)}


def test_a_second_call_trains_only_what_is_missing(store: Store) -> None:
    first = sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER)
    again = sweep([make_run(0), make_run(1)], store=store, trainer="no_such_module:train")
    assert again == first
    sweep([make_run(0), make_run(2)], store=store, trainer=TRAINER)
    assert [call["digest"] for call in calls(store.folder)] == [make_run(seed).digest for seed in range(3)]


def test_never_trains_nothing(store: Store, capfd: pytest.CaptureFixture) -> None:
    store.put(result_of(make_run(1)))
    results = sweep([make_run(0), make_run(1)], store=store, train="never", trainer=TRAINER)
    assert results == [None, result_of(make_run(1))]
    assert calls(store.folder) == [] and capfd.readouterr().err == ""


@pytest.mark.parametrize("bad", [{"train": "nevr"}, {"workers": 0}, {"workers": -1}])
def test_impossible_arguments_fail_before_training(store: Store, bad: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        sweep([make_run(0)], store=store, trainer=TRAINER, **bad)
    assert calls(store.folder) == []


def test_an_empty_sweep(store: Store) -> None:
    assert sweep([], store=store, trainer=TRAINER) == []


def test_workers_give_what_this_process_gives(store: Store, tmp_path: Path) -> None:
    runs = [make_run(seed, seconds=0.02) for seed in range(6)]
    here = sweep(runs, store=store, trainer=TRAINER)
    other = Store(tmp_path / "other", published=None)
    there = sweep(runs, store=other, workers=2, trainer=TRAINER)
    assert there == here
    processes = {call["pid"] for call in calls(other.folder)}
    assert len(processes) == 2 and os.getpid() not in processes
    assert {call["pid"] for call in calls(store.folder)} == {os.getpid()}
    assert claim_files(store) == claim_files(other) == []


def test_the_device_reaches_the_trainer(store: Store) -> None:
    sweep([make_run(0)], store=store, trainer=TRAINER, device="cuda")
    assert calls(store.folder)[0]["device"] == "cuda"


def test_what_a_notebook_defines_is_trained_in_this_process(store: Store, capfd: pytest.CaptureFixture) -> None:
    runs = [make_run(seed, seconds=0.02) for seed in range(2)] + [make_run(2, version="source-0123456789ab")]
    results = sweep(runs, store=store, workers=2, trainer=TRAINER)
    assert [result.run for result in results] == runs
    pids = {call["digest"]: call["pid"] for call in calls(store.folder)}
    assert [pids[run.digest] == os.getpid() for run in runs] == [False, False, True]
    assert "1 runs use a model or task of this notebook: trained in this process" in capfd.readouterr().err


def test_a_log_gets_few_lines(store: Store, capfd: pytest.CaptureFixture) -> None:
    store.put(result_of(make_run(0)))
    sweep([make_run(seed) for seed in range(30)], store=store, trainer=TRAINER, title="Table I")
    first, last = capfd.readouterr().err.splitlines()
    assert first.startswith("Table I: 29 of 30 runs to train on cpu, 1 at a time, ")
    assert last.startswith("Table I: 29 of 29 runs stored after ")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_raises_does_not_stop_the_others(store: Store, workers: int) -> None:
    runs = [make_run(0), make_run(1, "raises"), make_run(2), make_run(3, "no_file"), make_run(4)]
    with pytest.raises(TrainingFailed) as failure:
        sweep(runs, store=store, workers=workers, trainer=TRAINER)
    lines = str(failure.value).splitlines()
    assert len(lines) == 2, "an OSError of the trainer is a failed run as any other"
    assert any("raises(" in line and "RuntimeError: made to fail" in line for line in lines)
    assert any("no_file(" in line and "FileNotFoundError: made to miss" in line for line in lines)
    assert str(failure.value.__cause__).startswith("made to"), "the traceback of the run is not lost"
    assert stored_runs(store) == {0, 2, 4}
    with pytest.raises(TrainingFailed):
        sweep(runs, store=store, workers=workers, trainer=TRAINER)
    assert Counter(call["digest"] for call in calls(store.folder))[runs[1].digest] == 2, "a failure is not stored"


@pytest.mark.parametrize(("behaviour", "why"), [("unstorable", "TypeError"), ("other_data", "canonical digits_28")])
def test_a_result_that_cannot_be_stored_is_a_failure(store: Store, behaviour: str, why: str) -> None:
    with pytest.raises(TrainingFailed, match=why):
        sweep([make_run(0, behaviour), make_run(1)], store=store, trainer=TRAINER)
    assert stored_runs(store) == {1}


def test_no_room_for_records_ends_the_sweep_and_the_next_one_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(result: Result) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", put)
        with pytest.raises(OSError, match="No space") as kept:  # noqa: F841  (as a notebook keeps it)
            sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER)
    assert len(calls(store.folder)) == 1, "it does not train what it cannot store"
    assert len(sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER)) == 2


def test_an_interrupted_cell_can_be_run_again(store: Store) -> None:
    runs = [make_run(0), make_run(1, "interrupted_once"), make_run(2)]
    with pytest.raises(KeyboardInterrupt) as kept:  # noqa: F841  (a notebook keeps it, and what it refers to)
        sweep(runs, store=store, trainer=TRAINER)
    assert stored_runs(store) == {0}
    other = store.claim(runs[1])
    assert other is not None, "the claim would be awaited for ever"
    other.release()
    assert [result.run for result in sweep(runs, store=store, trainer=TRAINER)] == runs
    assert Counter(call["digest"] for call in calls(store.folder)) == dict(
        zip((run.digest for run in runs), (1, 2, 1), strict=True)
    )


def test_a_worker_that_dies_once_costs_a_retry(store: Store, capfd: pytest.CaptureFixture) -> None:
    runs = [make_run(0, "dies_once"), *(make_run(seed, seconds=0.05) for seed in range(1, 5))]
    results = sweep(runs, store=store, workers=2, trainer=TRAINER)
    assert [result.run for result in results] == runs
    trained = Counter(call["digest"] for call in calls(store.folder))
    assert trained == {run.digest: 2 if run is runs[0] else 1 for run in runs}, "the neighbour's run goes on"
    assert f"a worker died; its run is tried again: {runs[0]}" in capfd.readouterr().err
    assert claim_files(store) == []


def test_a_run_whose_worker_always_dies_is_given_up(store: Store) -> None:
    runs = [make_run(0, "dies"), *(make_run(seed, seconds=0.05) for seed in range(1, 4))]
    with pytest.raises(TrainingFailed, match="dies.*worker died 3 times") as failure:
        sweep(runs, store=store, workers=2, trainer=TRAINER)
    assert len(str(failure.value).splitlines()) == 1
    assert Counter(call["digest"] for call in calls(store.folder))[runs[0].digest] == 3
    assert stored_runs(store) == {1, 2, 3}


def test_a_worker_that_died_between_sweeps_is_replaced(store: Store) -> None:
    sweep([make_run(seed, seconds=0.05) for seed in range(4)], store=store, workers=2, trainer=TRAINER)
    workers = {call["pid"] for call in calls(store.folder)}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    sweep([make_run(seed, seconds=0.05) for seed in range(8)], store=store, workers=2, trainer=TRAINER)
    assert stored_runs(store) == set(range(8))
    assert not workers & {call["pid"] for call in calls(store.folder)[4:]}


def test_workers_are_used_again(store: Store) -> None:
    for sweeps in (1, 2):
        runs = [make_run(10 * sweeps + seed, seconds=0.05) for seed in range(4)]
        sweep(runs, store=store, workers=2, trainer=TRAINER)
    assert len({call["pid"] for call in calls(store.folder)}) == 2


def test_a_worker_ends_when_it_is_told_to_whatever_it_does(store: Store) -> None:
    store.folder.mkdir()
    worker = workers_module.WorkerProcess()
    run = make_run(0, seconds=60.0)
    arguments = ([run], False, "cpu", Path(store.claim(run).lock_file), {"checkpoint": store.checkpoint(run)})
    worker.submit(workers_module.call_group, workers_module.versions(), TRAINER, *arguments)
    while not calls(store.folder):
        time.sleep(0.01)
    process = psutil.Process(calls(store.folder)[0]["pid"])
    started = time.monotonic()
    worker.shutdown()
    process.wait(timeout=10)
    assert time.monotonic() - started < 10


def test_any_executor_will_do_and_threads_take_turns(store: Store) -> None:
    runs = [make_run(seed, seconds=0.02) for seed in range(8)]
    with ThreadPoolExecutor(8) as executor:
        results = sweep(runs, store=store, executor=executor, trainer=TRAINER)
    assert [result.run for result in results] == runs
    assert claim_files(store) == []


def test_an_executor_is_sent_a_part_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "IN_FLIGHT", 3)
    claimed = []

    class Watched(ThreadPoolExecutor):
        def submit(self, *args: object) -> Future:
            claimed.append(len(claim_files(store)))
            return super().submit(*args)

    with Watched(2) as executor:
        assert len(sweep([make_run(seed) for seed in range(10)], store=store, executor=executor, trainer=TRAINER)) == 10
    assert max(claimed) == 3


def test_an_executor_that_refuses_leaves_nothing_claimed(store: Store) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        sweep([make_run(0), make_run(1)], store=store, executor=executor, trainer=TRAINER)
    assert store.claim(make_run(0)) and store.claim(make_run(1))


def test_what_another_sweep_holds_is_awaited(store: Store, capfd: pytest.CaptureFixture) -> None:
    claim = store.claim(make_run(0))

    def other_sweep() -> None:
        time.sleep(0.3)
        store.put(result_of(make_run(0)))
        store.release(claim)

    thread = threading.Thread(target=other_sweep)
    thread.start()
    results = sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER)
    thread.join()
    assert [result.run.seed for result in results] == [0, 1]
    assert [call["digest"] for call in calls(store.folder)] == [make_run(1).digest]
    assert "waiting for 1 runs that another sweep is training" in capfd.readouterr().err


def test_a_driver_killed_while_its_workers_start_leaves_none(store: Store, drivers: Drivers) -> None:
    driver = drivers.start(4, 60.0, workers=2)
    while len(drivers.alive()) < 2 and driver.poll() is None:
        time.sleep(0.005)
    driver.kill()
    drivers.assert_none_left()


def test_two_sweeps_at_once_do_each_run_once(store: Store, drivers: Drivers) -> None:
    count, seconds = 16, 0.04
    pair = [drivers.start(count, seconds, workers=2) for _ in range(2)]
    outputs = [driver.communicate(timeout=30) for driver in pair]
    expected = [make_run(seed, seconds=seconds).digest for seed in range(count)]
    for output, errors in outputs:
        assert output.split() == expected, errors
    assert Counter(call["digest"] for call in calls(store.folder)) == dict.fromkeys(expected, 1)
    assert claim_files(store) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_once_finishes_what_is_training_and_says_what_is_stored(
    store: Store, drivers: Drivers, workers: int
) -> None:
    driver = drivers.start(8, 2.0, workers=workers)
    drivers.wait_for_calls(workers)
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode not in (0, None) and "KeyboardInterrupt" in errors
    assert "interrupted: what is training is finished" in errors and f"{workers} of 8 runs stored" in errors
    assert len(stored_runs(store)) == len(calls(store.folder)) == workers
    assert claim_files(store) == []
    drivers.assert_none_left()


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_twice_keeps_what_is_stored_and_ends_at_once(store: Store, drivers: Drivers, workers: int) -> None:
    store.put(result_of(make_run(0, seconds=60.0)))
    driver = drivers.start(4, 60.0, workers=workers)
    drivers.wait_for_calls(workers)
    os.killpg(driver.pid, signal.SIGINT)
    # Two signals before the first is handled are one.
    assert any("interrupted: what is training is finished" in line for line in driver.stderr)
    assert driver.poll() is None
    os.killpg(driver.pid, signal.SIGINT)
    started = time.monotonic()
    _, errors = driver.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert driver.returncode not in (0, None) and "KeyboardInterrupt" in errors and "0 of 3 runs stored" in errors
    drivers.assert_none_left()
    assert stored_runs(store) == {0}


def test_runs_come_in_rounds_over_all_cells() -> None:
    cells = [
        [make_run(seed, name) for seed in range(count)] for name, count in (("fine", 3), ("raises", 2), ("dies", 1))
    ]
    ordered = in_rounds([*itertools.chain(*cells), cells[0][0]])
    names = [(run.model.name, run.seed) for run in ordered]
    assert names == [("fine", 0), ("raises", 0), ("dies", 0), ("fine", 1), ("raises", 1), ("fine", 2)]


def test_runs_of_another_training_loop_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"training loop \{7\}, here it is 1: plan them again"):
        sweep([dataclasses.replace(make_run(0), loop_version=7)], store=store, trainer=TRAINER)
