"""Sweeps on a Dask cluster: a real scheduler and worker processes on loopback. Needs the extra `cluster`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_trainer import TRAINER, calls, make_run, result_of

from deepnets_utils import cli
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.run import Run, canonical
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import workers
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.sweeps.workers import DASK, UnfitWorker, call_group, engine, resolve, use_cluster, versions

TESTS = Path(__file__).parents[1]


class Cluster:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        file = folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
        )
        from distributed import Client

        self.client = Client(scheduler_file=str(file), timeout=30, set_as_default=False)
        self.address = self.client.scheduler.address

    def _start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen:
        log = open(self.folder / f"{module}.log", "a")
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        with closing(log):
            return subprocess.Popen(
                command, env=self.environment | environment, cwd=self.folder, stdout=log, stderr=log
            )

    def add(self, *arguments: str, threads: int = 1, **environment: str) -> None:
        """Start a worker and wait until the scheduler knows it."""
        options = ["--no-nanny", "--no-dashboard", "--nthreads", str(threads), *arguments]
        options += ["--host", "127.0.0.1", "--local-directory", str(self.folder)]
        self.workers.append(self._start("dask_worker", self.address, *options, **environment))
        self.client.wait_for_workers(len(self.workers), timeout=30)

    def close(self) -> None:
        self.client.close()
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    folder = tmp_path / "dask"
    folder.mkdir()
    with closing(Cluster(folder)) as cluster:
        monkeypatch.setenv(DASK, cluster.address)
        yield cluster
        if workers._client.cache_info().currsize:
            workers._client(cluster.address).close()
        workers._client.cache_clear()


@pytest.mark.slow
def test_two_workers_give_what_this_process_gives(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    cluster.add()
    cluster.add(threads=2)
    spec = task("digit_pairs", auxiliary=1.0, train_size=60, test_size=50)
    net = model("LeNet5", dropout=0.25)
    runs = [
        Run(dataset="digits_28", task=spec, model=net, learning_rate=5e-3, epochs=2, batch_size=20, seed=seed)
        for seed in range(6)
    ]
    options = engine("cpu", 1)
    assert options["workers"] == 2, "one run at a time in each process"
    there = sweep(runs, store=store, **options)
    here = sweep(runs, store=Store(tmp_path / "here", published=None))
    records = [[result.to_json() for result in results] for results in (there, here)]
    for record in (*records[0], *records[1]):
        for fact in ("wall_seconds", "cpu_seconds", "finished_at"):
            record["provenance"].pop(fact)
    assert records[0] == records[1]
    assert not list((store.folder / "claims").iterdir())


def test_a_worker_killed_in_the_middle_of_a_run_costs_a_retry(cluster: Cluster, store: Store) -> None:
    cluster.add()
    cluster.add()
    runs = [make_run(0, "dies_once"), *(make_run(seed, seconds=0.1) for seed in range(1, 8))]
    results = sweep(runs, store=store, trainer=TRAINER, **engine("cpu", 1))
    assert [result.metrics for result in results] == [result_of(run).metrics for run in runs]
    assert sum(process.poll() is not None for process in cluster.workers) == 1
    trained = [call["digest"] for call in calls(store.folder)]
    assert trained.count(runs[0].digest) == 2 and set(trained) == {run.digest for run in runs}


def test_a_run_that_kills_every_worker_is_given_up(cluster: Cluster, store: Store) -> None:
    for _ in range(5):
        cluster.add()
    with pytest.raises(TrainingFailed, match="(?s)dies.*4 different workers, but all those workers died"):
        sweep([make_run(0, "dies"), make_run(1)], store=store, trainer=TRAINER, **engine("cpu", 1))
    assert store.get(make_run(1)) is not None


def test_a_worker_without_the_data_set_is_named_and_ends_the_sweep(cluster: Cluster, store: Store) -> None:
    cluster.add(DEEPNETS_DATA=str(cluster.folder))
    net, spec = model("constant", statistic="mean"), task("pixel_statistic", statistic="mean", validation_size=0)
    run = Run(dataset="mnist", task=spec, model=net)
    with pytest.raises(TrainingFailed, match=rf"worker {cluster.workers[0].pid} on .*mnist.*{cluster.folder}"):
        sweep([run], store=store, **engine("cpu", 1))
    assert not list(store.results()) and store.claim(run)


def test_a_worker_with_another_version_is_refused_before_it_trains(cluster: Cluster, store: Store) -> None:
    other = cluster.folder / "deepnets_utils-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: deepnets-utils\nVersion: 9.9\n")
    cluster.environment["PYTHONPATH"] = os.pathsep.join([str(cluster.folder), cluster.environment["PYTHONPATH"]])
    cluster.add()
    with pytest.raises(TrainingFailed, match=r"has \{'deepnets-utils': '9\.9'.* the driver has .*install the same"):
        sweep([make_run(seed) for seed in range(3)], store=store, trainer=TRAINER, **engine("cpu", 1))
    assert calls(store.folder) == []


def test_a_run_on_cuda_goes_where_a_gpu_is_offered(cluster: Cluster, store: Store) -> None:
    cluster.add()
    with pytest.raises(ParameterError, match="no Dask worker offers a GPU.*--resources GPU=1"):
        engine("cuda", 1)
    cluster.add("--resources", "GPU=1")
    options = engine(*resolve("cuda", 0))
    assert (options["device"], options["workers"]) == ("cuda", 1)
    sweep([make_run(seed) for seed in range(6)], store=store, trainer=TRAINER, **options)
    assert {call["pid"] for call in calls(store.folder)} == {cluster.workers[1].pid}


def test_a_scheduler_that_goes_away_ends_the_sweep(cluster: Cluster, store: Store) -> None:
    cluster.add()
    options, run = engine("cpu", 1), make_run(0, seconds=60.0)
    pid = os.fork()  # the sweep waits in this process
    if not pid:
        end = time.monotonic() + 60
        while not calls(store.folder) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(cluster.scheduler.pid, signal.SIGKILL)
        os._exit(0)
    with pytest.raises(TrainingFailed, match="its scheduler was closed or cannot be reached"):
        sweep([run], store=store, trainer=TRAINER, **options)
    os.waitpid(pid, 0)
    assert store.claim(run) is not None


def test_the_command_trains_a_list_on_the_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    cluster.add()
    monkeypatch.delenv(DASK)
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    net, spec = model("constant", statistic="mean"), task("pixel_statistic", statistic="mean", validation_size=0)
    run = Run(dataset="digits_28", task=spec, model=net)
    (tmp_path / "list.jsonl").write_text(canonical(run.to_json()) + "\n")
    arguments = ["deepnets", "train", str(tmp_path / "list.jsonl"), "--dask"]
    monkeypatch.setattr(sys, "argv", [*arguments, "tcp://127.0.0.1:1"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:1'" in capfd.readouterr().err
    monkeypatch.setenv(DASK, "")  # put back after the test what the command sets
    monkeypatch.setattr(sys, "argv", [*arguments, cluster.address])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code and "1 of 1 runs to train on cpu" in capfd.readouterr().err
    assert Store(published=None).get(run).provenance["path"] == "estimator"


# -- what is sent, without a cluster --------------------------------------------------------------


def test_a_worker_that_shares_no_folder_trains_without_checkpoints_but_no_teachers(tmp_path: Path) -> None:
    run = Run(
        dataset="digits_28",
        task=task("pixel_statistic", statistic="mean", validation_size=0),
        model=model("constant", statistic="mean"),
    )
    claim, files = tmp_path / "runs" / "claims" / "x.lock", {"checkpoint": tmp_path / "runs" / "checkpoints" / "x.pt"}
    arguments = versions(), "deepnets_utils.training.train:train", [run], False, "cpu", claim
    assert call_group(*arguments, files)[0].status == "finished"
    assert not (tmp_path / "runs").exists()
    for name in ("weights", "teacher"):
        with pytest.raises(UnfitWorker, match=rf"does not share {tmp_path / 'runs'}: teachers and students need"):
            call_group(*arguments, files | {name: tmp_path / "w.pt"})


@pytest.mark.parametrize("address", ["", "nowhere", "tcp://127.0.0.1:1", "tcp://127.0.0.1:99999", "tcp://[::1"])
def test_an_address_where_nothing_answers_fails_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ParameterError, match="no Dask scheduler answers"):
        use_cluster(address)
    assert DASK not in os.environ


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"\[cluster\]"):
        use_cluster("tcp://127.0.0.1:8786")
    assert engine("cpu", 3) == {"device": "cpu", "workers": 3}, "without a cluster: here"
