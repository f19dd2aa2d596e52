"""Pages stand alone: what they show, fold, link and leave out."""

import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from report_project import PNG, SUMMARY, write_notebook

from deepnets_utils.reports import cells, html, pdf, reporting
from deepnets_utils.reports.figures import embedded
from deepnets_utils.runs.errors import ParameterError


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
