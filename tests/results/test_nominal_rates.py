"""Verdicts on simulated runs: false ones stay at their nominal rate, real effects are found at the n used."""

import math

import numpy as np
import pytest
from questions import cells, make, watched

from deepnets_utils.results.verdicts import Question, judge

pytestmark = pytest.mark.filterwarnings("error")


def rates(kind, means, margin="", metric="test_error", spreads=(1.0, 1.0), n=(10, 10), repeats=1000):
    """Shares of supported and contradicted verdicts over simulated samples; means: one (lhs, rhs) a pair."""
    rng, asked = np.random.default_rng(20240229), make(kind, margin, metric, len(means))
    words = []
    for _ in range(repeats):
        drawn = [tuple(map(rng.normal, pair, spreads, n)) for pair in means]
        words.append(judge([Question(asked, cells(*drawn))])[0].verdict)
    return words.count("supported") / repeats, words.count("contradicted") / repeats


def at_most(rate, repeats=1000):
    """The most that a rate may be measured at in so many repeats: three standard errors above it."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / repeats)


@pytest.mark.parametrize(
    ("kind", "margin", "metric", "means", "spreads", "n"),
    [
        ("less", "", "test_error", (10, 10), (1, 1), (10, 10)),
        ("less", "", "test_mse", (10, 10), (3, 0.5), (5, 10)),
        ("greater", "", "test_accuracy", (70, 70), (1, 2), (3, 3)),
        ("equal", "2 percentage points", "test_error", (12, 10), (1, 1), (10, 10)),
        ("equal", "0.05", "fraction", (0.45, 0.5), (0.02, 0.02), (10, 10)),
        ("equal", "0.01", "fraction", (10, 10), (1, 1), (10, 10)),  # no room between the two ends
        ("equal", "5 % of rhs", "test_mse", (10.5, 10), (0.2, 0.2), (10, 10)),
        ("equal", "a factor of 2", "test_mse", (20, 10), (3, 3), (10, 10)),
        ("equal", "a factor of 2", "test_mse", (5, 10), (1, 3), (10, 10)),
        ("not_less", "", "test_mse", (5, 10), (1, 2), (10, 10)),
        ("not_greater", "", "test_accuracy", (72, 70), (1, 1), (10, 10)),
        ("ratio_within", "2 to 3", "test_error", (15, 5), (1, 0.5), (10, 10)),
        ("ratio_within", "2 to 3", "test_error", (10, 5), (1, 0.5), (10, 10)),
        ("difference_within", "1 to 3 percentage points", "test_error", (11, 10), (1, 1), (10, 10)),
        ("difference_within", "1 to 3 percentage points", "test_error", (13, 10), (0.5, 1), (10, 10)),
    ],
)
def test_false_verdicts_stay_at_the_nominal_rate(kind, margin, metric, means, spreads, n):
    supported, contradicted = rates(kind, [means], margin, metric, spreads, n)
    assert supported <= at_most(0.05)
    if not kind.startswith("not_"):  # the end of such a margin is a true effect: contradicting it is right
        assert contradicted <= at_most(0.05)


@pytest.mark.parametrize("kind", ["not_less", "not_greater"])
def test_does_not_help_is_contradicted_at_the_nominal_rate_where_nothing_differs(kind):
    supported, contradicted = rates(kind, [(10, 10)], metric="test_mse")
    assert supported > 0.9
    assert contradicted <= at_most(0.05)


def test_a_claim_over_pairs_is_no_easier_than_its_hardest_pair():
    supported, _ = rates("less", [(6, 14)] * 3 + [(10, 10)], repeats=800)
    assert supported <= at_most(0.05, 800)


def test_a_claim_over_pairs_is_not_contradicted_by_chance_in_one_of_them():
    supported, contradicted = rates("less", [(10, 10)] * 8, repeats=500)
    assert supported == 0
    assert contradicted <= at_most(0.05, 500)


def test_a_family_of_claims_has_one_false_verdict_at_the_nominal_rate():
    rng, hits = np.random.default_rng(7), 0
    asked = [make("less", id=f"study.{i}") for i in range(6)]
    for _ in range(500):
        found = judge([Question(a, cells((rng.normal(size=10), rng.normal(size=10)))) for a in asked])
        hits += any(item.verdict == "supported" for item in found)
    assert hits / 500 <= at_most(0.05, 500)


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([(6, 14), (6, 14), (10, 10)], ("leans", "supported")),  # false by one pair, which is not shown to be
        ([(10, 10)] * 8, ("leans against", "contradicted")),
    ],
)
def test_each_claim_of_a_family_leans_by_chance_at_the_nominal_rate(means, words):
    rng, found = np.random.default_rng(9), []
    asked = [make("less", pairs=len(means), id=f"study.{i}") for i in range(6)]
    for _ in range(150):
        drawn = [cells(*[tuple(rng.normal(mean, 1, 6) for mean in pair) for pair in means]) for _ in asked]
        found += [item.verdict for item in judge(list(map(Question, asked, drawn)))]
    assert found.count(words[0]) > found.count(words[1]), "most do not outlive the correction"
    assert sum(map(found.count, words)) / 900 <= at_most(0.05, 900)


@pytest.mark.parametrize(
    ("kind", "margin", "metric", "means", "spreads"),
    [
        ("less", "", "test_error", [(6, 14)] * 8, (1, 1)),
        ("greater", "", "test_error", [(14, 6)], (1.6, 1)),
        ("equal", "a factor of 2", "test_mse", [(10, 10)], (2, 2)),
        ("equal", "2 percentage points", "test_error", [(10, 10)], (1, 1)),
        ("not_less", "", "test_mse", [(12, 10)] * 3, (2, 2)),
        ("not_greater", "", "test_accuracy", [(54, 55)], (1, 1)),
        ("ratio_within", "2 to 3", "test_error", [(12.5, 5)], (0.6, 0.6)),
        ("difference_within", "1 to 3 percentage points", "test_error", [(12, 10)], (0.5, 0.5)),
    ],
)
def test_real_effects_are_supported(kind, margin, metric, means, spreads):
    supported, contradicted = rates(kind, means, margin, metric, spreads, repeats=200)
    assert supported > 0.9
    assert contradicted == 0


@pytest.mark.parametrize(
    ("kind", "margin", "metric", "means"),
    [
        ("less", "", "test_error", [(6, 14)] * 7 + [(14, 6)]),
        ("greater", "", "test_error", [(6, 14)]),
        ("equal", "2 percentage points", "test_error", [(10, 10), (16, 10)]),
        ("not_less", "", "test_mse", [(8, 10)]),  # a step within the margin, yet a sure one
        ("not_greater", "", "test_accuracy", [(58, 55)]),
        ("ratio_within", "2 to 3", "test_error", [(12.5, 5), (20, 5)]),
        ("difference_within", "1 to 3 percentage points", "test_error", [(10, 10), (10, 13)]),
    ],
)
def test_the_opposite_is_contradicted(kind, margin, metric, means):
    supported, contradicted = rates(kind, means, margin, metric, repeats=200)
    assert supported == 0
    assert contradicted > 0.9


@pytest.mark.parametrize("end", [2.0, 0.8])  # where few runs are not reached, and where half of them are not
@pytest.mark.parametrize(("kind", "margin", "scale"), [("less", "", 1.0), ("not_less", "10 % of rhs", 0.9)])
@pytest.mark.parametrize("n", [3, 5])
def test_false_verdicts_on_times_stay_at_the_nominal_rate(kind, margin, scale, n, end):
    rng, asked = np.random.default_rng(20240229), make(kind, margin, "epoch")
    found = []
    for _ in range(500):
        drawn = watched(scale * rng.exponential(size=n), end), watched(rng.exponential(size=n), end)
        found += judge([Question(asked, cells(drawn))])
    for alpha in (0.05, 0.01):
        assert sum(item.p_supported <= alpha for item in found) / 500 <= at_most(alpha, 500)
        if kind == "less":
            assert sum(item.p_contradicted <= alpha for item in found) / 500 <= at_most(alpha, 500)
