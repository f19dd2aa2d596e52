"""Reports: notebooks executed by papermill, shown as HTML, with an index; a page is there only when all went well.

reports/<profile>/ holds, for each study: what `study.finish()` wrote (<study>.json, tables/, <study>.runs.jsonl), the
executed notebook and its page, and .<study>.report.json, which says how the executions went.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill.engines
from filelock import FileLock
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from deepnets_utils import html, paths
from deepnets_utils.files import write_whole
from deepnets_utils.parameters import (
    check_parameters,
    notebook_path,
    read_parameters,
    read_title,
    reads_others,
    report_folder,
    study_names,
)
from deepnets_utils.progress import duration
from deepnets_utils.summaries import read, read_all, write_text

FINISH_SECONDS = 600.0  # for an interrupted kernel to end what is training; longer runs have a checkpoint
LONGEST_SOCKET = 90  # characters of a path; systems allow about 100, and zmq adds a few


@dataclass(frozen=True)
class Outcome:
    """How the report of one study went: error is "" when the page was made; seconds of wall time, from 0."""

    study: str
    folder: Path
    error: str
    seconds: float


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the Python that runs this, whatever kernels the user's machine knows as python3."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        file = str(Path(jupyter_runtime_dir()) / f"kernel-{uuid.uuid4()}.json")
        if os.name == "posix" and len(file) < LONGEST_SOCKET:
            # Two kernels that start at once can be given the same TCP ports; files have no such trouble.
            self.transport = "ipc"
            self.connection_file = file

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel and its processes; after Ctrl-C once it has finished what is training."""
        if isinstance(sys.exc_info()[1], KeyboardInterrupt) and self.has_kernel:
            await self.interrupt_kernel()
            client = self.client()
            client.start_channels()
            with contextlib.suppress(RuntimeError):  # it took too long, or is gone
                await client.wait_for_ready(timeout=FINISH_SECONDS)
            client.stop_channels()
        if now or not self.has_kernel:
            await super().shutdown_kernel(now=now, restart=restart)
            return
        # The base class interrupts the kernel first, and an idle one may log that as an error.
        await self.request_shutdown(restart=restart)
        await self.finish_shutdown(restart=restart)
        await self.cleanup_resources(restart=restart)


