"""Study: parameters checked with one error everywhere, data chosen by profile, numbers compared and judged."""

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.display import Markdown
from tables import LABELS, table_of, tables_of

from deepnets_utils.data import downloading
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.reports import comparing, figures, printing, watching
from deepnets_utils.results import documents
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError, ParameterError
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.study import Study
from deepnets_utils.sweeps.sweep import SweepTooLong

NAME = "05_siamese_ablation"
PROVENANCE = {"wall_seconds": 30.0, "cpu_seconds": 20.0, "device": "x", "data_fingerprint": CANONICAL["digits_28"]}


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    return tmp_path


def study(**values) -> Study:
    return Study(NAME, {"workers": 1, "device": "cpu"} | values)


def digits_run(seed: int) -> Run:
    return Run(dataset="digits_28", task=task("pixel_statistic"), model=Spec("fake", 1), seed=seed)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"profile": "large"}, ["profile", "smoke, quick, overnight, paper", "large"]),
        ({"seeds": "3"}, ["seeds", "int", "'3'"]),
        ({"seeds": -1}, ["seeds", "from 0"]),
        ({"networks": ["LeNet"]}, ["networks", "LeNet5_FullyConv", "'LeNet'"]),
        ({"device": "tpu"}, ["device", "auto, cpu, cuda"]),
        ({"profile": "smoke", "data": "real"}, ["data", "smoke"]),
        ({"profile": "paper", "data": "embedded"}, ["data", "paper"]),
    ],
)
def test_impossible_parameters_fail_with_what_is_allowed(values, texts):
    with pytest.raises(ParameterError) as error:
        study(**values)
    assert not [text for text in texts if text not in str(error.value)]


def test_a_name_that_papermill_injected_and_nobody_declared_fails():
    cells = ["", "import x", 'profile: str = "quick"', "# Parameters\nprofile = 'smoke'\nsedes = 3\n"]
    with pytest.raises(ParameterError, match="'sedes'.*did you mean seeds"):
        study(profile="smoke", sedes=3, In=cells)
    assert study(profile="smoke", In=cells[:3]).profile == "smoke"


@pytest.mark.parametrize(
    "cell",
    [
        '# a note\nprofile: str = "smoke"\nsedes: int = 3',
        'sedes: int = 3\nprofile: str = "smoke"',
        'import sys\n\nsedes = 3\nseeds: int = 1\nprofile = "smoke"',
        "# a note\n# Parameters\nsedes = 3",
    ],
)
def test_a_misspelt_name_is_found_however_the_cell_was_edited(cell):
    first = 'profile: str = "smoke"'
    with pytest.raises(ParameterError, match="'sedes'.*did you mean seeds"):
        study(sedes=3, In=["", first, "%matplotlib no Python", cell, "sedes = 4", "epochs = mine = 5"])
    assert study(sedes=3, mine=5, In=["", first, "sedes = 4", "epochs = mine = 5"]).parameters["seeds"] == 0


def test_a_parameters_cell_that_cannot_be_read_is_an_error_and_no_silence():
    for cell in ("get_ipython().run_cell_magic('time', '', 'profile: str = \"smoke\"')", 'profile = "smoke"'):
        with pytest.raises(ParameterError, match="no cell with lines `name: type = literal` was run"):
            study(profile="smoke", In=["", cell])


def test_a_corrected_parameters_cell_counts_and_not_the_older_one():
    cells = ["", 'profile: str = "smoke"\nsedes: int = 3', 'profile: str = "smoke"\nseeds: int = 3']
    assert study(profile="smoke", sedes=3, seeds=3, In=cells).parameters["seeds"] == 3


def test_a_watched_run_is_stored_claimed_and_asked_about_when_it_takes_long(monkeypatch, output):
    drawn = []
    monkeypatch.setattr(watching, "watched", lambda: True)
    monkeypatch.setattr(watching, "display", lambda *_, **__: SimpleNamespace(update=drawn.append))
    options = {"train_size": 20, "test_size": 20}
    known = {"dataset": "digits_28", "task": task("digit_pairs", **options), "model": model("LeNet5")}
    run = Run(**known, learning_rate=0.01, epochs=1, batch_size=10, seed=1)
    made = study(profile="smoke")
    assert made.watch(run) is None, "drawn while it trained"
    assert ["over 1 of 1 epochs" in picture.data for picture in drawn] == [True, True], (
        "after its epoch, and at the end"
    )
    result = made.store.get(run)
    assert len(result.history["train_loss"]) == 1 and not list((output / "runs" / "claims").iterdir())
    later = dataclasses.replace(run, epochs=round(3 * 3600 / result.provenance["cpu_seconds"]))
    with pytest.raises(SweepTooLong, match="more than two hours need"):
        made.watch(later)
    other = dataclasses.replace(run, seed=2)
    claim = made.store.claim(other)

    def finish():
        made.store.put(dataclasses.replace(result, run=other))
        made.store.release(claim)

    threading.Timer(0.5, finish).start()
    made.watch(other)
    assert made.store.get(other).history == result.history, "another process trained it"


