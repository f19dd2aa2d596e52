"""The notebooks of the studies as files: which there are, what they are called, and a new one. Imports no torch."""

import json
import re
from pathlib import Path
from typing import Any

from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.files import write_text

NAME = re.compile(r"\d\d_[a-z0-9_]+")  # of a study
TEMPLATE = Path(__file__).with_name("pages") / "new_study.ipynb"


def notebook_path(study: str) -> Path:
    """Return the notebook of a study (its whole name, or its number: "05" or "5").

    Raises ParameterError with the studies that there are.
    """
    studies = study_names()
    number = study.zfill(2) if study.isdigit() else None
    for name in studies:
        if name == study or (number and name.startswith(f"{number}_")):
            return paths.NOTEBOOKS / f"{name}.ipynb"
    raise ParameterError(f"no study is called {study!r}; there are {', '.join(studies)}")


def new_notebook(name: str) -> Path:
    """Write the notebook of a new study, a small one that runs as it stands, and return its path.

    Raises ParameterError for a name that cannot be a study's, and where another study has its number.
    """
    if not NAME.fullmatch(name):
        raise ParameterError(f"a study is called like 09_my_question: two digits, then a-z, 0-9 and _; not {name!r}")
    if taken := [study for study in study_names() if study[:2] == name[:2]]:
        raise ParameterError(f"{taken[0]} has the number {name[:2]} already")
    text = TEMPLATE.read_text(encoding="utf-8").replace("09_my_question", name)
    path = paths.NOTEBOOKS / f"{name}.ipynb"
    write_text(path, text.replace("# 9. My question", f"# {int(name[:2])}. My question"))
    return path


def study_names() -> list[str]:
    """Return the studies in order: the names of the notebooks like 01_name; a copy that JupyterLab made is none."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb") if NAME.fullmatch(path.stem))


def reads_others(notebook: Path) -> bool:
    """Return whether a notebook reads the results of others, so that it runs after them.

    Its metadata say so: {"deepnets": {"reads_others": true}}.
    """
    return read_notebook(notebook)["metadata"].get("deepnets", {}).get("reads_others", False)


def read_title(notebook: Path) -> str:
    """Return a notebook's first heading, or its file's name where it has none."""
    for cell in read_notebook(notebook)["cells"]:
        if cell["cell_type"] == "markdown" and (title := re.search(r"^# (.+)", "".join(cell["source"]), re.M)):
            return title[1].strip()
    return notebook.stem


def read_notebook(notebook: Path) -> dict[str, Any]:
    """Return a notebook's JSON; of a damaged file one without cells, so that it does not stop other studies."""
    try:
        found = json.loads(notebook.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    return {"cells": [], "metadata": {}} | (found if isinstance(found, dict) else {})