class SavesOnce(papermill.engines.NBClientEngine):
    """Executes a notebook and saves it at the end, also after an error; papermill saves twice a cell."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, *args: Any, **settings: Any) -> None:
        save, nb_man.save = nb_man.save, lambda **_: None
        try:
            super().execute_managed_notebook(nb_man, *args, **settings)
        finally:
            nb_man.save = save


papermill.engines.papermill_engines.register("saves once", SavesOnce)


def make_report(study: str, given: Mapping[str, Any], *, hide_code: bool = False) -> Outcome:
    """Execute a study's notebook with the parameters that differ from its defaults, and make its page and index.

    study: name or number. A notebook that fails gives an Outcome with the error; its executed part is kept as
    <study>.failed.ipynb, and an older page stays and is marked as older. hide_code: no code on the page.
    Raises ParameterError before anything runs. Interrupted, it leaves everything as it was.
    """
    notebook = notebook_path(study)
    study, declared = notebook.stem, read_parameters(notebook)
    values = check_parameters(declared, given)
    folder = report_folder(values, declared)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{study}.partial.ipynb"
    _say(f"{study}, {folder.name}: running")
    with FileLock(folder / f".{study}.lock"):
        started, token = time.monotonic(), secrets.token_hex(8)
        try:
            error = _execute(notebook, partial, given, token)
            seconds = time.monotonic() - started
            summary = read(folder / f"{study}.json")
            if not error and summary.get("token") != token:
                error = "the notebook did not reach study.finish(), so there is no result of this execution"
            if not error:
                executed = nbformat.read(partial, as_version=4)
                try:
                    page = html.study_page(executed, notebook.parent, summary, seconds, hide_code)
                except Exception as broken:  # nbconvert raises many kinds
                    error = f"the page cannot be made: {type(broken).__name__}: {broken}"
            if not error:
                with pages_lock(folder):
                    write_text(folder / f"{study}.html", page)
                os.replace(partial, folder / f"{study}.ipynb")
                (folder / f"{study}.failed.ipynb").unlink(missing_ok=True)
            elif partial.exists():
                _keep_failed(partial, folder / f"{study}.failed.ipynb", error)
        finally:
            partial.unlink(missing_ok=True)
        note = {"seconds": seconds, "at": datetime.now().astimezone().isoformat(timespec="seconds")}
        record = folder / f".{study}.report.json"
        if error:
            report = {"page": read(record).get("page"), "failure": {"error": error, **note}}
        else:
            report = {"page": {"token": token, **note}, "failure": None}
        write_text(record, json.dumps(report, indent=1))
    write_indexes(folder)
    _say(f"{study}, {folder.name}: {'failed: ' + error if error else 'ok'} after {duration(seconds)}")
    return Outcome(study, folder, error, seconds)


def make_reports(jobs: Sequence[tuple[str, Mapping[str, Any]]], *, hide_code: bool = False) -> list[Outcome]:
    """Make the reports of several studies, each with its values, as `make_report` does.

    Where little or nothing is trained (profile smoke, train never) several notebooks run at the same time; else one
    after the other, for each uses all workers. What reads the others' results comes last, here and in the outcomes.
    """
    last = [job for job in jobs if reads_others(notebook_path(job[0]))]
    if 0 < len(last) < len(jobs):
        groups = [job for job in jobs if job not in last], last
        return [outcome for group in groups for outcome in make_reports(group, hide_code=hide_code)]
    light = all(values.get("profile") == "smoke" or values.get("train") == "never" for _, values in jobs)
    together = min(len(jobs), os.cpu_count() or 1) if light else 1
    if together == 1:
        return [make_report(study, values, hide_code=hide_code) for study, values in jobs]
    start = "fork" if sys.platform == "linux" else "spawn"  # a fork need not import everything once more
    with ProcessPoolExecutor(together, get_context(start), end_with, [os.getpid()]) as pool:
        made = [pool.submit(make_report, study, values, hide_code=hide_code) for study, values in reversed(jobs)]
        outcomes = [future.result() for future in reversed(made)]
    for folder in {outcome.folder for outcome in outcomes}:
        write_indexes(folder)  # two that end at once may each miss the other
    return outcomes


def end_with(parent: int) -> None:
    """End this process when the one that made it dies, SIGKILL included; its kernels end with it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def pages_lock(folder: Path) -> FileLock:
    """Return the lock of a profile's pages: one report writes a page while another puts links into it."""
    return FileLock(folder.parent / ".pages.lock")


def write_indexes(folder: Path) -> None:
    """Write a profile's index.html, the links between its pages, and the list of profiles above it."""
    with pages_lock(folder):
        rows = [study_row(folder, study) for study in study_names()]
        pages = [row["study"] for row in rows if row["page"]]
        for before, study, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
            page = (folder / f"{study}.html").read_text(encoding="utf-8")
            linked = html.navigation(page, before, after)
            if linked != page:
                write_text(folder / f"{study}.html", linked)
        write_text(folder / "index.html", html.index_page(folder.name, rows, notebooks=True))
        profiles = {path.parent for path in folder.parent.glob("*/.*.report.json")}
        write_text(folder.parent / "index.html", html.profiles_page([_profile_row(path) for path in sorted(profiles)]))


def study_row(folder: Path, study: str) -> dict[str, Any]:
    """Return what the index says of a study in reports/<profile>: all from the files in that folder.

    status: "ok", "failed", "not run", where the notebook wrote its numbers without a report "no page" or "older page",
    and "older than others" of a page that reads what other studies have written anew since. page and failure: time and
    seconds, or None. summary: what `study.finish()` wrote, or {}.
    """
    report, summary = read(folder / f".{study}.report.json"), read(folder / f"{study}.json")
    page = report.get("page") if (folder / f"{study}.html").exists() else None
    if report.get("failure"):
        status = "failed"
    elif not page:
        status = "no page" if summary else "not run"
    else:
        status = "ok" if summary.get("token") == page["token"] else "older page"
        if status == "ok" and reads_others(notebook_path(study)):
            newest = max(datetime.fromisoformat(other["finished_at"]) for other in read_all(folder))
            status = "ok" if datetime.fromisoformat(summary["finished_at"]) >= newest else "older than others"
    title = summary.get("title") or read_title(notebook_path(study))
    if summary:
        figures = [figure for figure in summary["figures"] if (folder / figure["file"]).exists()]
        summary = {**summary, "figures": figures}
    return {
        "study": study,
        "title": title,
        "status": status,
        "page": page,
        "failure": report.get("failure"),
        "summary": summary,
    }


