"""Intervals, tests and verdicts: what samples of runs say about a claim.

A cell is a sequence (one value per run, NaN = a diverged run, inf = a time that the run did not reach) or a number
(deterministic, no sampling error). A claim is a set of pairs of cells and holds when every pair does (an
intersection-union test). A pair is judged by Welch's one-sided t tests of mean(lhs) - factor * mean(rhs) against an
offset; ratios too, so that no distribution of a ratio has to be approximated. A pair with a time that was not reached
is judged by the log-rank test. "Equal", "within" and "does not help" are shown by tests against the ends of a margin,
never by p > 0.05.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from deepnets_utils.results.documents import Claim

Cell = float | Sequence[float] | np.ndarray
VERDICTS = (  # the last two are a study's: of a claim that its runs cannot try, and of one without enough of them
    *("supported", "contradicted", "leans", "leans against", "undecided"),
    *("not tried", "too few runs"),
)


@dataclass(frozen=True)
class Summary:
    """mean, spread (n - 1) and t interval (low, high) of n finished runs; median, q25 and q75 of all runs.

    unreached: of the finished runs, those whose value is infinite, a time that they did not reach. With one there is
    no mean, spread or interval (NaN).
    """

    mean: float
    spread: float
    n: int
    diverged: int
    unreached: int
    median: float
    q25: float
    q75: float
    low: float
    high: float


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Return the Summary of one value per run; diverged runs (NaN) rank last in the quantiles.

    The interval is at 95 %. What is not defined (a spread of one run) is NaN. The quantiles are for a measure of which
    less is better: one that falls on a run that diverged, or did not reach its time, is infinite.
    """
    values = np.asarray(values, dtype=float).reshape(-1)
    mean, variance, n = _moments(values)
    ranked, unreached = np.sort(np.where(np.isnan(values), np.inf, values)), int(np.isinf(values).sum())
    median, q25, q75 = (_quantile(ranked, q) for q in (0.5, 0.25, 0.75))
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n) if n > 1 else math.nan
    diverged = values.size - n
    return Summary(mean, math.sqrt(variance), n, diverged, unreached, median, q25, q75, mean - half, mean + half)


def welch(variance: float, n: float, other_variance: float, other_n: float) -> tuple[float, float]:
    """Return standard error and Welch-Satterthwaite degrees of freedom of a difference of two means.

    n: values in each mean; (nan, nan) below two, and infinite for a number without sampling error.
    """
    if n < 2 or other_n < 2:
        return math.nan, math.nan
    total = variance / n + other_variance / other_n
    if total == 0:
        return 0.0, math.inf
    share = variance / n / total
    return math.sqrt(total), 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (other_n - 1))