def test_settings_take_the_profile_and_what_a_parameter_overrides(output):
    of = {"seeds": (1, 2, 3, 4), "epochs": (1, 2, 3, 4), "pairs": 10, "networks": ["Net", "ResNet"]}
    known = {"seeds": 4, "epochs": 4, "pairs": 10, "networks": ["Net", "ResNet"]}
    assert vars(study(profile="paper").settings(**of)) == known
    changed = study(profile="paper", seeds=7)
    assert vars(changed.settings(**of)) == known | {"seeds": 7}
    shown = changed.settings_table()
    assert list(shown) == ["here", "smoke", "quick", "overnight", "paper"] and list(shown.loc["seeds"]) == [
        7,
        1,
        2,
        3,
        4,
    ]
    assert vars(changed.settings_of("paper")) == known
    assert changed.folder == output / "reports" / "paper+seeds=7"
    assert study(profile="paper").folder == output / "reports" / "paper"


def test_smoke_always_uses_the_embedded_digits_and_says_so():
    smoke = study(profile="smoke")
    assert smoke.dataset("mnist") == "digits_28"
    assert "digits" in smoke.banner


def test_quick_falls_back_to_the_digits_only_when_the_real_data_cannot_be_had(monkeypatch):
    monkeypatch.setattr(downloading, "load", lambda name: None)
    assert study().dataset("mnist") == "mnist"

    def refuse(name):
        raise DataError("no server answers")

    monkeypatch.setattr(downloading, "load", refuse)
    monkeypatch.setattr(downloading, "download", refuse)
    fallen = study()
    assert fallen.dataset("mnist") == "digits_28" and fallen.banner
    with pytest.raises(DataError):
        study(data="real").dataset("mnist")
    paper = study(profile="paper")
    assert paper.dataset("mnist") == "mnist" and not paper.banner
    paper.finish()
    summary = json.loads((paper.folder / f"{NAME}.json").read_text())
    assert summary["parameters"]["train"] == "never", "nothing was trained, whatever was asked for"
    assert summary["notes"] == ["no server answers. Stored runs are shown, nothing is trained."]
    study(profile="paper", train="never").finish()
    assert json.loads((paper.folder / f"{NAME}.json").read_text())["notes"] == []


def test_what_is_not_used_is_said_in_the_summary(output):
    made = study(profile="paper", train="never")
    record = output / "runs" / "records" / f"{digits_run(1).digest}.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    with pytest.warns(UserWarning, match="is not used"):
        made.sweep(digits_run, "a sweep", seed=[1])
    made.finish()
    [note] = json.loads((made.folder / f"{NAME}.json").read_text())["notes"]
    assert note.startswith(f"record {record.name} is not used: ")


def test_never_needs_no_data_set(monkeypatch):
    monkeypatch.setattr(downloading, "load", lambda name: pytest.fail("loaded"))
    monkeypatch.setattr(downloading, "download", lambda name: pytest.fail("downloaded"))
    assert study(train="never").dataset("mnist") == "mnist"


def test_a_study_whose_sweeps_have_no_row_is_finished(output):
    made = study()
    made.sweep(digits_run, "nothing", seed=[])
    made.finish()
    assert (output / f"reports/quick/tables/{NAME}_runs.csv").read_text().startswith("sweep")


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


def test_a_name_that_only_the_run_parameters_cell_has_fails():
    cells = ["", 'profile: str = "smoke"  # {smoke, quick, paper}\nsedes: int = 3  # typed in JupyterLab\n']
    with pytest.raises(ParameterError, match="'sedes'"):
        study(profile="smoke", sedes=3, In=cells)


def test_the_digits_never_replace_a_page_of_the_real_data(monkeypatch):
    for way in ("load", "download"):
        monkeypatch.setattr(downloading, way, lambda name: (_ for _ in ()).throw(DataError("no server answers")))
    real = study()
    real.banner = ""
    real.finish()
    later = study()
    assert later.dataset("mnist") == "mnist"
    assert later.train == "never" and not later.banner


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