def write_zip(folder: Path) -> Path:
    """Write reports/<profile>.zip: pages, tables and figures of a profile, with links that hold anywhere."""
    root = paths.output_root()
    rows = [study_row(folder, study) for study in study_names()]
    files = {folder / f"{row['study']}.html" for row in rows if row["page"]} | set(folder.glob("tables/*.csv"))
    for summary in (row["summary"] for row in rows if row["summary"]):
        for figure in summary["figures"]:
            files |= set((folder / figure["file"]).parent.glob(f"{Path(figure['file']).stem}.*"))
    target = folder.with_name(f"{folder.name}.zip")

    def write(stream: Any) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(file.resolve() for file in files):
                archive.write(file, f"deepnets/{file.relative_to(root)}")
            index = html.index_page(folder.name, rows, notebooks=False)
            archive.writestr(f"deepnets/reports/{folder.name}/index.html", index)
            archive.writestr("deepnets/reports/index.html", html.profiles_page([_profile_row(folder)]))

    write_whole(target, write)
    return target


def _execute(notebook: Path, partial: Path, given: Mapping[str, Any], token: str) -> str:
    """Run a notebook into `partial`; return "", or the error's first line. The kernel's log goes to stderr."""
    with TemporaryDirectory(prefix="deepnets-") as runtime:
        settings = {
            "DEEPNETS_REPORT_TOKEN": token,
            "DEEPNETS_OUTPUT": str(paths.output_root()),  # a relative one would mean another folder there
            "DEEPNETS_DATA": str(paths.data_root()),
            "JUPYTER_RUNTIME_DIR": runtime,
        }
        try:
            with _environment(settings):
                papermill.execute_notebook(
                    notebook,
                    partial,
                    dict(given),
                    engine_name="saves once",
                    kernel_name="python3",
                    language="python",
                    kernel_manager_class=ThisPython,
                    cwd=paths.NOTEBOOKS,  # where JupyterLab runs it
                    progress_bar=False,
                    stderr_file=sys.stderr,
                )
        except PapermillExecutionError as error:
            text = f"{error.ename}: {error.evalue}"
        except KeyboardInterrupt:
            # The cell's task ends with the kernel, and nobody is left to ask for its error.
            logging.getLogger("asyncio").disabled = True
            raise
        except DeadKernelError:
            text = "the kernel died: the system ended it (out of memory?), or a library crashed"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        else:
            text = ""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return f"{lines[0]} (and {len(lines) - 1} more lines)" if len(lines) > 1 else "".join(lines)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _keep_failed(partial: Path, target: Path, error: str) -> None:
    """Keep the executed part of a notebook, with the error at its top.

    papermill marks only the cells that raised; after a dead kernel it calls every cell completed.
    """
    try:
        executed = nbformat.read(partial, as_version=4)
    except ValueError:  # cut short, on a full disk
        os.replace(partial, target)
        return
    text = f"**This execution failed.** {html.escape(error)}"
    executed.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    write_text(target, nbformat.writes(executed))


def _profile_row(folder: Path) -> dict[str, Any]:
    rows = [study_row(folder, study) for study in study_names()]
    statuses = [row["status"] for row in rows]
    return {
        "name": folder.name,
        "statuses": {word: statuses.count(word) for word in dict.fromkeys(statuses)},
        "verdicts": html.count_verdicts(rows),
        "newest": max((row["page"]["at"] for row in rows if row["page"]), default="no page yet"),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
