"""Fixtures that several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepnets_utils import workers
from deepnets_utils.store import Store

# Before torch is imported: networks of this size gain nothing from threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store without published records."""
    return Store(tmp_path / "runs", published=None)


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    """End the processes that a test's sweeps leave to the next sweep: they hold that test's environment."""
    yield
    workers.end_workers()
