"""Notebooks run headlessly: success is proved, failures and interrupts leave what was there."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import nbformat
import psutil
import pytest
from report_project import FORK, GOOD, older_page, write_notebook

from deepnets_utils.reports import execution, html, reporting
from deepnets_utils.runs import paths

FAILURES = {
    "raise": ("raise ValueError('no such cell\\nsecond line')", "ValueError: no such cell (and 1 more lines)"),
    "die": ("import os; os.kill(os.getpid(), 9)", "the kernel died"),
    "leave": ("import sys; sys.exit()", "did not reach study.finish()"),
}


def test_the_kernel_is_this_python_beside_the_notebooks(good) -> None:
    device = json.loads((good.folder / "01_good.json").read_text())["device"]
    assert device == f"{sys.executable} in {paths.NOTEBOOKS.resolve()}"


def test_nobody_watches_a_report_that_jupyterlab_started(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    write_notebook("01_good", ["from deepnets_utils.runs.progress import watched\n\nassert not watched()"])
    assert reporting.make_report("1", {}).error == ""


@pytest.mark.parametrize("name", ["ж" * 20, "a" * 200])
def test_kernels_have_sockets_wherever_tmpdir_is(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tmp_path_factory.mktemp("t") / name / name
    place.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(place)
    source = "import ipykernel\n\nassert ipykernel.get_connection_info(unpack=True)['transport'] == 'ipc'"
    write_notebook("01_good", [source])
    assert reporting.make_report("1", {}).error == ""


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_kept_and_named_and_an_older_page_stays(how: str, project: Path, capsys) -> None:
    source, error = FAILURES[how]
    write_notebook("01_fragile", ["# Fragile", "print('before')", source])
    folder = project / "reports" / "quick"
    older_page(folder, "01_fragile")
    outcome = reporting.make_report("01_fragile", {})
    assert error in outcome.error
    kept = nbformat.read(folder / "01_fragile.failed.ipynb", as_version=4)
    assert error.split(" (and")[0] in kept.cells[0].source and "before" in str(kept.cells)
    assert how != "raise" or "second line" in str(kept.cells)
    assert "an older page" in (folder / "01_fragile.html").read_text()
    assert not (folder / "01_fragile.ipynb").exists() and not list(folder.glob(".*.ipynb"))
    index = (folder / "index.html").read_text()
    assert '<span class="word failed">' in index and '<span class="word ok">' not in index
    assert str(html.escape(error)) in index and "2024-05-06 07:08" in index and "01_fragile.failed.ipynb" in index
    assert "failed" in capsys.readouterr().err


def test_an_interrupt_leaves_everything_as_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_good", GOOD)
    older_page(project / "reports" / "quick", "01_good")

    def interrupt(notebook: Path, partial: Path, *arguments: object, **settings: object) -> None:
        shutil.copy(notebook, partial)
        raise KeyboardInterrupt

    monkeypatch.setattr(execution.papermill, "execute_notebook", interrupt)
    before = {path.name: path.read_bytes() for path in (project / "reports" / "quick").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        reporting.make_report("1", {})
    after = {path.name: path.read_bytes() for path in (project / "reports" / "quick").iterdir()}
    assert {name: text for name, text in after.items() if not name.endswith(".lock")} == before


def old_page_stays(folder: Path, study: str) -> None:
    assert "an older page" in (folder / f"{study}.html").read_text()
    assert not (folder / f"{study}.ipynb").exists()


def test_a_cell_that_takes_too_long_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_slow", ["# Slow", "import time; time.sleep(60)"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_slow")
    execute = execution.papermill.execute_notebook
    monkeypatch.setattr(
        execution.papermill, "execute_notebook", lambda *args, **options: execute(*args, execution_timeout=1, **options)
    )
    outcome = reporting.make_report("1", {})
    assert "CellTimeoutError" in outcome.error and reporting.study_row(folder, "01_slow")["status"] == "failed"
    old_page_stays(folder, "01_slow")


def test_a_page_that_cannot_be_made_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_good", ["# A good study"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_good")

    def broken(*arguments: object) -> None:
        raise RuntimeError("no template is called basic")

    with monkeypatch.context() as patch:
        patch.setattr(html.PageExporter, "from_notebook_node", broken)
        outcome = reporting.make_report("1", {})
    assert outcome.error == "the page cannot be made: RuntimeError: no template is called basic"
    assert reporting.study_row(folder, "01_good")["status"] == "failed"
    assert (folder / "01_good.failed.ipynb").exists()
    old_page_stays(folder, "01_good")
    assert reporting.make_report("1", {}).error == "" and "an older page" not in (folder / "01_good.html").read_text()


def test_a_report_that_is_killed_leaves_the_old_page_and_no_kernel(project: Path) -> None:
    notes = "import os, pathlib, time; pathlib.Path(os.environ['DEEPNETS_OUTPUT'], 'pid').write_text(str(os.getpid()))"
    write_notebook("01_slow", ["# Slow", f"{notes}\ntime.sleep(60)"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_slow")
    process, pid = FORK.Process(target=reporting.make_report, args=("1", {})), project / "pid"
    process.start()
    while not (pid.exists() and pid.read_text()):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    old_page_stays(folder, "01_slow")
    end = time.monotonic() + 10
    while psutil.pid_exists(int(pid.read_text())):
        assert time.monotonic() < end, "the kernel goes on"
        time.sleep(0.1)
    write_notebook("01_slow", ["# Fast now"])
    assert reporting.make_report("1", {}).error == "" and reporting.study_row(folder, "01_slow")["status"] == "ok"
    assert not list(folder.glob(".*.ipynb"))


@pytest.mark.parametrize("within", ["a wait", "a destructor"])
def test_an_interrupted_report_waits_for_what_the_kernel_finishes(
    project: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    """A kernel that is told to end kills its processes after five seconds, whatever they train."""
    started, finished = project / "started", project / "finished"
    cell = f"""import pathlib, time
