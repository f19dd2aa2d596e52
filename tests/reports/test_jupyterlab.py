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

from deepnets_utils.reports.parameters import notebook_path

STUDY, TOKEN, PATIENCE = "01_baselines", "a-test", 180.0  # seconds, on a machine with other work


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds one notebook, with profile smoke typed into it."""
    notebook = json.loads(notebook_path(STUDY).read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]).replace('profile: str = "quick"', 'profile: str = "smoke"')
    assert '"smoke"  #' in cell["source"]
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / f"{STUDY}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
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
        yield f"http://127.0.0.1:{port}/lab/tree/{STUDY}.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_notebook_runs_whole_in_jupyterlab(browser: Any, lab: str, tmp_path: Path) -> None:
    # So high that JupyterLab, which draws only the cells in view, draws all of them.
    page = browser.new_context(viewport={"width": 1366, "height": 20_000}).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_selector("text=The cost of each cell")
    assert page.locator(".jp-OutputArea-output:has-text('Traceback')").count() == 0
    assert page.locator(".jp-OutputArea img[alt]").count() >= 2
    summary = json.loads((tmp_path / "output" / "reports" / "smoke" / f"{STUDY}.json").read_text())
    assert summary["runs"]["missing"] == 0 < summary["runs"]["trained"]
