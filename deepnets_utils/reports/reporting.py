"""Reports: notebooks executed by papermill, shown as HTML, with an index; a page is there only when all went well.

reports/<profile>/ holds, for each study: what `study.finish()` wrote (<study>.json, tables/, <study>.runs.jsonl), the
executed notebook and its page, and .<study>.report.json, which says how the executions went.
"""

import hashlib
import json
import os
import re
import secrets
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat

from deepnets_utils.reports import html
from deepnets_utils.reports.execution import execute, keep_failed
from deepnets_utils.reports.notebooks import notebook_path, read_title, reads_others, study_names
from deepnets_utils.reports.parameters import check_parameters, read_parameters, report_folder
from deepnets_utils.reports.summaries import claims, read, read_all, scales
from deepnets_utils.runs.files import locked, write_text, write_whole
from deepnets_utils.runs.progress import duration
from deepnets_utils.sweeps.workers import resolve

Job = tuple[str, Mapping[str, Any]]  # a study and its values
PAGES_LOCK = ".pages.lock"  # of all profiles: one report writes a page while another puts links into it


@dataclass(frozen=True)
class Outcome:
    """How the report of one study went: error is "" when the page was made."""

    study: str
    folder: Path
    error: str


def make_report(study: str, given: Mapping[str, Any], *, hide_code: bool = False) -> Outcome:
    """Execute a study's notebook with the parameters that differ from its defaults, and make its page and index.

    study: name or number. A notebook that fails gives an Outcome with the error; its executed part is kept as
    <study>.failed.ipynb, and an older page stays and is marked as older. hide_code: no code on the page.
    Raises ParameterError before anything runs. Interrupted, it leaves the pages as they were.
    """
    notebook = notebook_path(study)
    study, declared = notebook.stem, read_parameters(notebook)
    values = check_parameters(declared, given)
    folder = report_folder(values, declared)
    partial = folder / f".{study}.partial.ipynb"
    print(f"{study}, {folder.name}: running", file=sys.stderr, flush=True)
    with locked(folder / f".{study}.lock"):
        started, token, source = time.monotonic(), secrets.token_hex(8), _digest(notebook)
        try:
            error = execute(notebook, partial, given, token)
            seconds = time.monotonic() - started
            summary = read(folder / f"{study}.json")
            if not error and summary.get("token") != token:
                error = "the notebook did not reach study.finish(), so there is no result of this execution"
            if not error:
                try:
                    executed = nbformat.read(partial, as_version=4)
                    page = html.study_page(executed, notebook.parent, summary, seconds, hide_code)
                except Exception as broken:  # nbconvert raises many kinds
                    error = f"the page cannot be made: {type(broken).__name__}: {broken}"
            if not error:
                with locked(folder.parent / PAGES_LOCK):
                    write_text(folder / f"{study}.html", page)
                os.replace(partial, folder / f"{study}.ipynb")
                (folder / f"{study}.failed.ipynb").unlink(missing_ok=True)
            elif partial.exists():
                keep_failed(partial, folder / f"{study}.failed.ipynb", error)
        finally:
            partial.unlink(missing_ok=True)
        note = {"seconds": seconds, "at": datetime.now().astimezone().isoformat(timespec="seconds")}
        record = folder / f".{study}.report.json"
        made = {"page": {"token": token, "notebook": source, **note}, "failure": None}
        report = read(record) | ({"failure": {"error": error, **note}} if error else made)
        write_text(record, json.dumps(report, indent=1))
    write_indexes(folder)
    went = f"failed: {error}" if error else "ok"
    print(f"{study}, {folder.name}: {went} after {duration(seconds)}", file=sys.stderr, flush=True)
    return Outcome(study, folder, error)


def make_reports(jobs: Sequence[Job], *, hide_code: bool = False) -> list[Outcome]:
    """Make the reports of several studies, each with its values, as `make_report` does.

    Where little or nothing is trained (profile smoke, train never) several notebooks run at the same time, and in quick
    on a CPU, too, each with its share of the CPUs, unless `workers` is given; else one after the other, for each uses
    all workers. So it is profile by profile. What reads the others' results comes last, here and in the outcomes.
    Raises ParameterError as `make_report` does, and ChildProcessError when one of several processes is killed.
    """
    groups: dict[tuple[bool, str | None], list[Job]] = {}
    for study, values in jobs:
        groups.setdefault((reads_others(notebook_path(study)), values.get("profile")), []).append((study, values))
    ordered = [groups[key] for key in sorted(groups, key=lambda key: key[0])]
    return [outcome for group in ordered for outcome in _make_group(group, hide_code)]


