"""Faults of the machine: kills, full and read-only disks, damaged files, two drivers; `-m soak` goes on for longer."""

import os
import random
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_trainer
import psutil
import pytest
import torch
from fake_trainer import TRAINER, Drivers, calls, claim_files, make_run, result_of, stored_runs

from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.runs import files
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import Store, read_records, record_line, sealed
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training.checkpoints import load_state, save_state
from deepnets_utils.training.schedules import schedule
from deepnets_utils.training.train import train

SECONDS = 0.03  # of a run


def records(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.folder / "records").iterdir() if path.name[0] != "."}


def assert_undisturbed(store: Store, drivers: Drivers, count: int, kills: int) -> None:
    """A last driver does the rest; then all is as if nothing had happened."""
    last = drivers.start(count, SECONDS, workers=2)
    output, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    runs = [make_run(seed, seconds=SECONDS) for seed in range(count)]
    assert output.split() == [run.digest for run in runs]
    undisturbed = Store(store.folder.parent / "undisturbed", published=None)
    sweep(runs, store=undisturbed, trainer=TRAINER)
    assert records(store) == records(undisturbed), "no record lost, none damaged"
    assert not any(call["stored"] for call in calls(store.folder)), "nothing stored was trained again"
    assert len(calls(store.folder)) <= count + 2 * kills, "a kill costs what was in flight"
    assert claim_files(store) == []
    drivers.assert_none_left()


@pytest.mark.parametrize(("count", "kills"), [(24, 4), pytest.param(400, 50, marks=pytest.mark.soak)])
def test_killed_drivers_lose_nothing_and_leave_no_worker(
    store: Store, drivers: Drivers, count: int, kills: int
) -> None:
    for number in range(kills):
        driver = drivers.start(count, SECONDS, workers=2)
        if number % 2:  # at any moment of its start, or when runs are under way
            drivers.wait_for_calls(min(count, len(calls(store.folder)) + random.randrange(1, 6)))
        time.sleep(random.uniform(0, 0.05 if number % 2 else 1.0))
        before = stored_runs(store)
        driver.kill()
        drivers.assert_none_left()
        assert before <= stored_runs(store)
    assert_undisturbed(store, drivers, count, kills)


@pytest.mark.parametrize(("count", "kills"), [(24, 2), pytest.param(400, 30, marks=pytest.mark.soak)])
def test_killed_workers_cost_their_run_and_no_other(store: Store, drivers: Drivers, count: int, kills: int) -> None:
    driver = drivers.start(count, SECONDS, workers=2)
    for _ in range(kills):
        drivers.wait_for_calls(min(count, len(calls(store.folder)) + random.randrange(3, 6)))
        workers = [process for process in drivers.alive() if "spawn_main" in " ".join(process.cmdline())]
        if workers:
            random.choice(workers).kill()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 0, errors
    assert_undisturbed(store, drivers, count, kills)


def test_what_a_killed_process_left_half_written_is_removed_after_an_hour(store: Store) -> None:
    left, recent = (store.folder / "checkpoints" / f".{name}.pt.77.partial" for name in ("left", "recent"))
    left.parent.mkdir(parents=True)
    for part in (left, recent):
        part.write_text("half")
    os.utime(left, (0, time.time() - 3700))
    sweep([make_run(0)], store=store, trainer=TRAINER)
    assert recent.exists() and not left.exists()


