"""Reports of one or several studies: where they are written, which share the CPUs, which come last."""

import errno
import fcntl
import os
import re
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import pytest
from report_project import FORK, GOOD, write_notebook

from deepnets_utils.reports import reporting
from deepnets_utils.reports.notebooks import read_title
from deepnets_utils.reports.parameters import Parameter, check_parameters, read_parameters, report_folder
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError


def test_a_good_notebook_gives_a_page_a_notebook_and_an_index(good, capsys) -> None:
    assert good.error == ""
    names = {path.name for path in good.folder.iterdir()}
    assert names >= {"01_good.html", "01_good.ipynb", "01_good.json", ".01_good.report.json", "index.html", "tables"}
    assert not [name for name in names if "partial" in name or "failed" in name]
    assert "DEEPNETS_REPORT_TOKEN" not in os.environ and os.environ["DEEPNETS_OUTPUT"] == "."


def declared(**defaults: object) -> dict[str, Parameter]:
    return {name: Parameter(name, type(value).__name__, value, "", ()) for name, value in defaults.items()}


def test_an_override_reports_beside_the_profile_and_never_over_it(project: Path) -> None:
    known = declared(profile="quick", data="auto", device="auto", workers=0, seeds=0, epochs=0, networks=[], name="")

    def folder(**values: object) -> str:
        path = report_folder(check_parameters(known, values), known)
        assert path.parent == project / "reports"
        return path.name

    assert folder() == folder(device="cpu", workers=3, seeds=0, data="real") == "quick"
    assert folder(profile="paper", seeds=3, epochs=5) == "paper+epochs=5,seeds=3"
    assert folder(data="embedded") == "quick+data=embedded"
    assert folder(networks=["A", "B"]) == "quick+networks=A_B" != folder(networks=["A", "C"])
    assert len({folder(networks=names) for names in (["A", "B"], ["A_B"], ["A_B", "C"], ["A", "B_C"])}) == 4
    names = [folder(name=text) for text in ("../x", ".._x", "a/b", "a b", "a" * 300, "a" * 301)]
    assert len(set(names)) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,100}", name) for name in names)


def test_data_that_a_profile_never_uses_are_refused_before_anything_runs(project: Path) -> None:
    write_notebook("01_good", GOOD)
    with pytest.raises(ParameterError, match="embedded in profile paper.*auto or real"):
        reporting.make_report("1", {"profile": "paper", "data": "embedded"})
    assert not (project / "reports").exists()


def test_titles_and_parameters_are_read_from_the_notebook(project: Path) -> None:
    write_notebook("01_good", GOOD)
    assert read_title(paths.NOTEBOOKS / "01_good.ipynb") == "A good study"
    assert list(read_parameters(paths.NOTEBOOKS / "01_good.ipynb")) == ["profile", "data", "seeds", "note"]


def test_what_reads_the_others_results_runs_after_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_reads", GOOD)
    write_notebook("02_good", GOOD)
    reads = paths.NOTEBOOKS / "01_reads.ipynb"
    notebook = nbformat.read(reads, as_version=4)
    notebook.metadata["deepnets"] = {"reads_others": True}
    nbformat.write(notebook, reads)
    made = []
    monkeypatch.setattr(reporting, "make_report", lambda study, values, **options: made.append(study))
    jobs = [(study, {"profile": profile}) for profile in ("quick", "paper") for study in ("01_reads", "02_good")]
    reporting.make_reports(jobs[:2])
    assert made == ["02_good", "01_reads"]
    made.clear()
    monkeypatch.setattr(reporting, "make_report", lambda study, values, **options: made.append((study, values)))
    reporting.make_reports(jobs)
    assert made == [jobs[1], jobs[3], jobs[0], jobs[2]], "they read those of other profiles, too"


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs, and studies that need no notebook; see `_told` and `_killed`."""
    if sys.platform != "linux":
        pytest.skip("other systems' processes import the module anew")
    monkeypatch.setattr(reporting, "reads_others", lambda notebook: False)
    monkeypatch.setattr(reporting, "notebook_path", Path)
    monkeypatch.setattr(reporting, "write_indexes", lambda folder: None)
    monkeypatch.setattr(reporting, "resolve", lambda device, workers: ("cpu" if device == "auto" else device, 4))
    monkeypatch.setattr(reporting, "make_report", _told)


def _told(study: str, given: Mapping[str, object], *, hide_code: bool) -> reporting.Outcome:
    return reporting.Outcome(study, Path(), f"{given.get('workers')} in {os.getpid()}")


@pytest.mark.parametrize(
    "values, shared, workers",
    [
        ({"profile": "quick"}, True, 2),
        ({"profile": "quick", "workers": 3}, False, 3),
        ({"profile": "quick", "device": "cuda"}, False, None),
        ({"profile": "quick", "train": "never"}, True, None),
        ({"profile": "smoke"}, True, None),
        ({"profile": "paper"}, False, None),
        ({"profile": "paper", "train": "never"}, True, None),
    ],
)
def test_which_reports_share_the_cpus(several: None, values: dict, shared: bool, workers: int | None) -> None:
    outcomes = reporting.make_reports([("01_a", values), ("02_b", values)])
    assert [outcome.study for outcome in outcomes] == ["01_a", "02_b"]
    assert [outcome.error.partition(" in ")[0] for outcome in outcomes] == [str(workers)] * 2
    assert all((outcome.error == f"{workers} in {os.getpid()}") != shared for outcome in outcomes)


def test_a_report_process_that_is_killed_among_several_is_named(several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "make_report", _killed)
    with pytest.raises(ChildProcessError, match="was killed"):
        reporting.make_reports([("01_a", {"profile": "smoke"}), ("02_b", {"profile": "smoke"})])


def _killed(study: str, given: object, *, hide_code: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_reports_of_one_study_at_once(project: Path) -> None:
    write_notebook("01_good", ["# A good study", "import time; time.sleep(0.5)"])
    with ProcessPoolExecutor(2, FORK) as pool:
        pair = [pool.submit(reporting.make_report, "1", {}) for _ in range(2)]
        assert [report.result().error for report in pair] == ["", ""]
    folder = project / "reports" / "quick"
    assert reporting.study_row(folder, "01_good")["status"] == "ok" and not list(folder.glob(".*.ipynb"))
    assert "A good study" in (folder / "index.html").read_text()


def test_a_folder_without_file_locks_is_refused_before_the_notebook_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    write_notebook("01_good", ["# A good study"])
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(reporting, "execute", lambda *_: pytest.fail("the notebook ran"))
    with pytest.raises(OSError, match=f"^{project / 'reports' / 'quick'} is on a file system without file locks"):
        reporting.make_report("1", {})


def test_a_damaged_notebook_is_named_and_does_not_stop_others(project: Path) -> None:
    write_notebook("01_good", GOOD)
    (paths.NOTEBOOKS / "02_damaged.ipynb").write_text("{nope")
    (paths.NOTEBOOKS / "01_good-Copy1.ipynb").write_text("{}")
    outcome = reporting.make_report("1", {})
    assert outcome.error == "" and reporting.study_row(outcome.folder, "02_damaged")["status"] == "not run"
    with pytest.raises(ParameterError, match="02_damaged.ipynb is no notebook with cells"):
        reporting.make_report("2", {})