def _make_group(jobs: Sequence[Job], hide_code: bool) -> list[Outcome]:
    """Make the reports of one profile, at the same time where that is quicker."""
    cpus, settings = resolve("cpu", 0)[1], [values for _, values in jobs]
    together = min(len(jobs), cpus)
    if together > 1 and not all(v.get("profile") == "smoke" or v.get("train") == "never" for v in settings):
        quick = all(v.get("profile") == "quick" and not v.get("workers") for v in settings)
        if quick and all(resolve(v.get("device", "auto"), 0)[0] == "cpu" for v in settings):
            jobs = [(study, {**values, "workers": cpus // together}) for study, values in jobs]
        else:
            together = 1
    if together == 1:
        return [make_report(study, values, hide_code=hide_code) for study, values in jobs]
    start = "fork" if sys.platform == "linux" else "spawn"  # a fork need not import everything once more
    with ProcessPoolExecutor(together, get_context(start), end_with, [os.getpid()]) as pool:
        made = [pool.submit(make_report, study, values, hide_code=hide_code) for study, values in reversed(jobs)]
        try:
            return [future.result() for future in reversed(made)]
        except BrokenProcessPool:
            raise ChildProcessError("a process that made a report was killed (out of memory?): run it again") from None


def end_with(parent: int) -> None:
    """End this process when the one that made it dies, SIGKILL included; its kernels end with it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_indexes(folder: Path) -> None:
    """Write a profile's index.html, the links between its pages, and the list of profiles above it.

    Where claims are judged together with another profile's, also of that one.
    """
    with locked(folder.parent / PAGES_LOCK):
        for place in filter(Path.exists, scales(folder)):
            rows = [study_row(place, study) for study in study_names()]
            pages = [row["study"] for row in rows if row["page"]]
            for before, study, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
                page = (place / f"{study}.html").read_text(encoding="utf-8")
                others = [other for other in scales(folder) if other != place and (other / f"{study}.html").exists()]
                elsewhere = {other.name: f"../{other.name}/{study}.html" for other in others}
                linked = html.navigation(page, before, after, elsewhere)
                if linked != page:
                    write_text(place / f"{study}.html", linked)
            write_text(place / "index.html", html.index_page(place.name, rows, claims(place)))
        profiles = {path.parent for path in folder.parent.glob("*/.*.report.json")}
        write_text(folder.parent / "index.html", html.profiles_page([_profile_row(path) for path in sorted(profiles)]))


def study_row(folder: Path, study: str) -> dict[str, Any]:
    """Return what the index says of a study in reports/<profile>: all from the files in that folder.

    status: "ok", "failed", "not run", where the notebook wrote its numbers without a report "no page" or "older page",
    "older notebook" where it was edited since, and "older than others" of a page that reads what other studies have
    written anew since. page and failure: time and seconds, or None. summary: what `study.finish()` wrote, or {}.
    """
    notebook = notebook_path(study)
    report, summary = read(folder / f".{study}.report.json"), read(folder / f"{study}.json")
    page = report.get("page") if (folder / f"{study}.html").exists() else None
    if report.get("failure"):
        status = "failed"
    elif not page:
        status = "no page" if summary else "not run"
    elif summary.get("token") != page["token"]:
        status = "older page"
    elif page.get("notebook", _digest(notebook)) != _digest(notebook):
        status = "older notebook"
    elif reads_others(notebook) and any(
        datetime.fromisoformat(other["finished_at"]) > datetime.fromisoformat(summary["finished_at"])
        for place in scales(folder)
        for other in read_all(place)
        if other["study"] != study
    ):
        status = "older than others"
    else:
        status = "ok"
    if summary:
        there = [figure for figure in summary["figures"] if (folder / figure["file"]).exists()]
        summary = {**summary, "figures": there}
    return {
        "study": study,
        "title": summary.get("title") or read_title(notebook),
        "status": status,
        "page": page,
        "failure": report.get("failure"),
        "summary": summary,
        "answers": reads_others(notebook),
    }


def _digest(notebook: Path) -> str:
    return hashlib.sha256(notebook.read_bytes()).hexdigest()


def write_zip(folder: Path) -> Path:
    """Write reports/<profile>.zip: pages, tables and figures of a profile, with links that hold anywhere.

    So where claims are judged together with another profile's, its pages are in there, too.
    """
    reports, target = folder.parent, folder.with_name(f"{folder.name}.zip")
    places = [place for place in scales(folder) if place.exists()]
    pages = {f"{name}.html" for name in ("index", *study_names())}
    files = {file for place in places for file in place.glob("*.html") if file.name in pages}
    for place in places:  # what is being written has a name with a dot before it
        files |= {*place.glob("tables/[!.]*.csv"), *(reports.parent / "figures" / place.name).glob("[!.]*")}

    def write(stream: Any) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(files):
                place = f"deepnets/{file.relative_to(reports.parent)}"
                if file.name == "index.html":
                    index = re.sub(r' · <a href="[^"]*\.ipynb">.*?</a>', "", file.read_text(encoding="utf-8"))
                    archive.writestr(place, index)
                else:
                    archive.write(file, place)
            archive.writestr("deepnets/reports/index.html", html.profiles_page(list(map(_profile_row, places))))

    write_whole(target, write)
    return target


def _profile_row(folder: Path) -> dict[str, Any]:
    rows = [study_row(folder, study) for study in study_names()]
    return {
        "name": folder.name,
        "statuses": Counter(row["status"] for row in rows),
        "verdicts": html.count_verdicts(claims(folder)),
        "newest": max((row["page"]["at"] for row in rows if row["page"]), default="no page yet"),
    }
