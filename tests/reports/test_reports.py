"""Reports: success is proved, failures are kept and named, pages stand alone."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Awaitable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from deepnets_utils.reports import cells, execution, html, pdf, reporting, summaries
from deepnets_utils.reports.figures import embedded
from deepnets_utils.reports.notebooks import read_title
from deepnets_utils.reports.parameters import Parameter, check_parameters, read_parameters, report_folder
from deepnets_utils.results.comparison import WORDS
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError

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
FAILURES = {
    "raise": ("raise ValueError('no such cell\\nsecond line')", "ValueError: no such cell (and 1 more lines)"),
    "die": ("import os; os.kill(os.getpid(), 9)", "the kernel died"),
    "leave": ("import sys; sys.exit()", "did not reach study.finish()"),
}


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


def test_a_good_notebook_gives_a_page_a_notebook_and_an_index(good, capsys) -> None:
    assert good.error == ""
    names = {path.name for path in good.folder.iterdir()}
    assert names >= {"01_good.html", "01_good.ipynb", "01_good.json", ".01_good.report.json", "index.html", "tables"}
    assert not [name for name in names if "partial" in name or "failed" in name]
    assert "DEEPNETS_REPORT_TOKEN" not in os.environ and os.environ["DEEPNETS_OUTPUT"] == "."


def test_the_kernel_is_this_python_beside_the_notebooks(good) -> None:
    device = json.loads((good.folder / "01_good.json").read_text())["device"]
    assert device == f"{sys.executable} in {paths.NOTEBOOKS.resolve()}"


def test_nobody_watches_a_report_that_jupyterlab_started(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    write_notebook("01_good", ["from deepnets_utils.runs.progress import watched\n\nassert not watched()"])
    assert reporting.make_report("1", {}).error == ""


@pytest.mark.parametrize("name", ["ж" * 20, "a" * 200])
def test_kernels_have_sockets_wherever_tmpdir_is(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tmp_path_factory.mktemp("t") / name / name
    place.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(place)
    source = "import ipykernel\n\nassert ipykernel.get_connection_info(unpack=True)['transport'] == 'ipc'"
    write_notebook("01_good", [source])
    assert reporting.make_report("1", {}).error == ""


def test_the_page_stands_alone(good) -> None:
    page = (good.folder / "01_good.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", page)
    assert "<script" not in page.lower() and "a log line" not in page
    assert re.search(r'<img alt="a picture without description" src="data:image/png', " ".join(page.split()))
    assert "<td>7</td>" in page and "42" in page
    assert re.search(r"</summary>\s*<p>folded <strong>away</strong></p>\s*</details>\s*<p>after", page)
    assert page.count("<math") == 2 and "$x$" in page and "$y$" in page


def test_what_a_page_needs_from_elsewhere_is_named(project: Path) -> None:
    text = "# Notes\n\n![a](lost.png)\n\n![b](found.png)\n\n<iframe src='https://example.org/film'></iframe>"
    (project / "notebooks" / "found.png").write_bytes(bytes.fromhex(PNG))
    write_notebook("01_good", [text, "print('<img src=shown.png>')"])
    said = "Not on this page, for they lie elsewhere or are missing: lost.png, https://example.org/film."
    with pytest.warns(UserWarning, match=re.escape(said)):
        outcome = reporting.make_report("1", {})
    assert outcome.error == "" and said in (outcome.folder / "01_good.html").read_text()


def test_the_page_tells_what_it_is(good) -> None:
    page = (good.folder / "01_good.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "These numbers come from the embedded digits" in page and "2 of 9 runs are not there" in page
    for text in (page, (good.folder / "index.html").read_text()):
        assert "record a.json is not used: cut short; record b.json is not used; and 1 more" in text
    assert "9 (3 trained now, 4 stored, 2 missing, 1 diverged)" in page and "torch " in page
    assert '<a href="index.html">' in page and "02_never" not in page  # no link to a page that is not there


def test_code_is_shown_or_not(good) -> None:
    executed = nbformat.read(good.folder / "01_good.ipynb", as_version=4)
    page = html.study_page(
        executed, good.folder, SUMMARY | {"profile": "quick", "parameters": {}, "device": ""}, 1, True
    )
    assert "secret_code" in (good.folder / "01_good.html").read_text()
    assert "secret_code" not in page and "profile: str" not in page and "42" in page and "<math" in page


def test_tables_that_one_checks_are_folded(tmp_path: Path) -> None:
    table = "<table><tr><td>{}</td></tr></table>"
    shown = [nbformat.v4.new_output("display_data", {"text/html": table.format(text)}) for text in ("one", "two")]
    cells = [
        new_code_cell("1", outputs=[shown[0]], metadata={"tags": ["checked"]}),
        new_code_cell("2", outputs=shown[1:]),
    ]
    summary = SUMMARY | {"profile": "quick", "parameters": {}, "device": ""}
    page = BeautifulSoup(html.study_page(new_notebook(cells=cells), tmp_path, summary, 1, True), "html.parser")
    assert page.find("td", string="one").find_parent("details").summary.string == "a table of 1 lines"
    assert not page.find("td", string="two").find_parent("details")


def test_a_page_is_printed_by_a_browser_or_a_clear_error_is_said(good, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(map(shutil.which, pdf.BROWSERS)):
        written = pdf.write_pdf(good.folder / "01_good.html", pdf.find_browser())
        assert written.name == "01_good.pdf" and written.read_bytes().startswith(b"%PDF")
    with pytest.raises(OSError, match=r"false has not printed .*01_good\.html"):
        pdf.write_pdf(good.folder / "01_good.html", "false")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(pdf, "BROWSERS", pdf.BROWSERS[:2])
    with pytest.raises(ParameterError, match="Chromium"):
        pdf.find_browser()


def test_code_is_folded_and_a_page_begins_with_what_was_found(tmp_path: Path) -> None:
    def output(text: str, *tags: str) -> nbformat.NotebookNode:
        shown = nbformat.v4.new_output("display_data", {"text/plain": text})
        return new_code_cell(f"'{text}'\n2", outputs=[shown], metadata={"tags": list(tags)})

    audit = "## Audit\n\nIntro.\n\n| a | b | c |\n| --- | --- | --- |\n| {x} | y | z |"
    made = [new_markdown_cell("# Title"), output("typed", "parameters"), new_markdown_cell("# S\n## What & why\ntext")]
    made += [output("drawn", "lead"), output("usual"), new_markdown_cell("{n} found", metadata={"tags": ["findings"]})]
    made += [output("found", "findings"), new_markdown_cell(audit, metadata={"tags": ["audit"]}), output("audited")]
    summary = SUMMARY | {"profile": "quick", "parameters": {}, "device": ""}
    page = html.study_page(new_notebook(cells=made), tmp_path, summary, 1, False)
    text = BeautifulSoup(page, "html.parser").main.get_text(" ")
    order = ["Title", "found", "drawn", "What & why", "usual", "Audit", "Intro", "audited", "settings", "typed"]
    places = [text.index(word) for word in order]
    assert places == sorted(places) and "{n}" not in text and "{x}" not in text
    folded = re.findall(r'<details class="code"><summary>(.*?)</summary>', page)
    assert folded == ["2 lines of code"] * 5
    assert '<a href="#What-&amp;-why">What &amp; why</a>' in page and 'id="What-&amp;-why"' in page


def test_a_picture_is_linked_with_its_own_file_where_two_have_one_description(tmp_path: Path) -> None:
    shown = [nbformat.v4.new_output("display_data", {"text/html": embedded(b"", name, "A dot").data}) for name in "ba"]
    figures = [{"file": f"{name}.png", "title": name, "alt": "A dot"} for name in "ab"]
    summary = SUMMARY | {"figures": figures, "profile": "quick", "parameters": {}, "device": ""}
    page = html.study_page(new_notebook(cells=[new_code_cell("", outputs=shown)]), tmp_path, summary, 1, False)
    pictures = BeautifulSoup(page, "html.parser").main.find_all("figure")
    assert [(of.a["href"], of.figcaption.text) for of in pictures] == [("b.png", "b"), ("a.png", "a")]


def test_pages_of_another_scale_than_the_documents_say_so(good) -> None:
    for page in ("01_good.html", "index.html"):
        assert "Profile quick is not the documents' own scale" in (good.folder / page).read_text().replace("&#39;", "'")
    assert "own scale" not in html.index_page("paper", [], [])


def test_the_index_lists_all_studies_claims_tables_and_figures(good) -> None:
    index = (good.folder / "index.html").read_text()
    assert '<span class="word ok">' in index and "Never run" in index and '<span class="word not">not run' in index
    assert (
        "Deeper is &lt;better&gt;" in index
        and "9.81 points lower (1 against 10.8 %)" in index
        and "[at least -10.5]" in index
        and "one run" in index
    )
    assert '<span class="word supported">' in index and '<span class="word leans">' in index
    assert "3 of 3 point the claimed way, 2 shown" in index and "<td>quick</td>" in index
    assert re.search(r">10</td>\s*<td class=\"number\">5</td>\s*<td class=\"number\">2</td>", index)
    for link in re.findall(r'(?:href|src)="([^"#:]+)"', index):
        assert (good.folder / link).exists(), link
    assert 'alt="A dot"' in index and "<strong>Deeper</strong> is &lt;b&gt;better&lt;/b&gt;." in index
    assert 'href="quick/index.html"' in (good.folder.parent / "index.html").read_text()


def test_the_zip_holds_pages_tables_and_figures_with_links_that_hold(good, tmp_path: Path) -> None:
    shutil.unpack_archive(reporting.write_zip(good.folder), tmp_path)
    folder = tmp_path / "deepnets" / "reports" / "quick"
    for page in (folder / "index.html", folder / "01_good.html", folder.parent / "index.html"):
        for link in re.findall(r'(?:href|src)="([^"#:]+)"', page.read_text()):
            assert (page.parent / link).exists(), link
    assert not list(tmp_path.rglob("*.ipynb"))
    assert "doc_table1.csv" in (folder / "index.html").read_text()


def older_page(folder: Path, study: str) -> None:
    folder.mkdir(parents=True)
    (folder / f"{study}.html").write_text("<!--nav--><!--/nav--> an older page")
    page = {"token": "t", "seconds": 1.0, "at": "2024-05-06T07:08:09+00:00"}
    (folder / f".{study}.report.json").write_text(json.dumps({"page": page, "failure": None}))
    (folder / f"{study}.json").write_text(json.dumps(SUMMARY | {"token": "t", "study": study, "device": "cpu"}))


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_kept_and_named_and_an_older_page_stays(how: str, project: Path, capsys) -> None:
    source, error = FAILURES[how]
    write_notebook("01_fragile", ["# Fragile", "print('before')", source])
    folder = project / "reports" / "quick"
    older_page(folder, "01_fragile")
    outcome = reporting.make_report("01_fragile", {})
    assert error in outcome.error
    kept = nbformat.read(folder / "01_fragile.failed.ipynb", as_version=4)
    assert error.split(" (and")[0] in kept.cells[0].source and "before" in str(kept.cells)
    assert how != "raise" or "second line" in str(kept.cells)
    assert "an older page" in (folder / "01_fragile.html").read_text()
    assert not (folder / "01_fragile.ipynb").exists() and not list(folder.glob(".*.ipynb"))
    index = (folder / "index.html").read_text()
    assert '<span class="word failed">' in index and '<span class="word ok">' not in index
    assert str(html.escape(error)) in index and "2024-05-06 07:08" in index and "01_fragile.failed.ipynb" in index
    assert "failed" in capsys.readouterr().err


def test_numbers_written_by_hand_make_the_page_an_older_one(project: Path) -> None:
    write_notebook("01_good", GOOD)
    folder = project / "reports" / "quick"
    older_page(folder, "01_good")
    assert reporting.study_row(folder, "01_good")["status"] == "ok"
    (folder / "01_good.json").write_text(json.dumps(SUMMARY | {"token": ""}))
    assert reporting.study_row(folder, "01_good")["status"] == "older page"
    (folder / "01_good.html").unlink()
    assert reporting.study_row(folder, "01_good")["status"] == "no page"
    (folder / "01_good.json").unlink()
    assert reporting.study_row(folder, "01_good")["status"] == "not run"


def test_a_page_says_that_its_notebook_was_edited_since(project: Path) -> None:
    write_notebook("01_good", GOOD)
    folder = reporting.make_report("1", {}).folder
    assert reporting.study_row(folder, "01_good")["status"] == "ok"
    write_notebook("01_good", [*GOOD, "1 + 1"])
    reporting.write_indexes(folder)
    assert reporting.study_row(folder, "01_good")["status"] == "older notebook"
    assert "edited since" in (folder / "index.html").read_text()


@pytest.mark.parametrize("other", ["paper", "overnight"])
def test_a_page_that_reads_others_is_older_than_theirs_when_they_are_made_anew(good, tmp_path: Path, other) -> None:
    folder = shutil.copytree(good.folder, tmp_path / "paper")
    shutil.copytree(good.folder, tmp_path / "overnight")
    reader = nbformat.read(paths.NOTEBOOKS / "01_good.ipynb", as_version=4)
    reader.metadata["deepnets"] = {"reads_others": True}
    nbformat.write(reader, paths.NOTEBOOKS / "03_reader.ipynb")
    try:
        for file in ("{}.html", "{}.json", ".{}.report.json"):
            shutil.copy(folder / file.format("01_good"), folder / file.format("03_reader"))
        record = json.loads((folder / ".03_reader.report.json").read_text())
        del record["page"]["notebook"]  # the copy's page was made from another notebook
        (folder / ".03_reader.report.json").write_text(json.dumps(record))
        assert reporting.study_row(folder, "03_reader")["status"] == "ok"
        anew = json.loads((folder / "01_good.json").read_text()) | {"finished_at": "2025-01-02T03:04:06+01:00"}
        (tmp_path / "overnight" / "03_reader.json").write_text(json.dumps(anew | {"study": "03_reader"}))
        assert reporting.study_row(folder, "03_reader")["status"] == "ok", "it does not read its like"
        (tmp_path / other / "01_good.json").write_text(json.dumps(anew))
        assert reporting.study_row(folder, "03_reader")["status"] == "older than others"
        assert reporting.study_row(folder, "01_good")["status"] == "ok"
    finally:
        (paths.NOTEBOOKS / "03_reader.ipynb").unlink()


def test_an_interrupt_leaves_everything_as_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_good", GOOD)
    older_page(project / "reports" / "quick", "01_good")

    def interrupt(notebook: Path, partial: Path, *arguments: object, **settings: object) -> None:
        shutil.copy(notebook, partial)
        raise KeyboardInterrupt

    monkeypatch.setattr(execution.papermill, "execute_notebook", interrupt)
    before = {path.name: path.read_bytes() for path in (project / "reports" / "quick").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        reporting.make_report("1", {})
    after = {path.name: path.read_bytes() for path in (project / "reports" / "quick").iterdir()}
    assert {name: text for name, text in after.items() if not name.endswith(".lock")} == before


def test_pages_are_linked_with_their_neighbours(project: Path) -> None:
    for study in ("01_a", "02_b", "03_c"):
        write_notebook(study, [f"# {study}"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_a")
    shutil.copy(folder / ".01_a.report.json", folder / ".03_c.report.json")
    for name in ("html", "json"):
        shutil.copy(folder / f"01_a.{name}", folder / f"03_c.{name}")
    reporting.write_indexes(folder)
    assert 'class="next" href="03_c.html"' in (folder / "01_a.html").read_text()
    page = (folder / "03_c.html").read_text()
    assert 'href="01_a.html"' in page and "02_b" not in page and page.count("<nav>") == 1


def test_widgets_and_log_lines_are_left_out() -> None:
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"})
    table = new_output("display_data", {"text/html": "<b>1</b>"})
    log = new_output("stream", name="stderr", text="line")
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[widget, table, log]), new_markdown_cell("text")])
    shown = cells.printable(notebook, [])
    assert [output.data["text/html"] for output in shown.cells[0].outputs] == ["<b>1</b>"]
    assert len(notebook.cells[0].outputs) == 3  # the notebook itself keeps them


def test_the_claims_on_top_have_their_verdicts_beside_them() -> None:
    table = pd.DataFrame(
        {"judged as": ["less", "less", "less"]}, index=pd.Index(["A < B", "one", "none"], name="claim")
    )
    output = new_output("display_data", {"text/html": table._repr_html_()})
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[output], metadata={"tags": ["claims"]})])
    lines = [{"statement": "A < B", "verdict": word} for word in ("supported", "contradicted")]
    lines.append({"statement": "one", "verdict": "leans against"})
    shown = cells.printable(notebook, lines).cells[0].outputs[0].data["text/html"]
    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(shown, "html.parser").find_all("tr")
    ]
    assert rows == [
        ["", "judged as", "found here"],
        ["claim", "", ""],
        ["A < B", "less", "decided in part"],
        ["one", "less", "leans against"],
        ["none", "less", ""],
    ]
    assert 'class="word leans"' in shown


def test_in_tables_words_stand_to_the_left_and_numbers_to_the_right() -> None:
    frame = pd.DataFrame(
        {"ours": ["1.2 ± 0.1 (n=3)", "NaN"], "verdict": ["same", ""]}, index=pd.Index(["a", "b"], name="row")
    )
    shown = BeautifulSoup(cells.align(frame.to_html()), "html.parser")
    assert [cell.get_text() for cell in shown.select("td.text")] == ["same", ""]
    assert [cell.get_text() for cell in shown.select("th.text")] == ["", "verdict", "row", ""]
    assert [cell.get_text() for cell in shown.select("th.short")] == ["a", "b"]
    assert cells.align("<table><td>word</td></table>") == "<table><td>word</td></table>"
    wide = pd.DataFrame([[1, "word"]], columns=pd.MultiIndex.from_tuples([("top", "a"), ("top", "b")]))
    assert BeautifulSoup(cells.align(wide.to_html()), "html.parser").select("td.text")[0].get_text() == "word"
    assert cells.align(pd.DataFrame().to_html()) == "None of these runs is stored yet."
    assert "style scoped" in frame._repr_html_() and "<style" not in cells.align(frame._repr_html_())


def test_a_formula_that_cannot_be_read_is_shown_as_it_is_written() -> None:
    assert html.mathml(r"x^2", "inline").startswith("<math")
    assert html.mathml(r"\frac{1}{", "inline") == r"<code>\frac{1}{</code>"


def declared(**defaults: object) -> dict[str, Parameter]:
    return {name: Parameter(name, type(value).__name__, value, "", ()) for name, value in defaults.items()}


def test_an_override_reports_beside_the_profile_and_never_over_it(project: Path) -> None:
    known = declared(profile="quick", data="auto", device="auto", workers=0, seeds=0, epochs=0, networks=[], name="")

    def folder(**values: object) -> str:
        path = report_folder(check_parameters(known, values), known)
        assert path.parent == project / "reports"
        return path.name

    assert folder() == folder(device="cpu", workers=3, seeds=0, data="real") == "quick"
    assert folder(profile="paper", seeds=3, epochs=5) == "paper+epochs=5,seeds=3"
    assert folder(data="embedded") == "quick+data=embedded"
    assert folder(networks=["A", "B"]) == "quick+networks=A_B" != folder(networks=["A", "C"])
    assert len({folder(networks=names) for names in (["A", "B"], ["A_B"], ["A_B", "C"], ["A", "B_C"])}) == 4
    names = [folder(name=text) for text in ("../x", ".._x", "a/b", "a b", "a" * 300, "a" * 301)]
    assert len(set(names)) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,100}", name) for name in names)


def test_data_that_a_profile_never_uses_are_refused_before_anything_runs(project: Path) -> None:
    write_notebook("01_good", GOOD)
    with pytest.raises(ParameterError, match="embedded in profile paper.*auto or real"):
        reporting.make_report("1", {"profile": "paper", "data": "embedded"})
    assert not (project / "reports").exists()


def test_titles_and_parameters_are_read_from_the_notebook(project: Path) -> None:
    write_notebook("01_good", GOOD)
    assert read_title(paths.NOTEBOOKS / "01_good.ipynb") == "A good study"
    assert list(read_parameters(paths.NOTEBOOKS / "01_good.ipynb")) == ["profile", "data", "seeds", "note"]


@pytest.mark.browser
def test_pages_open_without_network_request_or_console_error(good, browser) -> None:
    page = browser.new_context(offline=True, viewport={"width": 1366, "height": 768}).new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if "file:" not in request.url[:5] else None)
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
    for file in (good.folder / "01_good.html", good.folder / "index.html", good.folder.parent / "index.html"):
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    assert [text for text in trouble if not text.startswith("data:")] == []


def test_what_reads_the_others_results_runs_after_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_reads", GOOD)
    write_notebook("02_good", GOOD)
    reads = paths.NOTEBOOKS / "01_reads.ipynb"
    notebook = nbformat.read(reads, as_version=4)
    notebook.metadata["deepnets"] = {"reads_others": True}
    nbformat.write(notebook, reads)
    made = []
    monkeypatch.setattr(reporting, "make_report", lambda study, values, **options: made.append(study))
    jobs = [(study, {"profile": profile}) for profile in ("quick", "paper") for study in ("01_reads", "02_good")]
    reporting.make_reports(jobs[:2])
    assert made == ["02_good", "01_reads"]
    made.clear()
    monkeypatch.setattr(reporting, "make_report", lambda study, values, **options: made.append((study, values)))
    reporting.make_reports(jobs)
    assert made == [jobs[1], jobs[3], jobs[0], jobs[2]], "they read those of other profiles, too"


def test_the_index_adds_up_what_is_missing(good) -> None:
    rows = [reporting.study_row(good.folder, "01_good") | {"study": name} for name in ("01_good", "02_other")]
    for row, seconds in zip(rows, (7000.0, 3800.0), strict=True):
        runs = {"total": 9, "missing": 2, "missing_seconds": seconds, "missing_unknown": 1, "trained": 0}
        row["summary"] = row["summary"] | {"runs": runs | {"missing_by": "by stored runs on cuda"}}
    page = html.index_page("quick", rows, [])
    assert "4 of 18 runs are not there; by stored runs on cuda they take about 3.0 h one after another" in page
    assert "one after another, without 2 that nothing stored is like" in page
    rows[0]["summary"]["runs"]["later"] = 5
    page = html.index_page("quick", rows, [])
    assert "without 2 that nothing stored is like; 5 more cannot be planned before them" in page


def old_page_stays(folder: Path, study: str) -> None:
    assert "an older page" in (folder / f"{study}.html").read_text()
    assert not (folder / f"{study}.ipynb").exists()


def test_a_cell_that_takes_too_long_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_slow", ["# Slow", "import time; time.sleep(60)"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_slow")
    execute = execution.papermill.execute_notebook
    monkeypatch.setattr(
        execution.papermill, "execute_notebook", lambda *args, **options: execute(*args, execution_timeout=1, **options)
    )
    outcome = reporting.make_report("1", {})
    assert "CellTimeoutError" in outcome.error and reporting.study_row(folder, "01_slow")["status"] == "failed"
    old_page_stays(folder, "01_slow")


def test_a_page_that_cannot_be_made_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook("01_good", ["# A good study"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_good")

    def broken(*arguments: object) -> None:
        raise RuntimeError("no template is called basic")

    with monkeypatch.context() as patch:
        patch.setattr(html.PageExporter, "from_notebook_node", broken)
        outcome = reporting.make_report("1", {})
    assert outcome.error == "the page cannot be made: RuntimeError: no template is called basic"
    assert reporting.study_row(folder, "01_good")["status"] == "failed"
    assert (folder / "01_good.failed.ipynb").exists()
    old_page_stays(folder, "01_good")
    assert reporting.make_report("1", {}).error == "" and "an older page" not in (folder / "01_good.html").read_text()


def test_a_report_that_is_killed_leaves_the_old_page_and_no_kernel(project: Path) -> None:
    notes = "import os, pathlib, time; pathlib.Path(os.environ['DEEPNETS_OUTPUT'], 'pid').write_text(str(os.getpid()))"
    write_notebook("01_slow", ["# Slow", f"{notes}\ntime.sleep(60)"])
    folder = project / "reports" / "quick"
    older_page(folder, "01_slow")
    process, pid = FORK.Process(target=reporting.make_report, args=("1", {})), project / "pid"
    process.start()
    while not (pid.exists() and pid.read_text()):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    old_page_stays(folder, "01_slow")
    end = time.monotonic() + 10
    while psutil.pid_exists(int(pid.read_text())):
        assert time.monotonic() < end, "the kernel goes on"
        time.sleep(0.1)
    write_notebook("01_slow", ["# Fast now"])
    assert reporting.make_report("1", {}).error == "" and reporting.study_row(folder, "01_slow")["status"] == "ok"
    assert not list(folder.glob(".*.ipynb"))


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs, and studies that need no notebook; see `_told` and `_killed`."""
    if sys.platform != "linux":
        pytest.skip("other systems' processes import the module anew")
    monkeypatch.setattr(reporting, "reads_others", lambda notebook: False)
    monkeypatch.setattr(reporting, "notebook_path", Path)
    monkeypatch.setattr(reporting, "write_indexes", lambda folder: None)
    monkeypatch.setattr(reporting, "resolve", lambda device, workers: ("cpu" if device == "auto" else device, 4))
    monkeypatch.setattr(reporting, "make_report", _told)


