"""Intervals, tests and summaries, beside worked values and SciPy."""

import math

import numpy as np
import pytest
from questions import cells, make, verdict
from scipy import stats

from deepnets_utils.results.statistics import difference_interval, holm, smallest_significant, summary, welch
from deepnets_utils.results.verdicts import Question, judge

pytestmark = pytest.mark.filterwarnings("error")
NAN = math.nan


@pytest.mark.parametrize(("n", "claims"), [(3, 1), (3, 14), (10, 30)])
def test_the_smallest_significant_difference_is_just_significant(n, claims):
    rhs = np.linspace(-1, 1, n)
    rhs /= rhs.std(ddof=1)
    for nearly, word in ((1.001, "supported"), (0.999, "leans" if claims > 1 else "undecided")):
        lhs = rhs + nearly * smallest_significant(n, claims)
        others = [make("greater", id=f"study.other{k}") for k in range(claims - 1)]
        family = [Question(other, cells((rhs, rhs))) for other in others]
        assert judge([Question(make("greater"), cells((lhs, rhs))), *family])[0].verdict == word
    assert math.isnan(smallest_significant(1))


def test_the_interval_of_a_ratio_covers_it_at_its_rate():
    rng, asked, hits = np.random.default_rng(5), make("ratio_within", "2 to 3"), 0
    for _ in range(1000):
        found = judge([Question(asked, cells((rng.normal(25, 3, 6), rng.normal(10, 2, 6))))])[0]
        hits += found.low <= 2.5 <= found.high
    assert found.scale == "ratio"
    assert abs(hits / 1000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1000)


def test_a_ratio_whose_denominator_may_be_zero_is_unbounded():
    found = verdict("equal", ([1.0, 1.2, 0.9], [0.0, 3.0, 0.1]), margin="a factor of 2", metric="test_mse")
    assert (found.low, found.high, found.verdict) == (0.0, math.inf, "undecided")


def test_a_ratio_of_negative_means_is_an_error():
    with pytest.raises(ValueError, match="a ratio needs means of at least 0, not -1 and 2: lhs 0, x .table. against"):
        verdict("equal", ([-1.1, -0.9], [2.0, 2.0]), margin="a factor of 2")


def test_holm_matches_worked_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_summary_of_runs():
    found = summary([4.0, 1.0, 3.0, 2.0])
    assert (found.mean, found.n, found.diverged, found.median, found.q25, found.q75) == (2.5, 4, 0, 2.5, 1.75, 3.25)
    assert found.spread == pytest.approx(1.2909944)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, 2.5, found.spread / 2))


def test_diverged_runs_rank_last_in_quantiles_and_stay_out_of_means():
    found = summary([1.0, NAN, 3.0, 2.0, NAN])
    assert (found.mean, found.n, found.diverged, found.median, found.q25, found.q75) == (2, 3, 2, 3, 2, math.inf)


def test_times_that_were_not_reached_have_a_rank_and_no_mean():
    found = summary([5.0, math.inf, NAN, 3.0, 4.0])
    assert (found.n, found.diverged, found.unreached, found.median, found.q75) == (4, 1, 1, 5, math.inf)
    assert all(map(math.isnan, (found.mean, found.spread, found.low, found.high)))
    assert all(map(math.isnan, difference_interval([5.0, math.inf, 4.0], [1.0, 2.0])))


def test_summary_of_too_few_runs():
    one, none = summary([2.0]), summary([])
    assert (one.mean, one.median, one.n) == (2, 2, 1) and math.isnan(one.spread) and math.isnan(one.low)
    assert (none.n, none.diverged) == (0, 0) and math.isnan(none.mean) and math.isnan(none.median)
    assert math.isnan(summary([NAN, 1.0]).low) and math.isnan(summary([NAN, 1.0]).high)


def test_welch_matches_scipy():
    first, second = np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5, 5.0, 9.0])
    error, dof = welch(first.var(ddof=1), 3, second.var(ddof=1), 4)
    reference = stats.ttest_ind(first, second, equal_var=False)
    assert dof == pytest.approx(reference.df)
    assert (first.mean() - second.mean()) / error == pytest.approx(reference.statistic)
    low, high = difference_interval([*first, NAN], second)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert difference_interval([1.0, 1.0], [3.0, 3.0]) == (-2, -2)
    assert all(map(math.isnan, difference_interval([1.0], second)))
