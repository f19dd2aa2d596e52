"""Fixtures that tests of reports share."""

from pathlib import Path

import pytest
from report_project import GOOD, point_at, write_notebook

from deepnets_utils.reports import reporting


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    point_at(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory):
    """A project with one report made, one study never run, and the traces of an earlier failure."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("project")
        point_at(root, patch)
        write_notebook("01_good", GOOD)
        write_notebook("02_never", ["# Never run"])
        folder = root / "reports" / "quick"
        folder.mkdir(parents=True)
        (folder / "01_good.failed.ipynb").write_text("{}")
        # A kernel of this name that another installation left behind must not be used.
        kernel = root / "jupyter" / "kernels" / "python3"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        patch.chdir(root)
        patch.setenv("DEEPNETS_OUTPUT", ".")
        outcome = reporting.make_report("1", {"profile": "quick"})
        yield outcome