def _told(study: str, given: Mapping[str, object], *, hide_code: bool) -> reporting.Outcome:
    return reporting.Outcome(study, Path(), f"{given.get('workers')} in {os.getpid()}")


@pytest.mark.parametrize(
    "values, shared, workers",
    [
        ({"profile": "quick"}, True, 2),
        ({"profile": "quick", "workers": 3}, False, 3),
        ({"profile": "quick", "device": "cuda"}, False, None),
        ({"profile": "quick", "train": "never"}, True, None),
        ({"profile": "smoke"}, True, None),
        ({"profile": "paper"}, False, None),
        ({"profile": "paper", "train": "never"}, True, None),
    ],
)
def test_which_reports_share_the_cpus(several: None, values: dict, shared: bool, workers: int | None) -> None:
    outcomes = reporting.make_reports([("01_a", values), ("02_b", values)])
    assert [outcome.study for outcome in outcomes] == ["01_a", "02_b"]
    assert [outcome.error.partition(" in ")[0] for outcome in outcomes] == [str(workers)] * 2
    assert all((outcome.error == f"{workers} in {os.getpid()}") != shared for outcome in outcomes)


def test_a_report_process_that_is_killed_among_several_is_named(several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "make_report", _killed)
    with pytest.raises(ChildProcessError, match="was killed"):
        reporting.make_reports([("01_a", {"profile": "smoke"}), ("02_b", {"profile": "smoke"})])


