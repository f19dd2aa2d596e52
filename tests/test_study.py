"""Study: parameters checked with one error everywhere, data chosen by profile, sweeps as tables."""

import dataclasses
import json
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from studies import NAME, PROVENANCE, digits_run, study

from deepnets_utils.data import downloading
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.reports import watching
from deepnets_utils.runs.errors import DataError, ParameterError
from deepnets_utils.runs.run import Result, Run, Spec
from deepnets_utils.study import Study
from deepnets_utils.sweeps.sweep import SweepTooLong

pytestmark = pytest.mark.usefixtures("output")


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
