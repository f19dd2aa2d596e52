"""What a verdict says of claims over several pairs, of missing, diverged and censored runs."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from questions import cells, make, verdict, watched
from scipy import stats

from deepnets_utils.results.documents import claim
from deepnets_utils.results.verdicts import Question, judge

pytestmark = pytest.mark.filterwarnings("error")
NAN = math.nan


def test_p_values_are_welchs():
    rng = np.random.default_rng(1)
    lhs, rhs = rng.normal(9, 1, 6), rng.normal(10, 3, 10)
    found = verdict("less", (lhs, rhs))
    reference = stats.ttest_ind(lhs, rhs, equal_var=False, alternative="less")
    assert found.p_supported == pytest.approx(reference.pvalue)
    assert found.p_contradicted == pytest.approx(1 - reference.pvalue)
    interval = stats.ttest_ind(lhs, rhs, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert (found.effect, found.scale, found.n) == (pytest.approx(lhs.mean() - rhs.mean()), "difference", 6)


def test_a_sample_against_a_number_is_a_one_sample_test():
    values = np.array([0.41, 0.47, 0.38, 0.52])
    asked = replace(make("less"), pairs=(("table:lhs 0:x", "0.5"),))
    found = judge([Question(asked, {"table:lhs 0:x": values})])[0]
    assert found.p_supported == pytest.approx(stats.ttest_1samp(values, 0.5, alternative="less").pvalue)
    assert found.n == 4
    same = verdict("less", (values, 0.5))
    assert same.p_supported == found.p_supported


def test_the_weakest_pair_decides_and_the_opposite_one_when_contradicted():
    clear, close, wrong = ([1, 1.1, 0.9], [9, 9.1, 8.9]), ([1, 1.1, 0.9], [2, 2.1, 1.9]), ([9, 9.1, 8.9], [1, 1.1, 0.9])
    found = verdict("less", clear, close)
    assert (found.verdict, found.pair) == ("supported", "lhs 1, x (table) against rhs 1, x (table)")
    assert found.effect == pytest.approx(-1) and found.low < -1 < found.high
    found = verdict("less", clear, close, wrong)
    assert (found.verdict, found.pair) == ("contradicted", "lhs 2, x (table) against rhs 2, x (table)")
    assert found.effect == pytest.approx(8)


def test_opposites_within_a_claim_are_corrected_for_its_pairs():
    lhs, rhs = np.array([11.0, 12.0, 13.0, 12.5]), np.array([10.0, 11.5, 11.0, 10.5])
    alone = verdict("less", (lhs, rhs)).p_contradicted
    assert 0.01 < alone < 0.05
    with_others = verdict("less", (lhs, rhs), *[(rhs - 5, rhs)] * 4)
    assert with_others.p_contradicted == pytest.approx(5 * alone)
    assert with_others.verdict == "undecided"


def test_what_the_correction_alone_leaves_undecided_leans():
    family = [Question(make("less", id=f"study.{i}"), cells(([1, 2, 3], [1, 2, 3]))) for i in range(9)]

    def word(kind, *pairs):
        return judge([Question(make(kind, pairs=len(pairs)), cells(*pairs)), *family])[0]

    low, high = [10.0, 11.5, 11.0, 10.5], [11.0, 12.5, 13.0, 12.7]
    found = word("less", (low, high), (low, high))
    assert found.verdict == "leans" and found.p_supported > 0.05
    assert (found.pointing, found.shown, found.comparisons) == (2, 2, 2)
    found = word("less", (high, low), ([*low, NAN], high))  # the second is the weakest: nothing can show it
    assert (found.verdict, found.pair) == (
        "leans against",
        "lhs 0, x (table) against rhs 0, x (table)",
    ) and found.effect > 0
    assert (found.pointing, found.shown) == (1, 0)
    assert word("less", (low, high), (None, None)).verdict == "undecided", "every comparison has to hold"
    assert word("less", (high, low), *[(low, high)] * 9).verdict == "undecided", "corrected for the claim's own pairs"
    assert verdict("less", (low, high)).verdict == "supported", "alone in its family"


def test_comparisons_that_point_the_claimed_way_are_counted_by_their_means():
    far, near = ([1.0, 1.1, 0.9], [9.0, 9.1, 8.9]), ([1.0, 3.0, 2.0], [2.0, 3.5, 1.0])
    assert near[0] != near[1] and np.mean(near[0]) < np.mean(near[1])
    found = verdict("less", far, near, far[::-1], ([1.0], [2.0]), ([1.0, 1.0], None))
    assert (found.comparisons, found.pointing, found.shown) == (4, 3, 1)
    same = [2.0, 1.0, 3.0]
    assert verdict("less", (same, same)).pointing == 0
    assert verdict("not_less", (same, [2.5, 1.5, 3.5]), metric="test_error").pointing == 1, "within the margin"
    assert verdict("equal", far, (same, same), margin="1").pointing == 1
    found = verdict("less", (0.1, 0.2), (0.3, 0.2))
    assert (found.comparisons, found.pointing, found.shown) == (2, 1, 1)


def test_one_run_is_always_undecided():
    for kind, margin in (("less", ""), ("equal", "a factor of 2"), ("not_less", ""), ("ratio_within", "2 to 3")):
        found = verdict(kind, ([1.0], [5.0, 5.1, 5.2]), margin=margin)
        assert (found.verdict, found.n, found.p_supported, found.p_contradicted) == ("undecided", 1, 1, 1)
        assert found.note == "n = 1: lhs 0, x (table)"
        assert math.isnan(found.low) and math.isnan(found.high) and not math.isnan(found.effect)
    assert verdict("less", ([1.0], 5.0)).verdict == "undecided"
    assert verdict("less", ([1.0, NAN, NAN], [5.0, 6.0, 7.0])).verdict == "undecided"


def test_a_claim_that_was_not_run():
    found = judge([Question(claim("siamese.aux_lowers"), {})])[0]
    assert (found.verdict, found.note, found.n) == ("undecided", "not run", 0)
    assert (found.p_supported, found.p_contradicted) == (1, 1) and math.isnan(found.effect)
    assert verdict("less", ([], [])).note == "not run"
    literal = Question(claim("distillation.labels_overfit"), {})
    assert judge([literal])[0].note == "not run"


def test_a_missing_pair_bars_support_but_not_contradiction():
    good, bad = ([1.0, 1.1, 1.2], [5.0, 5.1, 5.2]), ([5.0, 5.1, 5.2], [1.0, 1.1, 1.2])
    found = verdict("less", good, ([1.0, 1.1], None))
    assert (found.verdict, found.note) == ("undecided", "missing: rhs 1, x (table)")
    assert found.effect == pytest.approx(-4)
    assert verdict("less", bad, (None, None)).verdict == "contradicted"


def test_many_missing_cells_are_named_and_counted():
    found = verdict("less", ([1.0, 2.0], [1.0, 2.0]), *[(None, None)] * 3)
    assert found.note == "missing: lhs 1, x (table); rhs 1, x (table); lhs 2, x (table) and 3 more"


def test_diverged_runs_never_make_a_side_look_good():
    rng = np.random.default_rng(11)
    for metric, kind in (("test_error", "less"), ("test_accuracy", "greater"), ("test_mse", "not_greater")):
        for _ in range(100):
            lhs, rhs = rng.normal(10, 1, 8), rng.normal(10, 1, 8)
            rhs[rng.random(8) < 0.3] = NAN
            broken = np.where(rng.random(8) < 0.4, NAN, lhs)
            if verdict(kind, (broken, rhs), metric=metric).verdict == "supported":
                assert verdict(kind, (lhs, rhs), metric=metric).verdict == "supported"


def test_diverged_runs_of_the_worse_side_do_not_hide_an_effect():
    low, high = [5.0, 5.2, 4.9, 5.1], [9.0, 9.1, NAN, 8.8]
    found = verdict("less", (low, high))
    assert (found.verdict, found.n, found.note) == ("supported", 3, "1 of 4 runs diverged: rhs 0, x (table)")
    assert found.effect == pytest.approx(5.05 - 8.966667)
    assert verdict("greater", (low, high)).verdict == "contradicted"
    assert verdict("less", (low, high), metric="test_accuracy").verdict == "undecided"


def test_equality_needs_both_sides_whole():
    whole = [5.0, 5.1, 4.9, 5.0]
    assert verdict("equal", (whole, whole[::-1]), margin="2 percentage points").verdict == "supported"
    for pair in ((whole, [*whole[:3], NAN]), ([*whole[:3], math.inf], whole)):
        assert verdict("equal", pair, margin="2 percentage points").verdict == "undecided"


def test_runs_that_reach_a_level_sooner_are_found():
    soon, late = [3, 4, 5, 4, 6], [9, math.inf, 12, math.inf, math.inf]
    found = verdict("less", (soon, late), metric="epoch")
    assert (found.verdict, found.n) == ("supported", 5) and math.isnan(found.effect)
    assert found.p_supported == pytest.approx(1 / 252)
    assert found.note == "3 of 5 runs never got there: rhs 0, x (table)"
    assert verdict("greater", (soon, late), metric="epoch").verdict == "contradicted"
    assert verdict("not_less", (late, soon), margin="10 % of rhs", metric="epoch").verdict == "supported"
    assert verdict("not_less", (soon, late), margin="10 % of rhs", metric="epoch").verdict == "contradicted"
    for kind, pointing in (("less", 1), ("greater", 0), ("not_less", 0), ("not_greater", 1)):
        assert verdict(kind, ([16, 17], [math.inf, 29]), metric="epoch").pointing == pointing


def test_a_time_that_no_run_reaches_tells_nothing():
    nobody = [math.inf] * 5
    for kind, margin in (("less", ""), ("not_less", "10 % of rhs"), ("equal", "10 % of rhs")):
        found = verdict(kind, (nobody, nobody), margin=margin, metric="epoch")
        assert (found.verdict, found.n, found.p_supported, found.p_contradicted) == ("undecided", 0, 1, 1)
        ours = "5 of 5 runs never got there"
        assert found.note == f"{ours}: lhs 0, x (table); {ours}: rhs 0, x (table)" and math.isnan(found.effect)
    others = Question(make("less", id="study.other"), cells(([1.0, 1.1, 1.2], [5.0, 5.1, 5.2])))
    assert (
        judge([others])[0].p_supported
        == judge([others, Question(make("less"), cells((nobody, nobody)))])[0].p_supported
    )


def test_a_run_that_diverged_did_not_reach_its_time_sooner():
    late = [9, math.inf, 12, math.inf, math.inf, math.inf]
    assert verdict("less", ([3, 4, 5, 4, 6, NAN], late), metric="epoch").verdict == "undecided"
    assert verdict("less", ([3, 4, 5, 4, 6], [*late, NAN]), metric="epoch").verdict == "supported"
    assert verdict("less", ([3], late), metric="epoch").verdict == "undecided"


def test_what_lies_beyond_the_end_is_not_told():
    """Of the right times it is known that they are above 10: nine tenths of them may be below 9.5."""
    found = verdict("equal", ([9.5] * 8, [math.inf] * 8), margin="10 % of rhs", metric="epoch")
    assert (found.verdict, found.p_contradicted) == ("undecided", 1)


def test_the_log_rank_test_is_that_of_scipy_where_runs_are_many():
    rng = np.random.default_rng(5)
    lhs, rhs = (watched(np.ceil(rng.exponential(mean, 60)), 12) for mean in (8, 9))
    sides = (stats.CensoredData.right_censored(np.minimum(times, 13), np.isinf(times)) for times in (lhs, rhs))
    reference = stats.logrank(*sides, alternative="greater").pvalue
    assert verdict("less", (lhs, rhs), metric="epoch").p_supported == pytest.approx(reference, rel=0.1)


def test_numbers_are_compared_directly():
    found = verdict("less", (0.0158, 0.0981), (0.0158, 0.016), metric="test_mse")
    assert (found.verdict, found.p_supported, found.p_contradicted, found.note) == ("supported", 0, 1, "exact")
    assert (found.pair, found.n) == ("lhs 1, x (table) against rhs 1, x (table)", 1)
    assert found.effect == found.low == found.high == pytest.approx(-0.0002)
    assert verdict("less", (0.0158, 0.0981), (0.02, 0.016)).verdict == "contradicted"
    assert verdict("less", (1.0, 1.0)).verdict == "contradicted"
    assert verdict("not_less", (1.0, 1.0), metric="test_mse").verdict == "supported"
    assert verdict("not_less", (0.9, 1.0), metric="test_mse").verdict == "contradicted"


def test_the_ends_of_a_margin_belong_to_it():
    points = {"margin": "0.2 percentage points"}
    assert 0.9 - 0.7 > 0.2
    assert verdict("equal", (0.9, 0.7), **points).verdict == "supported"
    assert verdict("equal", (0.9001, 0.7), **points).verdict == "contradicted"
    assert verdict("ratio_within", (6.0, 2.0), margin="2 to 3").verdict == "supported"
    assert verdict("difference_within", (6.0, 2.0), margin="1 to 3 percentage points").verdict == "contradicted"


def test_baseline_claims_of_the_document():
    table2 = {("mean", "zero"): 0.09807, ("mean", "mean"): 0.01581, ("mean", "median"): 0.01601}
    table2 |= {("std", "zero"): 0.10851, ("std", "mean"): 0.00610, ("std", "median"): 0.00624}
    table2 |= {("median", "zero"): 0.11191, ("median", "mean"): 0.07112, ("median", "median"): 0.10876}
    known = {f"table2:{row}:{column}": value for (row, column), value in table2.items()}
    known["text:median:share of targets that are 0"] = 0.480
    ids = ["go_deep.mean_is_best_constant", "go_deep.median_constant_close", "go_deep.half_of_medians_zero"]
    found = judge([Question(claim(id), known) for id in ids])
    assert [(item.verdict, item.note) for item in found] == [("supported", "exact")] * 3
    assert (found[1].scale, found[1].effect) == ("ratio", pytest.approx(0.00624 / 0.00610))


def test_samples_without_variance_are_judged_by_their_number():
    """A coarse measure may not vary: that 12, 12 and 13, 13 are apart is chance once in six times."""
    assert verdict("less", ([12, 12], [13, 13])).verdict == "undecided"
    assert verdict("less", ([12, 12], [13, 13])).p_supported == pytest.approx(1 / 6)
    assert verdict("less", ([12] * 4, [13] * 4)).p_supported == pytest.approx(1 / 70)
    assert verdict("less", ([0.1] * 10, [0.3] * 10)).verdict == "supported"
    assert verdict("less", ([0.3] * 10, [0.1] * 10)).verdict == "contradicted"
    same = verdict("less", ([0.1] * 10, [0.1] * 3))
    assert (same.verdict, same.effect, same.low, same.high) == ("undecided", 0, 0, 0)
    assert verdict("equal", ([0.1] * 10, [0.1] * 10), margin="5 % of rhs").verdict == "supported"
    assert verdict("equal", ([0.0] * 3, [0.0] * 3), margin="a factor of 2").verdict == "supported"


def test_holm_runs_over_the_claims_that_were_tested():
    rng = np.random.default_rng(3)
    sample = (rng.normal(9, 1, 8), rng.normal(10, 1, 8))
    alone = verdict("less", sample).p_supported
    family = [
        Question(make("less", id="study.a"), cells(sample), "as_published"),
        Question(make("less", id="study.a"), cells(sample), "as_coded"),
        Question(make("less", id="study.b"), {}),
        Question(make("less", id="study.c"), cells((1.0, 2.0))),
        Question(make("less", id="study.d"), cells(([1.0], [2.0]))),
    ]
    found = judge(family)
    assert [(item.id, item.protocol) for item in found[:2]] == [("study.a", "as_published"), ("study.a", "as_coded")]
    assert [item.p_supported for item in found[:2]] == pytest.approx([2 * alone] * 2)
    assert [item.verdict for item in found[2:]] == ["undecided", "supported", "undecided"]
    assert judge([]) == []


def test_a_question_is_asked_once():
    asked = Question(make("less"), {}, "as_coded")
    with pytest.raises(ValueError, match=r"asked twice in one family .*\('study.claim', 'as_coded'\)"):
        judge([asked, asked])


def test_verdicts_are_plain_values():
    found = verdict("less", (np.float32([1, 1.1, 1.2]), np.float32([5, 5.1, 5.2])), ([1.0, NAN, 1.1], [2.0, 2.1]))
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert list(asdict(found))[:3] == ["id", "protocol", "verdict"]
