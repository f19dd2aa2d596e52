"""What a sweep is said to cost before it trains."""

import dataclasses
import math

import pytest
from fake_trainer import TRAINER, calls, make_run, result_of

from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.runs.sizes import DEFAULT_SIZES, images_seen
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import estimates as estimates_module
from deepnets_utils.sweeps.estimates import basis, estimate, estimates
from deepnets_utils.sweeps.sweep import SweepTooLong, sweep


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