def test_two_commands_train_one_list_each_run_once(tmp_path: Path) -> None:
    runs = [make_run(seed, seconds=0.05) for seed in range(12)]
    (tmp_path / "list.jsonl").write_text("".join(f"{canonical(run.to_json())}\n" for run in runs))
    code = f"""
import os, pathlib, time
from deepnets_utils import cli
from deepnets_utils.data import loading
from deepnets_utils.sweeps import sweep
sweep.sweep.__kwdefaults__["trainer"] = {TRAINER!r}
folder = pathlib.Path({str(tmp_path)!r})
(folder / f"ready-{{os.getpid()}}").touch()
for _ in range(3000):  # the runs are over in the time that a process may start later than the other
    if len(list(folder.glob("ready-*"))) == 2:
        break
    time.sleep(0.01)
cli.main()
"""
    arguments = ["train", str(tmp_path / "list.jsonl"), "--device", "cpu", "--workers", "1"]
    path = os.pathsep.join([str(Path(fake_trainer.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"DEEPNETS_OUTPUT": str(tmp_path), "PYTHONPATH": path}
    pair = [
        subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    trained = calls(tmp_path / "runs")
    assert Counter(call["digest"] for call in trained) == {run.digest: 1 for run in runs}
    assert len({call["pid"] for call in trained}) == 2
    assert records(Store(tmp_path / "runs")) == {f"{run.digest}.json": record_line(result_of(run)) for run in runs}


# -- SIGTERM --------------------------------------------------------------------------------------


EPOCHS = 500  # of a training that takes a second at least


def long_run(seed: int, epochs: int = EPOCHS) -> Run:
    spec = task("pixel_statistic", train_size=90, validation_size=30)
    fields = {"learning_rate": 1e-3, "batch_size": 18, "schedule": schedule("steps")}
    return Run(dataset="digits_28", task=spec, model=model("MLPRegressor"), epochs=epochs, seed=seed, **fields)


@pytest.fixture(scope="module")
def undisturbed() -> Result:
    return train(long_run(1))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "whole_group"), [(1, False), (2, False), (2, True)])
def test_sigterm_saves_checkpoints_and_the_next_call_goes_on_to_the_bit(
    tmp_path: Path, undisturbed: Result, workers: int, whole_group: bool
) -> None:
    store, runs = Store(tmp_path / "runs", published=None), [long_run(0, epochs=1), *map(long_run, range(1, 4))]
    (tmp_path / "list.jsonl").write_text("".join(f"{canonical(run.to_json())}\n" for run in runs))
    command = [sys.executable, "-c", "from deepnets_utils.cli import main; main()", "train"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "list.jsonl"), "--device", "cpu", "--workers", str(workers)],
        env=os.environ | {"DEEPNETS_OUTPUT": str(tmp_path)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 180  # three processes that import torch on a busy machine
    at_work = [store.folder / "claims" / f"{run.digest}.lock" for run in runs[1 : workers + 1]]
    while store.get(runs[0]) is None or not all(claim.exists() for claim in at_work):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143, said
    assert said.count("SIGTERM: what is training saves a checkpoint at the end of its epoch, and ends") == 1
    assert "1 of 4 runs stored" in said and "ended by SIGTERM: what was finished is stored" in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    saved = [store.checkpoint(run).exists() for run in runs[1:]]
    # On a busy machine a worker may not have begun, and then the signal of the group ends it.
    assert saved == [True, workers == 2, False] or (whole_group and not saved[2])
    assert {result.run for result in store.results()} == {runs[0]}
    epochs: list[int] = []
    resumed = train(runs[1], checkpoint=store.checkpoint(runs[1]), on_epoch=lambda epoch, _: epochs.append(epoch))
    assert (1 < epochs[0]) == saved[0] and epochs[-1] == EPOCHS, "it went on from where it was"
    assert (resumed.history, resumed.metrics) == (undisturbed.history, undisturbed.metrics)
    assert all(store.claim(run) is not None for run in runs[1:])


def test_sigterm_ends_a_sweep_of_this_process_and_the_next_one_is_not_told(store: Store) -> None:
    runs = [long_run(1, epochs=30), long_run(2, epochs=2)]

    def train_and_signal(run: Run, **options: Any) -> Result:
        os.kill(os.getpid(), signal.SIGTERM)
        return train(run, **options)

    signalling = types.ModuleType("signalling")
    signalling.train = train_and_signal
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "signalling", signalling)
        with pytest.raises(SystemExit) as ended:
            sweep(runs, store=store, trainer="signalling:train")
    assert ended.value.code == 143 and store.checkpoint(runs[0]).exists() and not list(store.results())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = sweep(runs, store=store)
    assert [result.history for result in resumed] == [train(run).history for run in runs]


# -- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_the_sweep_and_with_room_it_goes_on(store: Store, disk: Path, workers: int) -> None:
    store.folder.mkdir()
    (store.folder / "records").symlink_to(disk)  # the fake trainer's own notes need room, too
    filler = disk / "filler"
    filler.write_bytes(bytes(380 * 1024))
    runs = [make_run(seed) for seed in range(30)]
    with pytest.raises(OSError, match=rf"No space left on device: '{store.folder}/records/\w+.json'"):
        sweep(runs, store=store, workers=workers, trainer=TRAINER)
    filler.unlink()
    before = records(store)
    assert 0 < len(before) < 30
    assert before.items() <= {f"{run.digest}.json": record_line(result_of(run)) for run in runs}.items()
    assert [result.run for result in sweep(runs, store=store, workers=workers, trainer=TRAINER)] == runs
    assert len(records(store)) == 30 and claim_files(store) == []


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_file_that_finds_no_room_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    file = tmp_path / "runs" / "a.pt"
    save_state(file, {"digest": "a", "network": torch.zeros(3)})
    before = file.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if stage == "write":
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.pt'"):
            files.write_whole(file, full)
    else:
        monkeypatch.setattr(os, stage, full)
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.pt'"):
            save_state(file, {"digest": "a", "network": torch.ones(3)})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_a_read_only_store_shows_what_it_has_and_says_what_it_cannot(disk: Path) -> None:
    store, runs = Store(disk, published=None), [make_run(0), make_run(1)]
    sweep(runs[:1], store=store, trainer=TRAINER)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert [result.run for result in sweep(runs[:1], store=store, trainer=TRAINER)] == runs[:1]
    with pytest.raises(OSError, match=rf"Read-only file system: '{disk}.*'"):
        sweep(runs, store=store, trainer=TRAINER)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert len(sweep(runs, store=store, trainer=TRAINER)) == len(calls(disk)) == 2


# -- damaged and hostile files --------------------------------------------------------------------


def test_a_record_cut_anywhere_is_no_record(tmp_path: Path) -> None:
    whole = record_line(result_of(make_run(0)))
    for length in range(1, len(whole) - 1, 3):
        (tmp_path / "a.jsonl").write_bytes(whole[:length])
        with pytest.warns(UserWarning, match="a.jsonl, line 1 is not used"):
            assert not list(read_records(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("change", ["cut", "flipped"])
def test_weights_and_checkpoints_cut_or_flipped_anywhere_are_noticed(tmp_path: Path, change: str) -> None:
    file = tmp_path / "a.pt"
    sha256 = save_state(file, {"digest": "a", "network": {"weight": torch.arange(200.0)}})
    whole = file.read_bytes()
    assert load_state(file, "a")[1] == sha256
    for position in (*range(40), *random.sample(range(len(whole)), 200), len(whole) - 1):
        bad = whole[:position] if change == "cut" else bytearray(whole)
        if change == "flipped":
            bad[position] ^= 1 << random.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(ValueError, match="checksum"):
            load_state(file, "a")


HOSTILE = "../../escaped"


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"digest": HOSTILE},
        lambda record: record | {"run": record["run"] | {"dataset": HOSTILE}},
        lambda record: record | {"run": record["run"] | {"__reduce__": "os.system"}},
        lambda record: record | {"__class__": "posix.system"},
    ],
)
@pytest.mark.filterwarnings("ignore:record .* is not used")
def test_a_hostile_record_leads_nowhere(store: Store, change: Callable[[dict], dict]) -> None:
    record = change(result_of(make_run(0)).to_json())
    file = store.folder / "records" / f"{make_run(0).digest}.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(sealed(canonical(record).encode()))
    results = sweep([make_run(0)], store=store, trainer=TRAINER)
    assert [result.run for result in results] == [make_run(0)]
    assert not [path for path in store.folder.parent.rglob("*") if "escaped" in path.name]


def test_a_pickle_in_the_place_of_a_record_is_not_executed(store: Store, tmp_path: Path) -> None:
    file = store.folder / "records" / f"{make_run(0).digest}.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "executed").encode() + b"\ntR.")
    with pytest.warns(UserWarning, match="is not used"):
        assert store.get(make_run(0)) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [HOSTILE, "/etc/passwd", "a/b", "..", "\0"])
def test_names_of_models_and_tasks_never_become_paths(store: Store, name: str) -> None:
    run = Run.from_json(make_run(0).to_json() | {"model": {"name": name, "version": 1, "options": {}}})
    for path in (store.checkpoint(run), store.weights(run)):
        assert path.resolve().is_relative_to(store.folder.resolve()) and path.stem == run.digest
