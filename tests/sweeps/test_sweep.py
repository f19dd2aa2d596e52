import dataclasses
import itertools
import math
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

from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.runs.sizes import DEFAULT_SIZES, images_seen
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import driver as driver_module
from deepnets_utils.sweeps import estimates as estimates_module
from deepnets_utils.sweeps import workers as workers_module
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.estimates import basis, estimate, estimates
from deepnets_utils.sweeps.sweep import SweepTooLong, in_rounds, sweep


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


def test_a_long_sweep_needs_a_yes(store: Store) -> None:
    store.put(result_of(make_run(0), wall_seconds=3 * 3600.0))
    with pytest.raises(SweepTooLong, match=r"Table I: 1 of 2 runs .* about 3\.0 h.*yes = True"):
        sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER, title="Table I")
    assert calls(store.folder) == []
    assert len(sweep([make_run(0), make_run(1)], store=store, trainer=TRAINER, yes=True)) == 2


def test_a_large_sweep_of_unknown_time_needs_a_yes(store: Store) -> None:
    runs = [dataclasses.replace(make_run(seed), dataset="mnist") for seed in range(400)]  # 24 million images
    with pytest.raises(SweepTooLong, match="nothing alike is stored .*yes = True"):
        sweep(runs, store=store, trainer=TRAINER)
    assert calls(store.folder) == []


def test_workers_shorten_a_long_sweep(store: Store) -> None:
    store.put(result_of(make_run(0), wall_seconds=3600.0))
    runs = [make_run(seed) for seed in range(4)]
    with pytest.raises(SweepTooLong, match="about 3.0 h"):
        sweep(runs, store=store, trainer=TRAINER)
    assert len(sweep(runs, store=store, workers=2, trainer=TRAINER)) == 4


def test_the_estimate_is_the_median_of_comparable_runs(store: Store) -> None:
    assert estimate([make_run(0)], store.results()) != estimate([make_run(0)], store.results()), "NaN: nothing is known"
    for seed, seconds in enumerate((10.0, 20.0, 90.0)):
        store.put(result_of(make_run(seed), wall_seconds=seconds))
    store.put(result_of(make_run(0, "slow"), wall_seconds=100.0))
    assert estimate([make_run(9)], store.results()) == pytest.approx(20)
    assert estimate([make_run(8), make_run(9, "slow")], store.results()) == pytest.approx(120)
    assert estimate([make_run(9, "slow"), make_run(9, "unknown")], store.results()) == pytest.approx(200)


def test_a_price_comes_from_records_of_that_kind_of_device(store: Store) -> None:
    def trained(seed: int) -> Run:
        return dataclasses.replace(make_run(seed), learning_rate=0.1, epochs=1, batch_size=10)

    def put(run: Run, seconds: float, **origin: str) -> None:
        result = result_of(run, wall_seconds=seconds)
        store.put(dataclasses.replace(result, provenance=result.provenance | origin))

    runs = [trained(100 + seed) for seed in range(800)]
    for seed in range(3):
        put(trained(seed), 90.0, device="Intel(R) Xeon(R) Processor @ 2.50GHz")
    assert estimate(runs, store.results()) == pytest.approx(20 * 3600)
    assert math.isnan(estimate(runs, store.results(), "cuda")), "no record of a GPU says how long one takes"
    with pytest.raises(SweepTooLong, match="nothing alike is stored that was trained on cuda, to tell the time"):
        sweep([dataclasses.replace(trained(0), epochs=20_000)], store=store, device="cuda", trainer=TRAINER)
    for seed in range(3, 8):
        put(trained(seed), 1.0, device="a new kind of chip", device_kind="cuda")
    assert estimate(runs, store.results()) == pytest.approx(20 * 3600)
    assert estimate(runs, store.results(), "cuda") == pytest.approx(800)
    put(make_run(0, "fitted"), 7.0, device="AMD EPYC 9654", device_kind="cpu")
    assert estimate([make_run(1, "fitted")], store.results(), "cuda") == pytest.approx(7), "fitted on the CPU anywhere"
    with pytest.raises(SweepTooLong, match=r"800 of 800 runs to train on cpu, 1 at a time, about 20\.0 h"):
        sweep(runs, store=store, trainer=TRAINER)


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0, 99, 100, 5999, 7200, float("nan"))] == [
        "0 s", "99 s", "2 min", "100 min", "2.0 h", "time unknown",
    ]  # fmt: skip


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


# -- teachers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_teacher_is_trained_before_its_students_and_once(
    store: Store, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    grand = make_run(7)
    teacher = make_run(8, teacher=grand)
    students = [make_run(seed, teacher=teacher) for seed in range(3)]
    options = {"store": store, "trainer": TRAINER, "workers": workers}
    results = sweep([*students, make_run(9)], **options)
    assert [result.run for result in results] == [*students, make_run(9)]
    lines = calls(store.folder)
    order = [line["digest"] for line in lines]
    wanted = [run.digest for run in (grand, teacher, *students, make_run(9))]
    assert order == wanted or workers == 2, "a student keeps its place, its teachers come before it"
    assert sorted(order) == sorted(wanted) and order.index(grand.digest) < order.index(teacher.digest)
    assert order.index(teacher.digest) < min(order.index(student.digest) for student in students)
    read = {line["digest"]: line.get("teacher") for line in lines}
    assert [read[student.digest] for student in students] == [teacher.digest] * 3

    sweep([*students, teacher], **options)
    assert len(calls(store.folder)) == 6, "all is stored: teachers are not looked at"
    store.weights(teacher).unlink()
    sweep(students, **options)
    assert len(calls(store.folder)) == 6, "no student is missing, so nobody needs the weights"
    more = sweep([make_run(10, teacher=teacher), teacher], **options)
    assert [result.run for result in more] == [make_run(10, teacher=teacher), teacher]
    said = capsys.readouterr()
    assert "1 of 2 runs to train on cpu" in said.err + said.out
    assert "and 1 teachers whose weights are not here" in said.err + said.out
    again = [line["digest"] for line in calls(store.folder)][6:]
    assert again == [teacher.digest, make_run(10, teacher=teacher).digest], "its weights were lost, its teacher's not"


