"""The command line: errors before anything runs, exit codes, and what each command prints."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from deepnets_utils import cli
from deepnets_utils.data import loading
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.models.cost import training_operations
from deepnets_utils.runs import paths, store
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError, ParameterError
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Result, Run, Spec, canonical
from deepnets_utils.runs.store import Store, read_records
from deepnets_utils.sweeps import workers

STANDARD = """profile: str = "quick"  # {smoke, quick, overnight, paper} how large
train: str = "missing"  # {missing, never} what to train
data: str = "auto"  # {auto, real, embedded} which data
device: str = "auto"  # {auto, cpu, cuda} where
workers: int = 0  # runs at a time
yes: bool = False  # however long
"""
FINISH = """import json, os, pathlib
folder = pathlib.Path(os.environ["DEEPNETS_OUTPUT"], "reports", profile)
(folder / f"{study}.runs.jsonl").write_text("")
runs = dict(total=0, missing=0, trained=0, diverged=0, cpu_seconds=0, wall_seconds=0)
empty = dict(parameters={}, settings={}, data=[], tables=[], figures=[], claims=[], findings="", device="cpu")
empty |= dict(label="", banner="")
text = dict(title=study, profile=profile, token=os.environ["DEEPNETS_REPORT_TOKEN"], finished_at="2025-01-01T00:00:00")
(folder / f"{study}.json").write_text(json.dumps(empty | text | dict(runs=runs)))
"""
RUN = Run(dataset="digits_28", task=Spec("t", 1), model=Spec("m", 1), learning_rate=0.1, epochs=2, batch_size=10)

Deepnets = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two studies: the first raises, the second takes seeds and rates."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "records").mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(Store.__init__, "__defaults__", (None, tmp_path / "records"))
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    studies = {
        "01_raising": (STANDARD, "raise ValueError('no such thing')"),
        "02_good": (
            STANDARD + "seeds: int = 0  # runs a cell\nrates: list = []  # the grid",
            "study = '02_good'\n" + FINISH,
        ),
    }
    for study, (parameters, source) in studies.items():
        cell = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        cells = [new_markdown_cell(f"# About {study}"), cell, new_code_cell(source)]
        write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{study}.ipynb")
    return tmp_path


@pytest.fixture
def deepnets(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Iterator[Deepnets]:
    """Run a command line in this process; return the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepnets", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code or 0, *capfd.readouterr())

    return run


