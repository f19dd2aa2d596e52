"""Fixtures that several tests share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import Drivers

from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps import workers

# Before torch is imported: networks of this size gain nothing from threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store without published records."""
    return Store(tmp_path / "runs", published=None)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train here, whatever cluster the user's shell names."""
    monkeypatch.delenv(workers.DASK, raising=False)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing in the project's runs/."""
    if "DEEPNETS_OUTPUT" not in os.environ:
        monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path / "output"))


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that takes what a study writes."""
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    """End the processes that a test's sweeps leave to the next sweep: they hold that test's environment."""
    yield
    workers.end_workers()


@pytest.fixture
def float64() -> Iterator[None]:
    """What in_float64.py says."""
    from in_float64 import in_float64  # late: it imports torch

    with in_float64():
        yield


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; tests that need it are skipped where one of the two is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def drivers(store: Store) -> Iterator[Drivers]:
    drivers = Drivers(store)
    yield drivers
    for process in drivers.alive():
        process.kill()
    for process in drivers.started:
        process.communicate(timeout=10)