def test_a_teacher_whose_weights_are_damaged_is_trained_again_first(store: Store) -> None:
    teacher, options = make_run(8), {"store": store, "trainer": TRAINER}
    sweep([make_run(1, teacher=teacher)], **options)
    content = store.weights(teacher).read_bytes()
    for damaged in (b"", content[:-1], content[:40] + b"?" + content[41:]):
        store.weights(teacher).write_bytes(damaged)
        before = len(calls(store.folder))
        with pytest.warns(UserWarning, match="checksum"):
            sweep([make_run(100 + before, teacher=teacher)], **options)
        assert [line["digest"] for line in calls(store.folder)][before] == teacher.digest


def test_students_of_a_teacher_that_fails_are_named(store: Store) -> None:
    teacher = make_run(1, "raises")
    with pytest.raises(TrainingFailed, match="made to fail"):
        sweep([make_run(2, teacher=teacher), make_run(3)], store=store, trainer=TRAINER)
    assert store.get(make_run(3)) is not None


def test_images_of_a_run_count_what_its_task_takes_when_nothing_is_said() -> None:
    for name, (train_size, validation_size) in DEFAULT_SIZES.items():
        made = build_task(task(name))
        assert made.train_size == train_size and getattr(made, "validation_size", 0) == validation_size
    run = Run(
        dataset="mnist", task=task("digit_pairs"), model=Spec("fake", 1), learning_rate=0.1, epochs=3, batch_size=1
    )
    assert images_seen(run) == 3_000 and images_seen(dataclasses.replace(run, task=task("pixel_statistic"))) == 165_000
    two = task("image_classes", classes="3,5", validation_size=2_000)
    assert images_seen(dataclasses.replace(run, dataset="cifar10", task=two)) == 24_000


def test_runs_of_another_training_loop_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"training loop \{7\}, here it is 1: plan them again"):
        sweep([dataclasses.replace(make_run(0), loop_version=7)], store=store, trainer=TRAINER)


def test_an_estimate_counts_training_images_and_says_what_it_does_not_know(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sized(train_size: int, seed: int = 0, model: str = "fine") -> Run:
        task = Spec("fake", 1, (("train_size", train_size),) if train_size else ())
        return dataclasses.replace(make_run(seed, model), task=task)

    store.put(result_of(sized(100), wall_seconds=10.0))
    known, all_images, unknown = estimates([sized(300, 1), sized(0, 1), sized(100, 1, "other")], store.results())
    assert known == pytest.approx(30) and all_images == pytest.approx(139.7)
    assert unknown != unknown
    assert estimate([sized(300, 1), sized(100, 1, "other")], store.results()) == pytest.approx(60)
    operations = {"fine": 50.0, "other": 200.0, "fitted": float("nan")}
    monkeypatch.setattr(estimates_module, "operations", lambda run: operations[run.model.name])
    strange = [sized(100, 1, "other"), sized(100, 1, "fitted")]
    other, fitted = estimates(strange, store.results())
    assert other == pytest.approx(40) and fitted != fitted
    deeper = dataclasses.replace(sized(100, 1), model=Spec("fine", 1, (("layers", 3),)))

    def layers(run: Run) -> float:
        return 50.0 * dict(run.model.options).get("layers", 1)

    monkeypatch.setattr(estimates_module, "operations", layers)
    assert estimates([deeper], store.results())[0] == pytest.approx(30)
    monkeypatch.setattr(estimates_module, "operations", lambda run: float("nan"))
    assert estimates([deeper], store.results())[0] == pytest.approx(10)
    store.put(dataclasses.replace(result_of(sized(100, 2), wall_seconds=0.1), status="diverged", diverged_at_step=1))
    assert estimates([sized(100, 3)], store.results())[0] == pytest.approx(10), "a diverged run took no whole training"
    store.put(result_of(sized(100, 1), wall_seconds=0.0))
    monkeypatch.setattr(estimates_module, "operations", lambda run: 50.0)
    assert estimates([sized(100, 1, "other")], store.results())[0] == pytest.approx(0.001)


def test_a_card_from_which_nothing_is_stored_is_priced_by_operations(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(result_of(make_run(0), wall_seconds=10.0))
    known, other = list(store.results()), make_run(0, "other")

    def operations(run: Run) -> float:
        return 1e13 if run.learning_rate else math.nan

    monkeypatch.setattr(estimates_module, "operations", operations)
    run = dataclasses.replace(other, learning_rate=0.1, epochs=1, batch_size=1)
    assert estimates([run], known, "cuda") == [pytest.approx(2.0)], "at 10 TFLOP/s"
    assert math.isnan(estimates([run], [])[0])
    assert basis(known, "cuda") == "by operations at 10 TFLOP/s, a guess (no run from a card is stored),"
    assert basis(known, "cpu") == "by stored runs on cpu"
