"""The index and what it reads: summaries, states of pages, claims and audits at their largest scale."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from report_project import GOOD, SUMMARY, older_page, write_notebook

from deepnets_utils.reports import html, reporting, summaries
from deepnets_utils.runs import paths


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


@pytest.mark.parametrize("text", ['{"study": "02_', "[]"])
def test_a_damaged_summary_is_moved_aside_and_the_others_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "01_whole.json").write_text('{"study": "01_whole"}')
    (tmp_path / "02_cut.json").write_text(text)
    with pytest.warns(UserWarning, match="02_cut.json is not used"):
        assert summaries.read_all(tmp_path) == [{"study": "01_whole"}]
    assert not (tmp_path / "02_cut.json").exists() and len(list(tmp_path.iterdir())) == 2


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
