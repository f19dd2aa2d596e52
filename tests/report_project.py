"""A project of small notebooks: what tests of reports begin with."""

import json
from multiprocessing import get_context
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from deepnets_utils.results.comparison import WORDS
from deepnets_utils.runs import paths

FORK = get_context("fork")  # as make_reports has it: papermill is imported already
PARAMETERS = """profile: str = "quick"  # {smoke, quick, paper} how large
data: str = "auto"  # {auto, real, embedded} which data
seeds: int = 0  # runs a cell
note: str = "<script>alert(1)</script>"  # any text
"""
# What study.finish() does, as far as reports know it.
FINISH = """import json, os, pathlib, sys
folder = pathlib.Path(os.environ["DEEPNETS_OUTPUT"], "reports", profile)
(folder / "tables").mkdir(parents=True, exist_ok=True)
(folder / "tables" / "doc_table1.csv").write_text("row,column")
figure = folder / "../../figures" / profile / "01_good_figure1.png"
figure.resolve().parent.mkdir(parents=True, exist_ok=True)
figure.resolve().write_bytes(bytes.fromhex("{png}"))
summary = json.loads('''{summary}''')
summary |= dict(token=os.environ.get("DEEPNETS_REPORT_TOKEN", ""), profile=profile)
summary |= dict(parameters=dict(note=note, seeds=seeds), device=sys.executable + " in " + os.getcwd())
(folder / "{study}.json").write_text(json.dumps(summary))
"""
PNG = "89504e470d0a1a0a0000000d4948445200000001000000010806000000" + (
    "1f15c4890000000d49444154789c636060606000000005000157a3f3a80000000049454e44ae426082"
)
CLAIM = {"id": "doc.deeper", "source": "doc", "statement": "Deeper is <better>", "protocol": ""}


CLAIM |= {"left": 1.0, "right": 10.81, "scale": "difference", "metric": "test_error"}


SUMMARY = {
    "title": "A good study",
    "label": "",
    "settings": {"epochs": 5},
    "banner": "These numbers come from the embedded digits",
    "notes": ["record a.json is not used: cut short", "record b.json is not used", "record c.json is not used"],
    "data": [{"name": "digits_28", "fingerprint": "a74c8ab5044ce28b", "embedded": True}],
    "runs": {"total": 9, "missing": 2, "trained": 3, "diverged": 1, "cpu_seconds": 7.5, "wall_seconds": 4.0},
    "tables": [
        {"file": "tables/doc_table1.csv", "title": "Table 1", "cells": 10}
        | dict(zip(WORDS, (5, 2, 0, 1, 0, 2), strict=True))
        | {"counted": "3 of 4", "other scale": 0, "likeness": ""}
    ],
    "findings": "**Deeper** is <b>better</b>.",
    "figures": [{"file": "../../figures/quick/01_good_figure1.png", "title": "Figure 1", "alt": "A dot"}],
    "claims": [
        CLAIM
        | {"verdict": "supported", "effect": -9.81, "low": -10.5, "high": None, "n": 10, "note": ""}
        | {"comparisons": 3, "pointing": 3, "shown": 2},
        CLAIM
        | {"protocol": "sound", "verdict": "leans", "effect": None, "low": None, "high": None, "n": 1}
        | {"note": "one run", "comparisons": 1, "pointing": 1, "shown": 0},
    ],
    "finished_at": "2025-01-02T03:04:05+01:00",
}
GOOD = [
    "# A good study\n\nInline $\\frac{1}{2}$, not `$x$`.\n\n$$\\sum_i w_i^2$$\n\n```\n$y$\n```",
    "# Exercise\n\n<details><summary>Solution</summary>\n\nfolded **away**\n\n</details>\n\nafter",
    "import sys; from IPython.display import HTML, display; secret_code = 6 * 7; secret_code",
    "print('a log', 'line', file=sys.stderr)",
    "display(HTML('<table><tr><td>7</td></tr></table><SCRIPT src=x>alert(2)\\n</SCRIPT >'))",
    "from IPython.display import Image, Markdown; display(Markdown('<script>alert(3)</script>'))",
    f"display(Image(bytes.fromhex('{PNG}'), format='png'))",
]


def write_notebook(study: str, cells: list[str]) -> None:
    """Write a notebook whose cells are Markdown where they start with #, with parameters and what finish() does."""
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    body = [new_markdown_cell(text) if text.startswith("# ") else new_code_cell(text) for text in cells]
    finish = FINISH.format(png=PNG, summary=json.dumps(SUMMARY | {"study": study}), study=study)
    notebook = new_notebook(cells=[parameters, *body, new_code_cell(finish)])
    nbformat.write(notebook, paths.NOTEBOOKS / f"{study}.ipynb")


def point_at(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make `folder` the project: its notebooks/, and output under it."""
    (folder / "notebooks").mkdir()
    patch.setattr(paths, "NOTEBOOKS", folder / "notebooks")
    patch.setenv("DEEPNETS_OUTPUT", str(folder))


def older_page(folder: Path, study: str) -> None:
    folder.mkdir(parents=True)
    (folder / f"{study}.html").write_text("<!--nav--><!--/nav--> an older page")
    page = {"token": "t", "seconds": 1.0, "at": "2024-05-06T07:08:09+00:00"}
    (folder / f".{study}.report.json").write_text(json.dumps({"page": page, "failure": None}))
    (folder / f"{study}.json").write_text(json.dumps(SUMMARY | {"token": "t", "study": study, "device": "cpu"}))
