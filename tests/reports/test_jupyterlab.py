"""One notebook whole in JupyterLab, in a real browser, as a student runs it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from deepnets_utils.reports.notebooks import notebook_path

STUDY, EXPLORED = "01_baselines", "05_siamese_ablation"
TOKEN, PATIENCE = "a-test", 180.0  # seconds, on a machine with other work


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds one notebook, with profile smoke typed into it.

    It ends with its cell that explores, where it has one.
    """
    study = request.param
    notebook = json.loads(notebook_path(study).read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    explores = [number for number, source in enumerate(sources) if source.startswith("study.explore(")]
    notebook["cells"] = notebook["cells"][: explores[0] + 1 if explores else None]
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]).replace('profile: str = "quick"', 'profile: str = "smoke"')
    assert '"smoke"  #' in cell["source"]
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / f"{study}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--port={port}",
        "--no-browser",
        f"--IdentityProvider.token={TOKEN}",
        f"--notebook-dir={tmp_path}/course",
    ]
    options += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, (tmp_path / "lab.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/{study}.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def run_all(browser: Any, lab: str) -> Any:
    """Return the page with the notebook, whose cells have begun to run."""
    # So high that JupyterLab, which draws only the cells in view, draws all of them.
    page = browser.new_context(viewport={"width": 1366, "height": 20_000}).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    return page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("lab", [STUDY], indirect=True)
def test_a_notebook_runs_whole_in_jupyterlab(browser: Any, lab: str, tmp_path: Path) -> None:
    page = run_all(browser, lab)
    page.wait_for_selector("text=The cost of each cell")
    assert page.locator(".jp-OutputArea-output:has-text('Traceback')").count() == 0
    assert page.locator(".jp-OutputArea img[alt]").count() >= 2
    summary = json.loads((tmp_path / "output" / "reports" / "smoke" / f"{STUDY}.json").read_text())
    assert summary["runs"]["missing"] == 0 < summary["runs"]["trained"]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("lab", [EXPLORED], indirect=True)
def test_curves_are_explored_in_jupyterlab(browser: Any, lab: str) -> None:
    page = run_all(browser, lab)
    picture = page.locator(".widget-output img[alt='train_loss over epochs']")
    picture.wait_for()
    page.wait_for_selector("text=4 of 4 chosen runs are stored")
    before = picture.get_attribute("src")
    page.locator(".widget-dropdown:has-text('network') select").select_option("LeNet5")
    page.wait_for_function("src => document.querySelector('.widget-output img')?.src != src", arg=before)
    assert picture.get_attribute("src") != before
    assert page.locator(".jp-OutputArea-output:has-text('Traceback')").count() == 0