def make_list(folder: Path, study: str, runs: list[Run]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{study}.runs.jsonl"
    file.write_text("".join(f"{canonical(run.to_json())}\n" for run in runs))
    return file


def finish(run: Run, **provenance: object) -> Result:
    facts = {"data_fingerprint": CANONICAL[run.dataset], "wall_seconds": 40.0} | provenance
    return Result(run=run, status="finished", metrics={"test_error": 1.0}, provenance=facts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("report 7", "no study is called '7'; there are 01_raising, 02_good"),
        ("report 2 --profile fast", "02_good: profile must be one of smoke, quick, overnight, paper; it is 'fast'"),
        ("report 2 -p profile=fast", "profile must be one of smoke, quick, overnight, paper; it is 'fast'"),
        ("report 2 --profile paper --train nevr", "train must be one of missing, never; it is 'nevr'"),
        ("report 2 --device gpu", "device must be one of auto, cpu, cuda; it is 'gpu'"),
        ("report 2 --workers -1", "workers must be from 0 to 1000; it is -1"),
        (
            "report 2 -p sedes=3",
            "no parameter is called 'sedes' (did you mean seeds?); there are profile, train, data,",
        ),
        ("report -p seeds=3", "01_raising: no parameter is called 'seeds'; there are profile, train, data, device"),
        ("report -p seeds=3", "yes (02_good has it: name that study)"),
        ("report 2 -p seeds=three", "seeds must be int, not 'three'"),
        ("report 2 -p seeds=1.5", "seeds must be int, not 1.5 (float)"),
        ("report 2 -p seeds", "-p takes NAME=VALUE, not 'seeds'"),
        ("report 2 --profile paper --data embedded", "data must not be embedded in profile paper"),
        ("plan 2 --profile fast", "profile must be one of smoke, quick, overnight, paper"),
        ("plan 3", "no study is called '3'"),
        ("train nowhere.jsonl", "nowhere.jsonl cannot be read (No such file or directory)"),
        ("train {list} --device gpu", "device must be one of auto, cpu, cuda; it is 'gpu'"),
        ("train {bad}", "02_good.runs.jsonl, line 2 is not a run"),
        ("train {older}", "runs of training loop {7}, here it is 1: plan them again"),
        ("list 3", "no study is called '3'"),
        ("data imagenet", "no data set is called 'imagenet'; there are mnist, fashion_mnist, cifar10"),
        ("publish --profile fast", "profile must be one of smoke, quick, overnight, paper; it is 'fast'"),
        ("status --profile fast", "no profile is called 'fast'; there are overnight, paper, quick, smoke"),
        ("publish 2", "02_good.runs.jsonl cannot be read"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_before_anything_runs(
    arguments: str, message: str, deepnets: Deepnets, project: Path
) -> None:
    good = make_list(project / "lists", "01_raising", [RUN])
    bad = make_list(project / "lists", "02_good", [RUN])
    bad.write_text(bad.read_text() + '{"dataset": "mnist"}\n')
    older = make_list(project / "lists", "older", [replace(RUN, loop_version=7)])
    code, out, err = deepnets(*arguments.format(list=good, bad=bad, older=older).split())
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (project / "reports").exists() and not (project / "runs").exists()


def test_a_failing_notebook_gives_exit_code_1_and_the_others_run(deepnets: Deepnets, project: Path) -> None:
    code, out, err = deepnets("report", "--profile", "smoke", "-p", "train=never")
    folder = project / "reports" / "smoke"
    assert code == 1 and out == f"{folder / 'index.html'}\n"
    assert "01_raising, smoke: failed: ValueError: no such thing" in err and "02_good, smoke: ok" in err
    assert (folder / "02_good.html").exists() and not (folder / "01_raising.html").exists()
    assert "no such thing" in (folder / "index.html").read_text()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, project: Path) -> list[tuple]:
    """What reports are asked for, none of which is made."""
    from deepnets_utils.reports import reporting

    calls: list[tuple] = []

    def make_report(study: str, given: dict, *, hide_code: bool) -> reporting.Outcome:
        calls.append((study, given, hide_code))
        folder = project / "reports" / given["profile"]
        make_list(folder, study, [RUN, replace(RUN, seed=1)])
        return reporting.Outcome(study, folder, "")

    monkeypatch.setattr(reporting, "make_report", make_report)
    return calls


def test_without_a_profile_quick_is_trained_and_the_large_ones_are_shown(deepnets: Deepnets, made: list[tuple]) -> None:
    code, out, _ = deepnets("report", "2", "-p", "seeds=3", "-p", "rates=0.1, 1e-3", "--workers", "2", "--hide-code")
    given = {"workers": 2, "seeds": 3, "rates": [0.1, 0.001]}
    quick = ("02_good", given | {"profile": "quick"}, True)
    shown = [("02_good", given | {"profile": name, "train": "never"}, True) for name in ("overnight", "paper")]
    assert code == 0 and made == [quick, *shown]
    pages = [["quick", "index.html"], ["overnight", "index.html"], ["paper", "index.html"]]
    assert [line.split("/")[-2:] for line in out.split()] == pages


def test_embedded_data_mean_no_page_of_the_large_profiles(deepnets: Deepnets, made: list[tuple]) -> None:
    deepnets("report", "2", "--data", "embedded")
    assert made == [("02_good", {"data": "embedded", "profile": "quick"}, False)]


def test_train_says_once_that_the_data_are_missing(
    deepnets: Deepnets, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPNETS_DATA", str(tmp_path / "nothing"))
    loading.load.cache_clear()  # what another test has read
    runs = [replace(RUN, dataset="mnist", seed=seed) for seed in range(3)]
    code, _, err = deepnets("train", str(make_list(project / "lists", "02_good", runs)), "--device", "cpu")
    assert code == 1 and err.count("mnist") and len(err.splitlines()) == 1
    for run in runs:
        Store().put(finish(run))
    assert deepnets("train", str(project / "lists" / "02_good.runs.jsonl"), "--device", "cpu")[0] == 0


@pytest.mark.parametrize("profile, yes", [("paper", ()), ("paper", ("--yes",)), ("overnight", ())])
@pytest.mark.parametrize("option", ["--profile", "-p"])
def test_a_large_profile_is_planned_trained_in_rounds_and_shown(
    option: str, profile: str, yes: tuple, deepnets: Deepnets, made: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple] = []

    def train(runs: list[Run], *, store: Store, **options: object) -> None:
        trained.append(([run.seed for run in runs], options["yes"], options["workers"]))
        for run in runs:
            store.put(finish(run))

    monkeypatch.setattr(cli, "sweep", train)
    named = profile if option == "--profile" else f"profile={profile}"
    assert deepnets("report", "2", option, named, "--workers", "3", "--device", "cpu", *yes)[0] == 0
    allowed = profile == "overnight" or bool(yes)
    assert trained == [([0, 1], allowed, 3)]
    assert [(study, given.get("train"), given.get("yes")) for study, given, _ in made] == [
        ("02_good", "never", True if yes else None),
        ("02_good", None, allowed),
    ]
    del made[:]
    deepnets("report", "2", option, named, *yes)
    assert len(trained) == 1 and len(made) == 1, "all is stored: the pages of the plan are the pages"


def test_a_large_profile_without_its_data_shows_what_is_stored(
    deepnets: Deepnets, made: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepnets_utils.data import downloading

    for way in ("load", "download"):
        monkeypatch.setattr(downloading, way, lambda name: (_ for _ in ()).throw(DataError("no server answers")))
    code, _, err = deepnets("report", "2", "--profile", "overnight")
    assert code == 0 and "no server answers" in err and "Nothing is trained on" in err
    assert [given.get("train") for _, given, _ in made] == ["never", None], "the page itself says why"


def test_runs_of_a_notebooks_own_network_are_left_to_the_notebook(
    deepnets: Deepnets, made: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "local", property(lambda run: True))
    monkeypatch.setattr(cli, "sweep", lambda runs, **options: trained.extend(runs))
    trained: list[Run] = []
    assert deepnets("report", "2", "--profile", "overnight", "--device", "cpu")[0] == 0
    assert not trained and [given.get("train") for _, given, _ in made] == ["never", None]


def test_a_plan_trains_nothing_and_counts_the_runs(deepnets: Deepnets, made: list[tuple], project: Path) -> None:
    Store().put(finish(RUN))
    code, out, _ = deepnets("plan", "2", "-p", "seeds=3")
    assert code == 0 and made == [("02_good", {"profile": "paper", "seeds": 3, "train": "never"}, False)]
    file = project / "reports" / "paper" / "02_good.runs.jsonl"
    assert out.startswith(f"{file}: 2 runs, 1 missing, about {40 // workers.resolve('cpu', 0)[1]} s on ")


def test_status_counts_what_is_stored_here_or_published(deepnets: Deepnets, project: Path) -> None:
    runs = [replace(RUN, seed=k) for k in range(4)]
    Store().put(finish(runs[0]))
    store.write_records(project / "records" / "02_good.jsonl", [finish(runs[1])])
    make_list(project / "reports" / "quick", "02_good", runs[:2])
    make_list(project / "reports" / "paper", "02_good", runs)
    code, out, _ = deepnets("status")
    assert code == 0
    assert "quick  02_good: 2 runs, 0 missing; reported 20" in out and "paper  02_good: 4 runs, 2 missing, about" in out
    assert "data sets in" in out and "2 finished runs are stored here or published" in out
    assert "quick  not reported or planned here: 01_raising\n" in out
    assert "smoke  not reported or planned here: 01_raising, 02_good\n" in out
    assert "quick" not in deepnets("status", "--profile", "paper")[1]
    of_one = deepnets("status", "2")[1]
    assert "02_good" in of_one and "01_raising" not in of_one
    (project / "reports" / "quick" / "01_raising.runs.jsonl").write_text('{"dataset": "mnist"}')
    code, out, _ = deepnets("status")
    assert code == 0 and "01_raising: cannot be read" in out and "paper  02_good: 4 runs, 2 missing" in out


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", "[1]"])
def test_status_passes_a_damaged_published_line_over(deepnets: Deepnets, project: Path, line: str) -> None:
    file = project / "records" / "02_good.jsonl"
    store.write_records(file, [finish(RUN)])
    file.write_text(file.read_text() + line + "\n")
    make_list(project / "reports" / "quick", "02_good", [RUN])
    with pytest.warns(UserWarning, match="02_good"):
        code, out, _ = deepnets("status")
    assert code == 0 and "1 runs, 0 missing" in out


def test_runs_that_cannot_be_planned_yet_are_named(deepnets: Deepnets, project: Path) -> None:
    file = make_list(project / "reports" / "paper", "02_good", [RUN])
    file.with_name("02_good.json").write_text(json.dumps({"runs": {"later": 10}}))
    Store().put(finish(RUN))
    out = deepnets("status")[1]
    assert "02_good: 1 runs, 0 missing; 10 more when these are stored: then plan again; reported" in out
    assert deepnets("train", str(file), "--device", "cpu")[:2] == (0, "all 1 runs are stored\n")


def test_status_prices_a_network_by_its_operations(deepnets: Deepnets, project: Path) -> None:
    small, large = (
        replace(RUN, task=task("image_classes", channels=3, pad=2), model=model("notation", layers=f"{n}c2-10fc"))
        for n in (2, 32)
    )
    Store().put(finish(small))
    make_list(project / "reports" / "paper", "02_good", [large])
    times = training_operations(large) / training_operations(small)
    seconds = float(finish(small).provenance["wall_seconds"]) * times / workers.resolve("cpu", 0)[1]
    assert f"1 missing, about {duration(seconds)} on" in deepnets("status")[1]


def test_status_says_that_no_record_of_a_cpu_tells_the_time(deepnets: Deepnets, project: Path) -> None:
    Store().put(finish(RUN, device_kind="cuda"))
    make_list(project / "reports" / "paper", "02_good", [RUN, replace(RUN, seed=1)])
    assert (
        "1 missing, nothing alike is stored that was trained on a CPU, to tell the time from" in deepnets("status")[1]
    )


@pytest.mark.parametrize("command", ["report", "plan"])
def test_a_parameter_has_one_value(deepnets: Deepnets, made: list[tuple], command: str) -> None:
    code, _, err = deepnets(command, "2", "--profile", "paper", "-p", "profile=smoke")
    assert (code, made) == (2, []) and "profile is given twice, as paper and as smoke" in err


def test_list_shows_what_the_notebooks_declare(deepnets: Deepnets) -> None:
    code, out, _ = deepnets("list", "2")
    assert code == 0 and out.startswith("02_good  About 02_good\n") and "01_raising" not in out
    assert '    profile: str = "quick" {smoke, quick, overnight, paper}  how large\n' in out
    assert "    seeds: int = 0  runs a cell\n" in out and "    rates: list = []  the grid\n" in out


def test_train_sweeps_the_runs_of_lists(deepnets: Deepnets, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cli, "sweep", lambda runs, **options: calls.append((runs, options)))
    local = replace(RUN, model=Spec("mine", "a1b2"))
    file = make_list(project / "lists", "02_good", [RUN, local])
    code, _, err = deepnets("train", str(file), "--device", "cpu", "--workers", "3", "--yes")
    assert code == 0 and "1 runs use something that only their notebook defines" in err
    [(runs, options)] = calls
    assert runs == [RUN] and options["store"].folder == project / "runs"
    assert (options["device"], options["workers"], options["yes"]) == ("cpu", 3, True)


@pytest.mark.parametrize(
    ("error", "code"), [(cli.SweepTooLong("9 h need --yes"), 2), (cli.TrainingFailed("a run: OSError"), 1)]
)
def test_train_tells_what_went_wrong(
    error: Exception, code: int, deepnets: Deepnets, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(runs: list[Run], **options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "sweep", fail)
    file = make_list(project / "lists", "02_good", [RUN])
    assert deepnets("train", str(file), "--device", "cpu") == (code, "", f"deepnets: {error}\n")


def test_an_interrupt_says_what_stays(deepnets: Deepnets, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(runs: list[Run], **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "sweep", interrupt)
    code, _, err = deepnets("train", str(make_list(project / "lists", "02_good", [RUN])), "--device", "cpu")
    assert code == 130 and "what was finished is stored" in err


def test_publish_collects_finished_runs_and_keeps_those_that_are_published(deepnets: Deepnets, project: Path) -> None:
    runs = [replace(RUN, dataset="mnist", seed=k) for k in range(4)]
    embedded, unplanned = RUN, replace(runs[0], seed=99)
    for run in (runs[0], embedded, unplanned):
        Store().put(finish(run))
    record = store.record_line(finish(runs[1], data_fingerprint="other"))
    (project / "runs" / "records" / f"{runs[1].digest}.json").write_bytes(record)
    file = project / "records" / "02_good.jsonl"
    store.write_records(file, [finish(runs[2]), finish(replace(runs[0], seed=98))])
    make_list(project / "reports" / "paper", "02_good", [*runs, embedded])
    with pytest.warns(UserWarning, match="other data than the canonical mnist"):
        code, out, _ = deepnets("publish")
    assert code == 0 and out == f"{file}: 2 runs published, 2 missing, 1 left out that are planned no more\n"
    assert {result.run for result in read_records(file)} == {runs[0], runs[2]}
    Store().put(finish(runs[2], wall_seconds=50.0))  # trained again here
    deepnets("publish")
    assert {result.provenance["wall_seconds"] for result in read_records(file)} == {40.0}


def test_a_run_of_both_scales_stays_published_when_overnight_plans_it_no_more(
    deepnets: Deepnets, project: Path
) -> None:
    shared, own = (replace(RUN, dataset="mnist", seed=k) for k in range(2))
    files = [project / "records" / name for name in ("02_good.jsonl", "02_good_overnight.jsonl")]
    store.write_records(files[1], [finish(shared), finish(own)])
    make_list(project / "reports" / "paper", "02_good", [shared])
    make_list(project / "reports" / "overnight", "02_good", [own])
    assert deepnets("publish")[0] == deepnets("publish", "--profile", "overnight")[0] == 0
    assert [[result.run for result in read_records(file)] for file in files] == [[shared], [own]]
    make_list(project / "reports" / "paper", "02_good", [shared, own])
    assert deepnets("publish")[0] == deepnets("publish", "--profile", "overnight")[0] == 0
    assert files[0].exists() and not files[1].exists(), "all of them are in paper's file"


def test_data_says_what_it_did_and_fails_if_one_cannot_be_had(
    deepnets: Deepnets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepnets_utils.data import downloading, loading

    def download(name: str) -> None:
        if name == "cifar10":
            raise DataError("cifar10: no server answers")

    states = {"mnist": "ready", "fashion_mnist": "missing", "cifar10": "damaged"}
    monkeypatch.setattr(loading, "check", states.get)
    monkeypatch.setattr(downloading, "download", download)
    code, out, err = deepnets("data")
    assert code == 1 and out == "mnist: ready\nfashion_mnist: ready now\ncifar10: no server answers\n"
    assert "cifar10: damaged\n" in err
    assert deepnets("data", "mnist")[:2] == (0, "mnist: ready\n")


def test_device_and_workers_as_this_machine_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert workers.resolve("cpu", 3) == ("cpu", 3) and workers.resolve("cpu", 0)[1] >= 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert workers.resolve("auto", 2) == ("cpu", 2)
    with pytest.raises(ParameterError, match="finds no CUDA device"):
        workers.resolve("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert workers.resolve("auto", 0) == ("cuda", 1) and workers.resolve("cpu", 1) == ("cpu", 1)
    for device, count in (("tpu", 1), ("cpu", -1)):
        with pytest.raises(ParameterError):
            workers.resolve(device, count)


def test_workers_are_as_many_as_the_cpus_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert workers.resolve("cpu", 0) == ("cpu", 1) and workers.resolve("cpu", 5) == ("cpu", 5)
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    assert workers.resolve("cpu", 0) == ("cpu", 3)


HEAVY = ("torch", "torchvision", "pandas", "scipy", "matplotlib", "papermill", "nbconvert", "nbformat", "jinja2")


def child(code: str, *arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """Run Python code in a new process; return how it ended and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_no_second_and_loads_nothing_heavy() -> None:
    check = f"import atexit, sys; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))"
    done, seconds = child(f"{check}; from deepnets_utils.cli import main; main()", "--help")
    assert done.returncode == 0 and "report" in done.stdout and done.stdout.rstrip().endswith("[]")
    assert seconds < 1.0


def test_train_and_status_need_no_jupyter(project: Path) -> None:
    Store().put(finish(RUN))
    file = make_list(project / "reports" / "quick", "02_good", [RUN])
    jupyter = ("papermill", "nbconvert", "nbformat", "nbclient", "jupyter_client", "IPython", "ipykernel")
    code = f"import sys; sys.modules |= dict.fromkeys({jupyter}); from deepnets_utils.cli import main; main()"
    for arguments in (("train", str(file), "--device", "cpu"), ("status",)):
        done, _ = child(code, *arguments)
        assert done.returncode == 0, done.stderr
    assert "1 runs, 0 missing" in done.stdout
