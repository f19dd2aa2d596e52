"""RESULTS.md: which cells stand there, and how their numbers are written."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.cases import CASES
from deepnets_utils.reports import summaries
from deepnets_utils.runs import paths
from tools import results as tool

COLUMNS = "row,column,protocol,printed,published,published_spread,ours,spread,n,low,high,verdict"
ROWS = [
    'VGG19,parameters,,"about 144,000,000",144000000,,143667240,,1,,,same',
    "LeNet5,sharing,as_coded,5.75,5.75,0.9,5.51234567,0.65,10,5.2,5.9,differs",
    "LeNet5,no sharing,as_coded,9.1,9.1,,,,0,,,missing",
    "LeNet5,not printed,as_coded,,,,,,0,,,",
]


def test_cells_with_runs_are_shown_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    frame = pd.read_csv(io.StringIO("\n".join([COLUMNS, *ROWS])), keep_default_na=False).assign(metric="any")
    frame["exact"] = frame["column"] == "parameters"
    parts = {protocol: frame[frame["protocol"] == protocol] for protocol in ("", "as_coded")}
    tables = [summaries.table("googlenet", "text", protocol, part) for protocol, part in parts.items()]
    small = parts[""].replace("same", "other scale").assign(exact=False)
    smaller = summaries.table("googlenet", "figure6", "", small.astype({"published": float, "ours": float}))
    for profile, of_profile in (("paper", tables), ("overnight", [*tables, smaller])):
        (tmp_path / f"reports/{profile}").mkdir(parents=True)
        summary = {"study": "06_nets", "profile": profile, "scale": "Width 0.25.", "tables": of_profile}
        (tmp_path / f"reports/{profile}/06_nets.json").write_text(json.dumps(summary))
    text = tool.results()
    assert "| googlenet: text | `make report STUDY=06 PROFILE=paper` | counted: 1 of 1 the same |" in text
    assert "| googlenet: text, as_coded | `make report STUDY=06 PROFILE=paper` | 1 differs, 1 missing |" in text
    assert "| VGG19 | parameters | about 144,000,000 | 143,667,240 |  |  | same |" in text
    assert "| LeNet5 | sharing | 5.75 ± 0.9 | 5.5123 ± 0.65 | 5.2 to 5.9 | 10 | differs |" in text
    assert "no sharing" not in text and "not printed" not in text
    assert text.count("| googlenet: text |") == 1, "what has the document's scale is paper's"
    assert "| googlenet: Figure 6 | `make report STUDY=06 PROFILE=overnight` | 1 of another scale |" in text
    assert "<details><summary>06, googlenet: Figure 6, profile overnight: every cell that has runs</summary>" in text
    assert "Width 0.25." in text and "| VGG19 | parameters | about 144,000,000 | 143,667,240 |  | 1 |  |" in text


def test_claims_that_are_decided_are_shown_and_the_others_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    numbers = {"effect": -2.256, "low": -3.08, "high": -1.44, "n": 10, "note": ""}
    numbers |= {"metric": "test_error", "scale": "difference", "left": 5.0, "right": 7.256}
    numbers |= {"comparisons": 4, "pointing": 1, "shown": 0}
    verdicts = {
        "paper": [
            ("Dropout hurts", "as_coded", "contradicted"),
            ("Sharing helps", "", "leans"),
            ("Deep nets win", "", "too few runs"),
            ("A", "", "undecided"),
        ],
        "overnight": [
            ("Dropout hurts", "as_coded", "undecided"),
            ("Deep nets win", "", "supported"),
            ("B", "", "not tried"),
        ],
    }
    for profile, lines in verdicts.items():
        claims = [dict(zip(("id", "protocol", "verdict"), texts, strict=True)) | numbers for texts in lines]
        claims = [claim | {"statement": claim["id"]} for claim in claims]
        (tmp_path / f"reports/{profile}").mkdir(parents=True)
        (tmp_path / f"reports/{profile}/05_pairs.json").write_text(json.dumps({"study": "05_pairs", "claims": claims}))
    text = tool.claims()
    means = "1 of 4 point the claimed way, 0 shown"
    effect = "2.26 points lower (5 against 7.26 %) | -3.08 to -1.44"
    line = f"| 05 | Dropout hurts (as_coded) | paper | contradicted | {means} | {effect} | 10 |"
    assert line in text
    assert "| 05 | Sharing helps | paper | leans |" in text and "| 05 | Deep nets win | overnight | supported |" in text
    assert "| A |" not in text and "| B |" not in text
    assert "1 are undecided with the runs that there are, 0 have too few runs, 1 cannot be tried" in text


def test_the_committed_benchmark_has_every_network_and_stands_in_the_results():
    found = json.loads(tool.BENCHMARK.read_text())
    assert list(dict.fromkeys(row["network"] for row in found["rows"])) == list(CASES)
    assert tool.speeds() in (paths.ROOT / "RESULTS.md").read_text()
