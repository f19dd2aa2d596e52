"""Study: numbers compared, claims judged, findings and audits written."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from studies import NAME, study
from tables import LABELS, table_of, tables_of

from deepnets_utils.reports import comparing, figures, printing
from deepnets_utils.results import documents
from deepnets_utils.study import Study

pytestmark = pytest.mark.usefixtures("output")


def test_a_comparison_stands_in_the_table_the_claims_and_the_summary(output):
    made = study(profile="paper")
    rng = np.random.default_rng(0)
    published = {"no sharing, no aux": 17.47, "no sharing, aux": 6.98, "sharing, no aux": 14.97, "sharing, aux": 5.16}
    cells = {("ResNet", column): rng.normal(mean, 0.6, 10) for column, mean in published.items()}
    shown = made.compare(table_of(cells, "as_coded"), "siamese", "table1", "test_error", **LABELS)
    assert shown.loc[("ResNet", "sharing, aux"), "verdict as_coded"] in ("close", "wide")
    assert shown.loc[("Net", "sharing, aux"), "verdict as_coded"] == "missing"
    assert made.words("siamese", "table1").loc["as_coded", ["close", "wide", "same"]].sum() == 4
    verdicts = made.judge(["siamese.aux_lowers", "siamese.resnet_above_lenet"], ["as_coded"])
    assert list(verdicts["verdict"]) == ["too few runs", "too few runs"]  # the other networks are missing
    made.compare(table_of(cells, "as_published"), "siamese", "table1", "test_error", **LABELS)
    made.finish()
    table = pd.read_csv(output / "reports/paper/tables/siamese_table1.csv")
    columns = "row column metric protocol printed published published_spread published_n ours spread n low high verdict"
    assert list(table.columns) == [*columns.split(), "diverged", "exact"]
    assert len(table) == 32
    summary = json.loads((output / f"reports/paper/{NAME}.json").read_text())
    counts = {each["title"]: (each["cells"], each["differs"], each["missing"]) for each in summary["tables"]}
    assert counts == {f"siamese: Table 1, as_{word}": (16, 0, 12) for word in ("coded", "published")}
    assert set(pd.read_csv(output / "reports/paper/tables/claims.csv")["id"]) == set(
        ["siamese.aux_lowers", "siamese.resnet_above_lenet"]
    )


def test_a_comparison_shows_and_counts_what_one_protocol_alone_has():
    made = study(profile="paper")
    one, other = ({("Net", column): [7.0, 7.1]} for column in ("sharing, aux", "ours"))
    both = tables_of({"as_published": one, "as_coded": one | other})
    shown = made.compare(both, "siamese", "table1", "test_error", **LABELS)
    assert shown.loc[("Net", "ours"), "ours as_coded"] and not shown.loc[("Net", "ours"), "ours as_published"]
    alone = made.compare(table_of(one), "siamese", "table1", "test_error", **LABELS)
    assert list(shown.index[:-1]) == list(alone.index)
    assert made.words("siamese", "table1").loc["as_coded", "cells"] == 16
    made.judge(["siamese.aux_lowers", "siamese.both_best"], ["as_coded"])
    assert [line["comparisons"] for line in made._verdicts] == [8, 12], "none has runs on both sides"
    two = {("Net", column): [9.0, 9.1] for column in ("sharing, no aux", "no sharing, aux")}
    made.compare(table_of(one | two, "as_coded"), "siamese", "table1", "test_error", **LABELS)
    made.judge(["siamese.both_best"], ["as_coded"])
    assert "the weakest of 2 comparisons" in made.verdict("siamese.both_best")


def test_a_comparison_at_another_scale_counts_no_cell_as_agreeing_or_differing(output):
    settings = {"seeds": 3, "epochs": (1, 2, 12, 30)}
    made = study(profile="overnight")
    made.settings(**settings)
    cells = {("Net", "sharing, aux"): [6.9, 7.0], ("Net", "sharing, no aux"): [16.0, 17.0]}
    shown = made.compare(table_of(cells, "as_coded"), "siamese", "table1", "test_error", **LABELS)
    assert made.words("siamese", "table1").loc["as_coded", "other scale"] == 2
    assert "verdict as_coded" not in shown and shown.loc[("Net", "sharing, aux"), "ours as_coded"]
    exact = LABELS | {"exact": True}
    counted = made.compare(table_of({("Net", "parameters"): 15460}), "siamese", "text", "parameters", **exact)
    assert counted.loc[("Net", "parameters"), "verdict"] == "same", "what is not trained has no scale"
    made.finish()
    summary = json.loads((output / f"reports/overnight/{NAME}.json").read_text())
    assert summary["scale"] == "Another scale than profile paper's (in brackets): epochs 12 (30)."
    table = next(table for table in summary["tables"] if "Table 1" in table["title"])
    assert (table["cells"], table["same"], table["differs"], table["other scale"]) == (16, 0, 0, 2)
    assert table["likeness"].startswith("test error: 1 of 1 printed differences")
    paper = study(profile="paper")
    paper.settings(**settings)
    assert not paper.scale and "verdict" in paper.compare(table_of(cells), "siamese", "table1", "test_error", **LABELS)


def test_the_first_trained_numbers_of_a_table_name_its_scale(output, monkeypatch):
    said: list[Markdown] = []
    monkeypatch.setattr(comparing, "display", said.append)
    made = study(profile="overnight")
    made.settings(epochs=(1, 2, 12, 30))
    made.compare(table_of({("Net", "parameters"): 15460}), "siamese", "text", "parameters", **LABELS, exact=True)
    assert not said, "nothing was trained"
    gains = table_of({("all models", "gain by weight sharing"): [1.0, 2.0]})
    made.compare(gains, "siamese", "text", "difference_low", **LABELS)
    made.compare(gains, "siamese", "text", "difference_high", **LABELS)
    assert [made.scale in of.data for of in said] == [True, False]


def test_a_claim_that_runs_cannot_try_is_not_judged_and_no_part_of_the_family():
    made = study(profile="overnight")
    cells = {("LeNet5", "sharing, aux"): [4.0, 4.2, 4.1], ("Net", "sharing, aux"): [8.0, 8.2, 8.1]}
    cells |= {("ResNet", "sharing, aux"): [3.0, 5.2, 4.1]}
    made.keep(table_of(cells), "table1", "test_error", **LABELS)
    claims = ["siamese.lenet_above_net", "siamese.resnet_above_lenet", "siamese.net_below_7"]
    alone = made.judge(claims[:1])["p"].item()
    untried = dict.fromkeys(claims[1:], "12 epochs are too few")
    shown = made.judge(claims, untried=untried)
    assert list(shown["verdict"]) == ["supported", "not tried", "not tried"] and shown["p"].iloc[0] == alone
    assert list(shown["note"])[1:] == ["12 epochs are too few"] * 2 and not any(shown["effect"].iloc[1:])
    assert made.verdict(claims[1]) == "not tried"
    with pytest.raises(ValueError, match="untried claims are among those that are judged"):
        made.judge(claims[:1], untried=untried)


def test_a_table_holds_the_cells_of_every_study_that_contributes_to_it(output):
    made = study(profile="paper")
    cells = {("Net", "parameters"): 15460}
    made.compare(table_of(cells), "siamese", "text", "parameters", **LABELS, exact=True)
    made.finish()
    file = output / "reports/paper/tables/siamese_text.csv"
    alone = pd.read_csv(file, dtype=str)
    assert alone.loc[alone["row"] == "Net", "ours"].item() == "15460"
    summary = json.loads((output / f"reports/paper/{NAME}.json").read_text())
    other = summary | {"study": "01_baselines", "claims": []}
    other["tables"][0]["rows"] = [row.replace("parameters", "errors") for row in other["tables"][0]["rows"]]
    (output / "reports/paper/01_baselines.json").write_text(json.dumps(other))
    made.finish()
    both = pd.read_csv(file, dtype=str)
    assert list(both["metric"]) == ["errors"] * len(alone) + ["parameters"] * len(alone)


def test_judging_or_drawing_again_counts_once():
    made = study(profile="paper")
    for _ in range(2):
        verdicts = made.judge(["siamese.lenet_above_net"])
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        made.figure(figure, "twice", "A figure", "A line")
    assert len(verdicts) == 1
    empty, axes = plt.subplots()
    axes.axhline(0.5), axes.axvspan(0, 1), axes.scatter([], []), axes.plot([1.0], [np.nan])
    axes.bar([0], [np.nan]), axes.errorbar([], [], yerr=[])
    assert "none of its runs is stored yet" in made.figure(empty, "empty", "Nothing", "No line").data
    figure, axes = plt.subplots()
    figures.draw_column(axes, 0.5, ["conv\n8 x 8", "linear"], top=0.9, step=0.3)
    assert "<img" in made.figure(figure, "network", "Layers", "Two boxes").data
    made.finish()
    summary = json.loads((made.folder / f"{NAME}.json").read_text())
    assert len(summary["claims"]) == 1
    assert [Path(figure["file"]).stem for figure in summary["figures"]] == [f"{NAME}_twice", f"{NAME}_network"]


def test_a_protocol_without_a_side_that_another_has_does_not_try_the_claim():
    made = study(profile="paper")
    sides = {("LeNet5", "sharing, aux"): [], ("Net", "sharing, aux"): [8.0, 8.2]}
    made.keep(table_of(sides, "as_published"), "table1", "test_error", **LABELS)
    made.keep(table_of({("Net", "sharing, aux"): [8.1, 8.3]}, "as_coded"), "table1", "test_error", **LABELS)
    claims = ["siamese.lenet_above_net"]
    lhs = documents.claim(claims[0]).pairs[0][0]
    assert lhs == "table1:LeNet5:sharing, aux"
    assert list(made.judge(claims, ["as_published", "as_coded"])["protocol"]) == ["as_published"]
    made.keep(table_of({("LeNet5", "sharing, aux"): [4.0]}, "as_coded"), "table1", "test_error", **LABELS)
    assert list(made.judge(claims, ["as_published", "as_coded"])["protocol"]) == ["as_published", "as_coded"]


def written(made: Study, folder: Path, **texts: str) -> Study:
    """Return the study with a notebook of these Markdown cells, by tag."""
    cells = [{"cell_type": "markdown", "metadata": {"tags": [tag]}, "source": text} for tag, text in texts.items()]
    made.notebook = folder / "notebook.ipynb"
    made.notebook.write_text(json.dumps({"cells": cells}))
    return made


def test_the_audit_is_a_table_and_stands_in_the_summary(tmp_path):
    head = "## What we would change\n\n| point | in the document | without it |\n| --- | --- | --- |\n"
    row = "| one draw | one draw serves all runs | spread {spread} |"
    made = written(study(profile="paper"), tmp_path, audit=head + row, findings="Ours is **{mean}** of {n}.")
    shown = made.audit(spread="0.3 < 0.5 & more").to_html()
    assert "one draw serves all runs" in shown and "what changes without it" in shown
    assert "0.3 &lt; 0.5 &amp; more" in shown
    made.audit(spread="0.4")  # a cell that is run again
    assert made.findings(mean="0.2", n=3).data == "Ours is **0.2** of 3."
    with pytest.raises(ValueError, match="named in the text or given, and not both: n, spread"):
        made.findings(mean="0.2", spread=1)
    with pytest.raises(ValueError, match="2 Markdown cells|0 Markdown cells"):
        written(made, tmp_path).audit()
    with pytest.raises(ValueError, match="3 cells, none of them empty, not"):
        written(made, tmp_path, audit=f"{head}| one draw | two cells |").audit()
    made.finish()
    summary = json.loads((made.folder / f"{NAME}.json").read_text())
    assert summary["audit"] == [{"finding": "one draw", "text": "one draw serves all runs", "change": "spread 0.4"}]
    assert summary["findings"] == "Ours is **0.2** of 3."
    two = written(study(profile="paper"), tmp_path, findings="Ours is {a}.\n\nTheirs is {b}.")
    assert two.findings(a="1", b=printing.NOT_RUN).data == (
        "Ours is 1.\n\n*1 of 2 findings wait for runs of this profile.*"
    )
    texts = {"findings": "{of[error]:.1f} of {all}.\n\n{of[n]:,}", "audit": f"{head}| one | two | {{of[error]}} |"}
    of = written(study(profile="paper"), tmp_path, **texts)
    waits = "\n\n*1 of 2 findings wait for runs of this profile.*"
    assert of.findings(of={"error": 2.26, "n": 1_000}, all=["a", "b"]).data == "2.3 of a; b.\n\n1,000"
    for nothing in ([], [f"a {printing.NOT_RUN}"], None):
        assert of.findings(of={"error": 2.26, "n": 1_000}, all=nothing).data == "1,000" + waits
    assert of.findings(of={"error": 2.26, "n": 1_000}, all=[printing.NOT_RUN, "b"]).data.startswith("2.3 of b.")
    assert of.findings(of={"error": np.nan, "n": 3}, all=["a"]).data == "3" + waits
    assert "too few runs" in of.audit(of={"error": None}).to_html()
    small = written(study(profile="quick"), tmp_path, findings="Found.").findings().data
    assert small.startswith("*Profile quick shows that everything runs; it proves nothing.*") and small.endswith(
        "Found."
    )


def test_beside_a_table_without_rows_stands_what_is_printed():
    cells = table_of({("Net", "sharing, aux"): [7.0, 7.1]})
    printed = study(profile="paper").compare(cells[:0], "siamese", "table1", "test_error", **LABELS)["published"]
    assert list(printed) == list(
        study(profile="paper").compare(cells, "siamese", "table1", "test_error", **LABELS)["published"]
    )


def test_a_column_of_numbers_is_no_label():
    cells = table_of({("Net", "sharing, aux"): [7.0, 7.1]})
    with pytest.raises(ValueError, match="'value' is a column of numbers"):
        study(profile="paper").compare(cells, "siamese", "table1", "test_error", row="row", column="value")


def test_a_verdict_in_words_gives_every_protocol_with_interval_and_n():
    made = study(profile="paper")
    assert made.verdict("siamese.lenet_above_net") == "not judged here"
    cells = {("LeNet5", "sharing, aux"): [4.0, 4.2, 4.1], ("Net", "sharing, aux"): [8.0, 8.2, 8.1]}
    made.keep(table_of(cells, "as_coded"), "table1", "test_error", **LABELS)
    made.judge(["siamese.lenet_above_net"], ["as_coded", "as_published"])
    text = made.verdict("siamese.lenet_above_net")
    assert text.startswith("as_coded: supported, 4 points lower (4.1 against 8.1 %) (95 %: -4.2") and text.endswith(
        "; n = 3)"
    )


def test_a_level_that_no_run_reaches_has_too_few_runs_and_says_why():
    made = study(profile="paper")
    rows = [f"{word} auxiliary classifiers" for word in ("with", "without")]
    never = {(row, "epochs to the level"): np.full(3, np.inf) for row in rows}
    made.keep(table_of(never), "auxiliary", "epoch", **LABELS)
    shown = made.judge(["googlenet.aux_no_faster"]).iloc[0]
    assert (shown["verdict"], shown["effect"], shown["p"]) == ("too few runs", "", "")
    assert all(f"3 of 3 runs never got there: {row}, epochs to the level" in shown["note"] for row in rows)
    assert made.verdict("googlenet.aux_no_faster") == "too few runs"
