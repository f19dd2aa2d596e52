"""A page as a PDF, printed by a browser of this machine."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from deepnets_utils.runs.errors import ParameterError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
SECONDS = 120  # a page takes a few


def find_browser() -> str:
    """Return the path of a Chromium or Chrome. Raises ParameterError where there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise ParameterError("--pdf prints with Chromium or Chrome, and neither is found; on Debian: apt install chromium")


def write_pdf(page: Path, browser: str) -> Path:
    """Print a page into a .pdf beside it, without network, and return its path.

    Raises OSError with the browser's words when it writes none.
    """
    target = page.with_suffix(".pdf").resolve()
    with tempfile.TemporaryDirectory() as profile:
        printed = Path(profile) / "page.pdf"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
        arguments += [f"--user-data-dir={profile}", f"--print-to-pdf={printed}", page.resolve().as_uri()]
        try:
            done = subprocess.run([browser, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(f"{browser} has not printed {page} in {SECONDS} s") from None
        if not printed.exists():
            raise OSError(f"{browser} has not printed {page}: {done.stderr[-300:]}")
        shutil.move(printed, target)
    return target