def _killed(study: str, given: object, *, hide_code: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_reports_of_one_study_at_once(project: Path) -> None:
    write_notebook("01_good", ["# A good study", "import time; time.sleep(0.5)"])
    with ProcessPoolExecutor(2, FORK) as pool:
        pair = [pool.submit(reporting.make_report, "1", {}) for _ in range(2)]
        assert [report.result().error for report in pair] == ["", ""]
    folder = project / "reports" / "quick"
    assert reporting.study_row(folder, "01_good")["status"] == "ok" and not list(folder.glob(".*.ipynb"))
    assert "A good study" in (folder / "index.html").read_text()


def test_a_folder_without_file_locks_is_refused_before_the_notebook_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    write_notebook("01_good", ["# A good study"])
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(reporting, "execute", lambda *_: pytest.fail("the notebook ran"))
    with pytest.raises(OSError, match=f"^{project / 'reports' / 'quick'} is on a file system without file locks"):
        reporting.make_report("1", {})


def test_html_in_any_text_of_a_summary_shows_as_text(good) -> None:
    def hostile(value: object) -> object:
        if isinstance(value, dict):
            return {key: value if key == "verdict" else hostile(value) for key, value in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return "<img src=x onerror=alert(3)>" if isinstance(value, str) else value

    row = reporting.study_row(good.folder, "01_good")
    row |= {"summary": hostile(row["summary"]), "title": hostile("title"), "study": hostile("study")}
    claims = [hostile(claim | {"study": "study", "profile": "profile"}) for claim in SUMMARY["claims"]]
    executed = nbformat.read(good.folder / "01_good.ipynb", as_version=4)
    pages = [
        html.index_page(hostile("name"), [row], claims),
        html.profiles_page([{"name": hostile("name"), "statuses": {}, "verdicts": {}, "newest": hostile("newest")}]),
        html.study_page(executed, good.folder, row["summary"], 1.0, True),
    ]
    for page in pages:
        assert "&lt;img src=x onerror=alert(3)&gt;" in page and "<img src=x" not in page


@pytest.mark.parametrize("within", ["a wait", "a destructor"])
def test_an_interrupted_report_waits_for_what_the_kernel_finishes(
    project: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    """A kernel that is told to end kills its processes after five seconds, whatever they train."""
    started, finished = project / "started", project / "finished"
    cell = f"""import pathlib, time
try:
    pathlib.Path({str(started)!r}).touch()
    time.sleep(60)
finally:
    time.sleep(6)
    pathlib.Path({str(finished)!r}).touch()"""
    write_notebook("01_slow", ["# Slow", cell])

    class Interrupting:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # an exception would be raised here, where Python prints and drops it

    class Kernel(execution.ThisPython):
        def _async_is_alive(self) -> Awaitable[bool]:  # nbclient asks once a second
            if started.exists():
                objects.clear()
            return super()._async_is_alive()

    objects: list[Interrupting] = []

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        monkeypatch.setattr(execution, "ThisPython", Kernel)
        objects.extend([Interrupting()] if within == "a destructor" else [])
        reporting.make_report("1", {})

    process = FORK.Process(target=interruptible)
    process.start()
    while not started.exists():
        assert process.is_alive()
        time.sleep(0.05)
    if within == "a wait":
        os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert finished.exists() and process.exitcode
    assert not list((project / "reports" / "quick").glob("*.html"))


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_report_that_is_told_to_end_saves_a_checkpoint(project: Path, everywhere: bool) -> None:
    cell = """import os, pathlib
from deepnets_utils.models import model
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.data.tasks import task

spec = task("pixel_statistic", train_size=90, validation_size=30)
fields = {"dataset": "digits_28", "task": spec, "model": model("MLPRegressor"), "learning_rate": 1e-3, "batch_size": 18}
pathlib.Path(os.environ["DEEPNETS_OUTPUT"], "pid").write_text(str(os.getpid()))
sweep([Run(epochs=epochs, **fields) for epochs in (1, 10**5)], store=Store(published=None))"""
    write_notebook("01_long", ["# Long", cell])
    process = FORK.Process(target=reporting.make_report, args=("1", {}))
    process.start()
    while not list((project / "runs" / "records").glob("*.json")):
        assert process.is_alive()
        time.sleep(0.05)
    for pid in [process.pid, *([int((project / "pid").read_text())] if everywhere else [])]:
        os.kill(pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 143 and len(list((project / "runs" / "checkpoints").glob("*.pt"))) == 1
    assert not psutil.pid_exists(int((project / "pid").read_text()))
    assert not list((project / "reports" / "quick").glob("*.html"))


@pytest.mark.parametrize("text", ['{"study": "02_', "[]"])
def test_a_damaged_summary_is_moved_aside_and_the_others_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "01_whole.json").write_text('{"study": "01_whole"}')
    (tmp_path / "02_cut.json").write_text(text)
    with pytest.warns(UserWarning, match="02_cut.json is not used"):
        assert summaries.read_all(tmp_path) == [{"study": "01_whole"}]
    assert not (tmp_path / "02_cut.json").exists() and len(list(tmp_path.iterdir())) == 2


def test_a_damaged_notebook_is_named_and_does_not_stop_others(project: Path) -> None:
    write_notebook("01_good", GOOD)
    (paths.NOTEBOOKS / "02_damaged.ipynb").write_text("{nope")
    (paths.NOTEBOOKS / "01_good-Copy1.ipynb").write_text("{}")
    outcome = reporting.make_report("1", {})
    assert outcome.error == "" and reporting.study_row(outcome.folder, "02_damaged")["status"] == "not run"
    with pytest.raises(ParameterError, match="02_damaged.ipynb is no notebook with cells"):
        reporting.make_report("2", {})


def test_a_notebook_cut_short_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "partial").write_text('{"cells": [')  # as a full disk leaves it
    execution.keep_failed(tmp_path / "partial", tmp_path / "01_a.failed.ipynb", "OSError: no space left")
    assert (tmp_path / "01_a.failed.ipynb").read_text() == '{"cells": ['


def claims_in(folder: Path, study: str, **verdicts: str) -> None:
    """Write the summary of a study whose claims have these verdicts."""
    folder.mkdir(parents=True, exist_ok=True)
    nothing = SUMMARY["claims"][1] | {"n": 0}
    lines = [nothing | {"id": name, "verdict": verdict} for name, verdict in verdicts.items()]
    summary = SUMMARY | {"study": study, "claims": lines, "device": "cpu", "figures": [], "token": ""}
    (folder / f"{study}.json").write_text(json.dumps(summary))


def test_a_point_of_the_audit_is_of_the_largest_scale_that_measured_it(tmp_path: Path) -> None:
    def measured(name: str, *changes: str) -> Path:
        points = [{"finding": f"f{k}", "text": "so", "change": change} for k, change in enumerate(changes)]
        (folder := tmp_path / name).mkdir()
        (folder / "01_a.json").write_text(json.dumps({"study": "01_a", "audit": points}))
        return folder

    partly = "b 2.0, c too few runs"
    overnight = measured("overnight", "a 1.0", "too few runs", partly, partly, "too few runs")
    paper = measured("paper", "a 3.0", "b 4.0", "b too few runs, c too few runs", "too few runs", "too few runs")
    found = [change for *_, change in summaries.audit(paper, "01_a")]
    assert found == ["a 3.0", "b 4.0", *[f"At the scale of overnight: {partly}"] * 2, "too few runs"]
    found = [change for *_, change in summaries.audit(overnight, "01_a")]
    assert found[:3] == ["At the scale of paper: a 3.0", "At the scale of paper: b 4.0", partly]
    assert summaries.audit(measured("quick", "a 5.0"), "01_a") == [("f0", "so", "a 5.0")]
    assert summaries.audit(paper, "02_b") == []


def test_a_claim_is_judged_at_the_largest_scale_that_has_its_runs(project: Path) -> None:
    for study in ("01_a", "02_b"):
        write_notebook(study, ["# A study"])
    quick, overnight, paper = (project / "reports" / name for name in ("quick", "overnight", "paper"))
    claims_in(quick, "01_a", a="contradicted")
    claims_in(paper, "01_a", a="undecided", b="too few runs", c="too few runs", d="too few runs", f="too few runs")
    claims_in(overnight, "01_a", a="supported", b="leans", c="too few runs", f="not tried")
    claims_in(overnight, "02_b", e="not tried")
    found = {"a": ("paper", "undecided"), "b": ("overnight", "leans"), "c": ("paper", "too few runs")}
    found |= {"d": ("paper", "too few runs"), "e": ("overnight", "not tried"), "f": ("overnight", "not tried")}
    for folder in (paper, overnight):
        assert {line["id"]: (line["profile"], line["verdict"]) for line in summaries.claims(folder)} == found
    assert [line["study"] for line in summaries.claims(paper)] == ["01_a"] * 5 + ["02_b"]
    for name in ("quick", "paper+seeds=3"):
        claims_in(project / "reports" / name, "01_a", a="contradicted")
        (line,) = summaries.claims(project / "reports" / name)
        assert (line["profile"], line["verdict"]) == (name, "contradicted")
    reporting.write_indexes(paper)
    for folder in (paper, overnight):
        index = (folder / "index.html").read_text()
        words = '1 <span class="word leans">leans</span>, 1 <span class="word undecided">undecided</span>'
        assert words in " ".join(index.split()) and "<td>overnight</td>" in index
    claims_in(paper, "01_a", b="supported")
    reporting.write_indexes(paper)
    assert "word leans" not in (overnight / "index.html").read_text(), "written anew with the other's"
    for folder in (paper, overnight):
        (folder / "01_a.html").write_text("<!--nav--><!--/nav-->")
        (folder / ".01_a.report.json").write_text(
            json.dumps({"page": {"token": "", "at": "2025-01-02T03:04", "seconds": 1}})
        )
    reporting.write_indexes(paper)
    for folder, other in ((paper, "overnight"), (overnight, "paper")):
        assert f'<a href="../{other}/01_a.html">profile {other}</a>' in (folder / "01_a.html").read_text()
    packed = zipfile.ZipFile(reporting.write_zip(paper)).namelist()
    assert {f"deepnets/reports/{name}/index.html" for name in ("paper", "overnight")} <= set(packed)