def difference_interval(
    values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Return Welch's 95 % interval of mean(values) - mean(others) without diverged runs; NaN where there is none."""
    mean, variance, n = _moments(np.asarray(values, dtype=float).reshape(-1))
    other, other_variance, other_n = _moments(np.asarray(others, dtype=float).reshape(-1))
    error, dof = welch(variance, n, other_variance, other_n)
    half = float(stdtrit(dof, 0.975)) * error if error else error
    return mean - other - half, mean - other + half


def mean_of_others(mean: float, n: int, one: float) -> float:
    """Return the mean of the other n - 1 of n numbers with this mean, one of which is `one`.

    Where no number is below 0, as losses are, and this is, `one` was none of them.
    """
    return (n * mean - one) / (n - 1)


def smallest_significant(n: int, claims: int = 1, alpha: float = 0.05) -> float:
    """Return how many standard deviations two means of n runs each must be apart for Welch's one-sided test.

    For the smallest p-value of so many claims, where Holm's correction begins; NaN below two runs.
    """
    return float(stdtrit(2 * n - 2, 1 - alpha / claims)) * math.sqrt(2 / n) if n > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given; ValueError for one outside 0 to 1."""
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, not {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Question:
    """A claim put to cells: "table:row:column" -> values of the claim's metric (0 to 100 where that is in %).

    protocol: a label, for a claim that is judged under several. A reference with no cell, or an empty one, has no
    run yet.
    """

    claim: Claim
    cells: Mapping[str, Cell]
    protocol: str = ""


@dataclass(frozen=True)
class Verdict:
    """verdict: one of VERDICTS. effect: of the deciding pair (the weakest, or the most opposite when the verdict is
    against the claim), low and high its 95 % interval; scale: "difference" (lhs - rhs) or "ratio" (lhs / rhs) of means,
    NaN where a run did not reach its time. n: fewest finished runs in a pair that has any, of which one reached its
    time; comparisons: the number of those pairs, pointing: how many of them point the claimed way by their means,
    shown: how many of these are significant alone, uncorrected. The p-values are corrected in claim and family."""

    id: str
    protocol: str
    verdict: str
    effect: float
    low: float
    high: float
    scale: str
    pair: str
    n: int
    comparisons: int
    pointing: int
    shown: int
    p_supported: float
    p_contradicted: float
    note: str


def judge(questions: Sequence[Question], alpha: float = 0.05) -> list[Verdict]:
    """Return a Verdict for each question of one family (a study), Holm over its claims for and against.

    - A claim is supported when all its pairs are (its p is the largest of theirs), contradicted when at least
      one pair shows the opposite (its p is the smallest of theirs times their number). Contradicted goes
      first: not_less is not supported while a pair is significantly less, however small the step.
    - One that would be so if it were the only claim, and is not after Holm's correction, leans, or leans against.
    - A missing pair, one with a cell of fewer than two finished runs, or one in which no run reached its time, neither
      supports nor contradicts; a claim with no other pairs is no part of the family.
    - Diverged runs stay out of means, so evidence that a side is better is withheld (p = 1) where one of its
      runs diverged: losing runs never helps. "Equal" and "within" need both sides whole. Better is higher for
      accuracies, lower for everything else.
    - Two numbers are compared directly, p is 0 or 1. Samples without any variance are judged by their order: the p of
      so many values being sorted like this by chance.
    - Times of which some were not reached are judged by the log-rank test; all runs were watched for as long.

    Raises ValueError for a claim asked twice under one protocol and for a ratio of negative means.
    """
    asked = [(question.claim.id, question.protocol) for question in questions]
    if twice := sorted({key for key in asked if asked.count(key) > 1}):
        raise ValueError(f"asked twice in one family (claim, protocol): {twice}")
    claims = [_pairs(question) for question in questions]
    supported = [max(pair.p_supported for pair in pairs) for pairs in claims]
    contradicted = [min(1.0, len(pairs) * min(pair.p_contradicted for pair in pairs)) for pairs in claims]
    corrected = contradicted[:], supported[:]
    family = [i for i, pairs in enumerate(claims) if any(pair.n > 1 for pair in pairs)]
    for p_values in corrected:
        for i, p in zip(family, holm([p_values[i] for i in family]), strict=True):
            p_values[i] = p
    verdicts = []
    for question, pairs, *p_values in zip(questions, claims, *corrected, contradicted, supported, strict=True):
        claim, known = question.claim, [pair for pair in pairs if pair.n] or pairs
        steps = zip(("contradicted", "supported", "leans against", "leans"), p_values, strict=True)
        word = next((word for word, p in steps if p <= alpha), "undecided")
        if word in ("contradicted", "leans against"):
            decides = min(known, key=lambda pair: (pair.p_contradicted, pair.slack))
        else:
            decides = max(known, key=lambda pair: (pair.p_supported, -pair.slack))
        scale = "difference" if all(bound.factor == 1 for bound in claim.bounds) else "ratio"
        effect = decides.ratio() if scale == "ratio" else decides.difference()
        n, note = min(pair.n for pair in known), _note(question)
        about = (claim.id, question.protocol, word, *effect, scale, decides.name)
        counts = len(known), sum(pair.points for pair in known), sum(pair.p_supported <= alpha for pair in known)
        verdicts.append(Verdict(*about, n, *counts, p_values[1], p_values[0], note))
    return verdicts


def _pairs(question: Question) -> list["_Pair"]:
    """Return the claim's pairs with their uncorrected p-values and the slack that breaks ties of p."""
    claim = question.claim
    (lower, upper), same, below, above = claim.bounds, (1, 0), -1, 1
    shown, opposite = {
        "less": ([(same, below)], [(same, above)]),
        "greater": ([(same, above)], [(same, below)]),
        "not_less": ([(lower, above)], [(same, below)]),
        "not_greater": ([(upper, below)], [(same, above)]),
    }.get(claim.kind, ([(lower, above), (upper, below)], [(lower, below), (upper, above)]))
    better = 1 if claim.metric.endswith("accuracy") else -1
    pairs = [_Pair(question, lhs, rhs) for lhs, rhs in claim.pairs]
    for pair in filter(lambda pair: pair.n, pairs):
        inclusive = claim.kind not in ("less", "greater")
        for_it = [pair.test(*test, better, inclusive) for test in shown]
        against = [pair.test(*test, better, inclusive=False) for test in opposite]
        pair.p_supported, pair.slack = max(p for p, _ in for_it), min(distance for _, distance in for_it)
        pair.points = pair.slack > 0 or (inclusive and pair.slack == 0)
        pair.p_contradicted = min(1.0, len(against) * min(p for p, _ in against))
        if pair.exact:  # a number that does not show the claim refutes it
            pair.p_supported = float(pair.p_supported == 1 or pair.p_contradicted == 0)
            pair.p_contradicted = 1 - pair.p_supported
    return pairs


class _Pair:
    """Two cells side by side. n: finished runs of the smaller, 1 for two numbers, 0 where nothing can be told.

    That is where one is empty, or no run of both reached its time.
    """

    p_supported, p_contradicted, slack, points = 1.0, 1.0, 0.0, False

    def __init__(self, question: Question, lhs: str, rhs: str) -> None:
        left, right = _cell(question, lhs), _cell(question, rhs)
        self.name = f"{lhs} vs {rhs}"
        self.whole = not np.isnan(left).any(), not np.isnan(right).any()
        self.moments = _moments(left), _moments(right)
        self.finished = left[~np.isnan(left)], right[~np.isnan(right)]
        reached = np.isfinite(np.concatenate(self.finished))
        self.unreached = not reached.all()
        n = min(self.moments[0][2], self.moments[1][2]) if reached.any() else 0
        self.exact = n == math.inf
        self.n = 1 if self.exact else n

    def contrast(self, factor: float) -> tuple[float, float, float]:
        """mean(left) - factor * mean(right), its standard error and its degrees of freedom."""
        (mean, variance, n), (other, other_variance, other_n) = self.moments
        return mean - factor * other, *welch(variance, n, factor**2 * other_variance, other_n)

    def test(self, bound: tuple[float, float], direction: int, better: int, inclusive: bool) -> tuple[float, float]:
        """p-value and distance of left being above (direction 1) or below (-1) factor * right + offset."""
        factor, offset = bound
        estimate, error, dof = self.contrast(factor)
        distance = direction * (estimate - offset)
        if abs(distance) <= 1e-12 * (abs(self.moments[0][0]) + abs(offset)):
            distance = 0.0  # rounding, as of 0.9 - 0.7 against 0.2
        favoured_is_whole = self.whole[0 if direction == better else 1]
        if self.unreached:
            # Where a bound lies beyond what was watched, a run that did not reach its time says nothing about it.
            known = favoured_is_whole and direction * (factor - 1 + offset) <= 0
            left, right = self.finished
            return _log_rank(*(left, factor * right + offset)[::direction]) if known else 1.0, 0.0
        if math.isnan(error) or not favoured_is_whole:
            return 1.0, distance
        if error == 0:
            return (self._by_order() if distance > 0 or (inclusive and distance == 0) else 1.0), distance
        return float(stdtr(dof, -distance / error)), distance

    def _by_order(self) -> float:
        """p-value of samples that do not vary, as a coarse measure's may: by chance they would be sorted like this."""
        n, other = sorted((self.moments[0][2], self.moments[1][2]))
        if other == math.inf:
            return 2.0**-n
        return 1 / math.comb(int(n + other), int(n))

    def difference(self) -> tuple[float, float, float]:
        """mean(left) - mean(right) and its 95 % interval."""
        mean, error, dof = self.contrast(1)
        half = float(stdtrit(dof, 0.975)) * error if error else 0.0
        return mean, mean - half, mean + half

    def ratio(self) -> tuple[float, float, float]:
        """mean(left) / mean(right) and its 95 % interval, Fieller's: the factors that no test excludes."""
        (left, *_), (right, *_) = self.moments
        if min(left, right) < 0:
            raise ValueError(f"a ratio needs means of at least 0, not {left:g} and {right:g}: {self.name}")
        ratio = left / right if right > 0 else math.nan
        _, error, dof = self.contrast(ratio)
        if not error > 0:
            return ratio, ratio + error, ratio + error  # a point without variance, NaN for too few runs
        left_2, both = ((stdtrit(dof, 0.975) * self.contrast(factor)[1]) ** 2 for factor in (0, 1))
        a, b, c = right**2 + left_2 - both, left * right, left**2 - left_2
        if a <= 0:
            return ratio, 0.0, math.inf  # the denominator may be 0
        root = math.sqrt(max(b * b - a * c, 0.0))
        return ratio, float((b - root) / a), float((b + root) / a)


def _cell(question: Question, ref: str) -> np.ndarray:
    """Return float [runs], or [] for a number (a literal of the claim, too); [0] where there is no run."""
    values = np.asarray(question.cells.get(ref, () if ":" in ref else float(ref)), dtype=float)
    if values.ndim > 1:
        raise ValueError(f"a cell is a number or one value per run, not of shape {values.shape}: {ref}")
    return values


def _note(question: Question) -> str:
    cells = {ref: _cell(question, ref) for pair in question.claim.pairs for ref in pair}
    missing = [ref for ref, values in cells.items() if values.size == 0]
    if len(missing) == sum(":" in ref for ref in cells):
        return "not run"
    few: dict[str, list[str]] = {"missing": missing, "n = 0": [], "n = 1": []}
    notes = []
    for ref, values in cells.items():
        finished, unreached = int((~np.isnan(values)).sum()), int(np.isinf(values).sum())
        if finished < values.size:
            notes.append(f"{values.size - finished} of {values.size} runs diverged: {ref}")
        if unreached:
            notes.append(f"{unreached} of {values.size} runs never got there: {ref}")
        if values.ndim and values.size and finished < 2:
            few[f"n = {finished}"].append(ref)
    for word, refs in few.items():
        more = f" and {len(refs) - 3} more" if len(refs) > 3 else ""
        notes += [f"{word}: {', '.join(refs[:3])}{more}"] if refs else []
    return "; ".join(["exact"] if all(values.ndim == 0 for values in cells.values()) else notes)


def _moments(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, variance (n - 1) and number of the finished runs; a number counts as infinitely many."""
    if values.ndim == 0 and np.isfinite(values):
        return float(values), 0.0, math.inf
    finished = values[~np.isnan(values)]
    if not np.isfinite(finished).all() or finished.size == 0:
        return math.nan, math.nan, finished.size
    shifted = finished - finished[0]  # so that equal values have a variance of exactly 0
    variance = float(shifted.var(ddof=1)) if finished.size > 1 else math.nan
    return float(finished[0] + shifted.mean()), variance, finished.size


def _log_rank(times: np.ndarray, others: np.ndarray) -> float:
    """Return the one-sided p-value of the log-rank test that `times` are longer, infinite ones beyond all others.

    By permutation, all of them up to 10,000 and else so many: with a few runs scipy's normal approximation rejects too
    often, at the small levels that Holm's correction asks for about twice as often as it says.
    """
    n, size = times.size, times.size + others.size
    if min(n, size - n) < 2:
        return 1.0
    pooled = np.concatenate((times, others))
    events, number = np.unique(pooled[np.isfinite(pooled)], return_counts=True)
    outlived = pooled[:, None] >= events
    scores = outlived @ (number / outlived.sum(0)) - np.isfinite(pooled)  # events expected of a run, minus its own
    if math.comb(size, n) <= 10_000:
        groups = np.array(list(itertools.combinations(range(size), n)))
    else:
        groups = np.random.default_rng(0).random((10_000, size)).argsort(axis=1)[:, :n]
        groups[0] = np.arange(n)
    sums = scores[groups].sum(axis=1)
    return float((sums >= sums[0] - 1e-9).mean())  # the first group is `times`


def _quantile(ranked: np.ndarray, q: float) -> float:
    if ranked.size == 0:
        return math.nan
    place = q * (ranked.size - 1)
    low, high = ranked[math.floor(place)], ranked[math.ceil(place)]
    return float(low if low == high else low * (1 - place % 1) + high * (place % 1))