try:
    pathlib.Path({str(started)!r}).touch()
    time.sleep(60)
finally:
    time.sleep(6)
    pathlib.Path({str(finished)!r}).touch()"""
    write_notebook("01_slow", ["# Slow", cell])

    class Interrupting:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # an exception would be raised here, where Python prints and drops it

    class Kernel(execution.ThisPython):
        def _async_is_alive(self) -> Awaitable[bool]:  # nbclient asks once a second
            if started.exists():
                objects.clear()
            return super()._async_is_alive()

    objects: list[Interrupting] = []

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        monkeypatch.setattr(execution, "ThisPython", Kernel)
        objects.extend([Interrupting()] if within == "a destructor" else [])
        reporting.make_report("1", {})

    process = FORK.Process(target=interruptible)
    process.start()
    while not started.exists():
        assert process.is_alive()
        time.sleep(0.05)
    if within == "a wait":
        os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert finished.exists() and process.exitcode
    assert not list((project / "reports" / "quick").glob("*.html"))


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_report_that_is_told_to_end_saves_a_checkpoint(project: Path, everywhere: bool) -> None:
    cell = """import os, pathlib
from deepnets_utils.models import model
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.data.tasks import task

spec = task("pixel_statistic", train_size=90, validation_size=30)
fields = {"dataset": "digits_28", "task": spec, "model": model("MLPRegressor"), "learning_rate": 1e-3, "batch_size": 18}
pathlib.Path(os.environ["DEEPNETS_OUTPUT"], "pid").write_text(str(os.getpid()))
sweep([Run(epochs=epochs, **fields) for epochs in (1, 10**5)], store=Store(published=None))"""
    write_notebook("01_long", ["# Long", cell])
    process = FORK.Process(target=reporting.make_report, args=("1", {}))
    process.start()
    while not list((project / "runs" / "records").glob("*.json")):
        assert process.is_alive()
        time.sleep(0.05)
    for pid in [process.pid, *([int((project / "pid").read_text())] if everywhere else [])]:
        os.kill(pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 143 and len(list((project / "runs" / "checkpoints").glob("*.pt"))) == 1
    assert not psutil.pid_exists(int((project / "pid").read_text()))
    assert not list((project / "reports" / "quick").glob("*.html"))


def test_a_notebook_cut_short_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "partial").write_text('{"cells": [')  # as a full disk leaves it
    execution.keep_failed(tmp_path / "partial", tmp_path / "01_a.failed.ipynb", "OSError: no space left")
    assert (tmp_path / "01_a.failed.ipynb").read_text() == '{"cells": ['
