"""Where the project reads and writes: nothing hangs on the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PUBLISHED = ROOT / "data" / "published"
RECORDS = ROOT / "data" / "records"


def data_root() -> Path:
    """Return the folder of the data sets: $DEEPNETS_DATA, else data/ of the project."""
    return Path(os.environ.get("DEEPNETS_DATA") or ROOT / "data").expanduser().resolve()


def output_root() -> Path:
    """Return the folder under which runs/, reports/ and figures/ are written: $DEEPNETS_OUTPUT, else the project."""
    return Path(os.environ.get("DEEPNETS_OUTPUT") or ROOT).expanduser().resolve()
