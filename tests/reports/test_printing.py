"""Numbers in words: a difference with its interval, and comparisons as texts."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from deepnets_utils.reports import printing
from deepnets_utils.results.statistics import difference_interval
from deepnets_utils.runs.run import Run, Spec


def test_a_difference_in_words_has_n_and_an_interval_where_there_is_one() -> None:
    left, right = [5.0, 6.0, 7.0], [1.0, 2.0, np.nan, 3.0]
    low, high = difference_interval(left, right)
    assert printing.difference(left, right, "points") == f"+4.00 points (95 %: {low:+.2f} to {high:+.2f}; n = 3 and 3)"
    assert printing.difference([1.0], right) == "-1.00 (no interval; n = 1 and 3)"
    assert printing.difference([np.nan], right) == printing.difference([], right) == "too few runs"


def test_a_comparison_leaves_out_what_is_missing() -> None:
    line = {
        "row": "a",
        "column": "b",
        "printed": "2.5",
        "published": 2.5,
        "published_spread": np.nan,
        "published_n": 10,
    }
    line |= {"protocol": "coded", "exact": False}
    line |= {"ours": 2.25, "spread": 0.125, "n": 3, "diverged": 0, "low": 1.5, "high": np.nan, "verdict": "same"}
    nothing = line | {"row": "c", "ours": np.nan, "low": np.nan, "verdict": "missing"}
    lost = [line | {"row": "d", "diverged": 2}, nothing | {"row": "e", "n": 0, "diverged": 2}]
    text = printing.comparison(pd.DataFrame([line, nothing, *lost]), ".2f")
    assert text.loc[["d", "e"], "ours coded"].tolist() == ["2.25 ± 0.12 (n=3, 2 diverged)", "2 diverged"]
    assert (
        text.loc[("a", "b"), "published"] == "2.5 (n=10)" and text.loc[("a", "b"), "ours coded"] == "2.25 ± 0.12 (n=3)"
    )
    assert list(text.loc[("c", "b")]) == ["2.5 (n=10)", "", "", "missing"]
    small = printing.comparison(pd.DataFrame([line | {"verdict": "other scale"}, nothing]), ".2f")
    assert list(small) == list(text)[:-1] and small.loc[("a", "b"), "ours coded"] == "2.25 ± 0.12 (n=3)"


def test_a_scale_is_what_differs_from_paper_but_for_lists_and_the_number_of_runs() -> None:
    paper = {"networks": ["a", "b"], "seeds": 10, "beyond_seeds": 3, "width": 1.0, "train_size": 0, "epochs": 1000}
    assert printing.scale(paper, paper) == printing.scale(paper | {"seeds": 3, "networks": ["a"]}, paper) == ""
    small = paper | {"seeds": 3, "beyond_seeds": 0, "width": 0.25, "train_size": 16_000, "epochs": 12}
    assert printing.scale(small, paper) == (
        "Another scale than profile paper's (in brackets): width 0.25 (1), train size 16,000 (all), epochs 12 (1,000)."
    )


def test_an_effect_is_in_a_readers_units_and_an_open_interval_has_one_end() -> None:
    line = {"protocol": "", "verdict": "too few runs", "low": np.nan, "high": None, "effect": np.nan, "scale": "ratio"}
    line |= {"note": "", "comparisons": 1, "left": None, "right": np.nan, "metric": "test_mse"}
    assert printing.verdict([line | {"n": 0}]) == "too few runs" and printing.effect(line) == ("", "")
    line |= {"protocol": "as_coded", "verdict": "supported", "effect": 1.23456, "low": 0.5, "high": np.inf, "n": 3}
    line |= {"left": 2.46912, "right": 2.0}
    text = "1.23 times (2.47 against 2)"
    assert printing.effect(line) == printing.effect(line | {"high": None}) == (text, "at least 0.5")
    assert printing.verdict([line]) == f"as_coded: supported, {text} (95 %: at least 0.5; n = 3)"
    points = line | {"scale": "difference", "metric": "test_error", "effect": 0.5, "left": 2.0, "right": 1.5}
    assert printing.effect(points)[0] == "0.5 points higher (2 against 1.5 %)"
    several = printing.verdict([line | {"comparisons": 12}])
    assert several == f"as_coded: supported, {text} (95 %: at least 0.5; n = 3; the weakest of 12 comparisons)"
    against = printing.verdict([line | {"comparisons": 2, "verdict": "contradicted"}])
    assert against.endswith("; the one most against it of 2 comparisons)")
    assert printing.effect(line | {"note": "exact", "low": 1.2, "high": 1.2})[1] == "", "no interval of two numbers"
    assert printing.interval(-np.inf, 2.0) == "at most 2.00"
    of = {"scale": "difference", "left": 5.5, "right": 6.14, "effect": -0.64, "low": -1.0, "high": -0.28}
    assert printing.effect(line | of | {"metric": "test_error"})[0] == "0.64 points lower (5.5 against 6.14 %)"
    seconds = of | {"left": 83.0, "right": 8.0, "effect": 75.0, "metric": "train_seconds"}
    assert printing.effect(line | seconds)[0] == "83 s against 8 s"
    logs = of | {"left": -2.0, "right": -4.0, "effect": 2.0, "low": 1.0, "high": 3.0, "metric": "log10_test_mse"}
    assert printing.effect(line | logs) == ("100 times (0.01 against 0.0001)", "10 to 1,000")
    assert printing.effect(line | of | {"metric": "epoch"})[0] == "5.5 against 6.14"
    gain = of | {"left": -5.67, "right": 0.0, "effect": -5.67, "metric": "gain_in_accuracy"}
    assert printing.effect(line | gain)[0] == "-5.67 against 0 points"


def test_a_mean_and_an_interval_in_words() -> None:
    assert printing.mean([1.0, 2.0, 3.0]) == "2.00 ± 1.00" and printing.mean([1.0, np.nan], ".1f") == "1.0"
    assert printing.mean([]) == printing.mean([np.nan]) == printing.interval(np.nan, np.nan) == ""
    assert printing.interval(-1.0, 2.5, ".1f") == "-1.0 to 2.5"
    assert printing.mean([1.0, 2.0], "+.1f") == "+1.5 ± 0.7"
    assert printing.mean_and_n([1.0, 3.0], ".1f", "%") == "2.0 ± 1.4 % (n = 2)"
    assert printing.mean_and_n([1.0, np.nan], ".1f", "%") == "1.0 % (n = 1, 1 diverged)"
    assert printing.mean_and_n([np.nan]) == "(n = 0, 1 diverged)" and printing.mean_and_n([]) == printing.NOT_RUN


def test_times_that_were_not_reached_are_counted_and_never_averaged() -> None:
    assert printing.mean([12, 15, np.inf], ".1f") == "1 of 3 never, median 15.0"
    assert printing.mean([12, np.inf, np.inf, np.nan]) == "2 of 3 never"


def test_the_p_value_of_a_verdict_is_its_own_and_of_an_undecided_one_the_smaller() -> None:
    line = {"statement": "a", "protocol": "", "verdict": "supported", "effect": 1.0, "low": 0.5, "high": 2.0, "n": 3}
    line |= {
        "scale": "ratio",
        "left": 2.0,
        "right": 2.0,
        "metric": "epoch",
        "note": "",
        "pair": "x against y",
        "p_supported": 0.0312,
        "p_contradicted": 0.9,
    }
    line |= {"comparisons": 5, "pointing": 4, "shown": 2}
    others = [{"verdict": "contradicted", "p_contradicted": 1e-5}, {"verdict": "undecided", "p_contradicted": 0.02}]
    others += [{"verdict": "leans", "p_contradicted": 0.02}, {"verdict": "leans against"}]
    others += [{"n": 1, "verdict": "too few runs"}, {"n": 0, "verdict": "not tried", "note": "too short"}]
    shown = printing.verdicts([line, *(line | other for other in others)])
    assert list(shown["p"]) == ["0.031", "< 0.001", "0.02", "0.031", "0.9", "", ""]
    assert list(shown["comparisons"]) == ["4 of 5 point the claimed way, 2 shown"] * 6 + [""]
    assert shown["note"].tolist()[-3:] == [
        "the one most against it: x against y",
        "the weakest: x against y",
        "too short",
    ]


def test_lines_without_runs_are_counted_and_not_shown() -> None:
    line = {"error": 0.5, "n": 2}
    lines = {"trained": line, "waiting": line | {"n": 0}}
    shown = printing.with_runs(lines, "network").data
    assert all(word in shown for word in ("network", "trained", "1 of 2 lines wait"))
    assert "waiting" not in shown
    assert printing.with_runs({}, "network").data == "<p>Not in this profile.</p>"
    assert "<table" not in printing.with_runs({"waiting": {"n": 0}}, "network").data


def test_means_are_of_the_stored_runs_of_each_cell() -> None:
    rows = [("Net", "finished", 1.0), ("Net", "finished", 2.0), ("Net", "diverged", np.nan), ("Net", "missing", np.nan)]
    rows += [("LeNet5", "missing", np.nan)]
    table = pd.DataFrame(rows, columns=["network", "status", "test_error"])
    shown = BeautifulSoup(printing.means(table, ["network"], {"error, %": ("test_error", ".1f")}).data, "html.parser")
    assert [cell.text for cell in shown.select("tbody *:is(th, td)")] == ["Net", "1.5 ± 0.7", "2, 1 diverged"]


def test_what_few_runs_can_show() -> None:
    assert printing.resolution(3, 14).startswith(
        "With 3 runs a side a difference must be about 4.1 standard deviations"
    )
    assert printing.resolution(1, 14) == printing.resolution(3, 0) != printing.resolution(3, 1)


def test_plans_count_a_shared_run_once_and_what_is_missing_here() -> None:
    known = {"dataset": "digits_28", "task": Spec("t", 1), "model": Spec("m", 1), "learning_rate": 0.1}

    def plan(epochs: int, **parts: tuple[int, ...]) -> pd.DataFrame:
        runs = [
            (part, Run(**known, epochs=epochs, batch_size=10, seed=k)) for part, seeds in parts.items() for k in seeds
        ]
        return pd.DataFrame(runs, columns=["part", "run"])

    paper, here = plan(30, first=(0, 1), second=(1, 2)), plan(2, first=(0, 1))
    page = printing.plans(paper, here, ["part"], lambda run: run.epochs / 10, {here["run"][0].digest}).data
    first, second = (
        [cell.text for cell in row.select("td")] for row in BeautifulSoup(page, "html.parser").select("tbody tr")
    )
    # PFLOP a run, runs and PFLOP in all of profile paper; PFLOP a run, runs and missing ones here
    assert [float(text) for text in first] == [3, 2, 6, 0.2, 2, 1]
    assert [float(text) for text in second[:3]] == [3, 1, 3] and second[4:] == ["0", "0"]
    assert "3 runs, 9 PFLOP" in page and "1 runs, 0.2 PFLOP" in page
    # One of the runs is counted under the first part in paper; and two parts share a run here.
    for here, missing in ((plan(2, second=(1, 2)), 2), (plan(2, first=(1,), second=(1,)), 1)):
        page = printing.plans(paper, here, ["part"], lambda run: run.epochs / 10, set()).data
        assert f"Missing in this profile: {missing} runs, {0.2 * missing:.4g} PFLOP" in page
        assert "3 runs, 9 PFLOP" in page
    page = printing.plans(
        plan(30, first=(0,), second=(0,)), plan(30, second=(0,)), ["part"], lambda run: 3.0, set()
    ).data
    assert "Missing in this profile: 1 runs, 3 PFLOP" in page and "paper: 1 runs, 3 PFLOP" in page