def test_missing_runs_say_what_they_would_cost(output):
    def make(name, seed):
        return dataclasses.replace(digits_run(seed), model=Spec(name, 1)) if (name, seed) != ("b", 1) else None

    made = study(profile="smoke", train="never")
    made.store.put(Result(run=make("a", 0), status="finished", metrics={"m": 1.0}, provenance=PROVENANCE))
    table = made.sweep(make, "all", name=["a", "b"], seed=[0, 1])
    assert list(table["name"] + table["seed"].astype(str)) == ["a0", "a1", "b0"], "what makes no Run is no row"
    assert list(table["status"]) == ["finished", "missing", "missing"] and list(table)[:3] == ["name", "seed", "status"]
    assert table["m"].iloc[0] == 1 and table[["test_mse", "learning_rate"]].isna().all(axis=None)
    shown = made.finish().data
    assert "2 of 3 runs are not there; by stored runs on cpu they take about 20 s one after" in shown
    assert "one after another, without 1" in shown
    runs = pd.read_csv(output / f"reports/smoke/tables/{NAME}_runs.csv")
    assert list(runs["sweep"]) == ["all"] * 3 and list(runs["digest"]) == list(table["digest"])
    assert runs["cpu_seconds"].tolist() == pytest.approx([20, np.nan, np.nan], nan_ok=True) and "test_mse" not in runs
    cells = [[cell.text for cell in row.select("td")] for row in BeautifulSoup(shown, "html.parser").select("tbody tr")]
    assert [cell[1:5] for cell in cells] == [["name a", "1", "1", "0"], ["name b", "0", "1", "0"]]
    counts = json.loads((output / f"reports/smoke/{NAME}.json").read_text())["runs"]
    assert counts["missing_seconds"] == pytest.approx(20) and counts["missing_unknown"] == 1


def test_a_study_without_runs_finishes(output):
    made = study(profile="smoke")
    assert made.finish().data == "No runs of its own."
    assert json.loads((output / f"reports/smoke/{NAME}.json").read_text())["runs"]["total"] == 0
    assert (output / f"reports/smoke/{NAME}.runs.jsonl").read_text() == ""


def test_a_sweep_begins_with_the_first_run_of_every_cell_and_of_these_with_the_last(output):
    made, counts = study(profile="smoke", train="never"), {"a": 2, "b": 1, "c": 2}

    def make(name, seed):
        return dataclasses.replace(digits_run(seed), model=Spec(name, 1)) if seed < counts[name] else None

    for name, seed in (("b", 0), ("c", 1)):
        history = {"train_loss": [2.0, 1.0 + seed]}
        finished = dict(status="finished", metrics={"loss": float(seed)}, history=history, provenance=PROVENANCE)
        made.store.put(Result(run=make(name, seed), **finished))
    table = made.sweep(make, "all", name=counts, seed=range(3))
    assert list(table["loss"].dropna()) == [0, 1]
    curves = made.curves(table, "train_loss", "validation_loss")
    assert list(curves.index) == [2, 2, 4, 4] and list(curves["epoch"]) == [1, 2, 1, 2]
    assert list(curves["train_loss"]) == [2, 1, 2, 2] and curves["validation_loss"].isna().all()
    made.finish()
    lines = (output / f"reports/smoke/{NAME}.runs.jsonl").read_text().splitlines()
    runs = [Run.from_json(json.loads(line)) for line in lines]
    assert [(run.model.name, run.seed) for run in runs] == [("c", 0), ("b", 0), ("a", 0), ("c", 1), ("a", 1)]
    written_curves = pd.read_csv(output / f"reports/smoke/tables/{NAME}_curves.csv")
    assert list(written_curves) == ["digest", "epoch", "train_loss"] and len(written_curves) == 4


def test_a_script_anywhere_has_a_study(output):
    def run(seed: int) -> Run:
        pairs = task("digit_pairs", train_size=20, test_size=20)
        return Run(
            dataset="digits_28", task=pairs, model=model("Net"), learning_rate=0.01, epochs=1, batch_size=10, seed=seed
        )

    study = Study("scratch", profile="smoke", workers=1)
    assert list(study.sweep(run, "mine", seed=range(2))["status"]) == ["finished"] * 2
    study.finish()
    assert json.loads((output / "reports" / "smoke" / "scratch.json").read_text())["runs"]["trained"] == 2
    for wrong in ({"profile": "large"}, {"sedes": 3}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            Study("scratch", **wrong)
