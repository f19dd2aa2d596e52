"""Verdicts: what samples of runs say about a claim.

A cell is a sequence (one value per run, NaN = a diverged run, inf = a time that the run did not reach) or a number
(deterministic, no sampling error). A claim is a set of pairs of cells and holds when every pair does (an
intersection-union test). A pair is judged by Welch's one-sided t tests of mean(lhs) - factor * mean(rhs) against an
offset; ratios too, so that no distribution of a ratio has to be approximated. A pair with a time that was not reached
is judged by the log-rank test. "Equal", "within" and "does not help" are shown by tests against the ends of a margin,
never by p > 0.05.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from deepnets_utils.results import documents
from deepnets_utils.results.documents import Claim
from deepnets_utils.results.statistics import ALPHA, difference_interval, holm, log_rank, moments, welch

Cell = float | Sequence[float] | np.ndarray
# The last two are a study's: of a claim that its runs cannot try, and of one without enough of them.
VERDICTS = ("supported", "contradicted", "leans", "leans against", "undecided", "not tried", "too few runs")
NOT_JUDGED = VERDICTS[-2:]
IN_PART = "decided in part"  # a claim that one protocol decides, and another leaves open or decides the other way


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
    """verdict: one of VERDICTS. left, right: the means of the deciding pair's sides (the weakest pair, or the most
    opposite one when the verdict is against the claim). effect: their "difference" (left - right) or "ratio", as scale
    says, low and high its 95 % interval; NaN where a run did not reach its time. n: fewest finished runs in a pair that
    has any, of which one reached its time; comparisons: the number of those pairs, pointing: how many of them point the
    claimed way by their means, shown: how many of these are significant alone, uncorrected. The p-values are corrected
    in claim and family."""

    id: str
    protocol: str
    verdict: str
    left: float
    right: float
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


def judge(questions: Sequence[Question]) -> list[Verdict]:
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
    claims = [[_Pair(question, lhs, rhs) for lhs, rhs in question.claim.pairs] for question in questions]
    supported = [max(pair.p_supported for pair in pairs) for pairs in claims]
    contradicted = [min(1.0, len(pairs) * min(pair.p_contradicted for pair in pairs)) for pairs in claims]
    corrected = contradicted[:], supported[:]
    family = [i for i, pairs in enumerate(claims) if any(pair.n > 1 for pair in pairs)]
    for p_values in corrected:
        for i, p in zip(family, holm([p_values[i] for i in family]), strict=True):
            p_values[i] = p
    p_values = zip(*corrected, contradicted, supported, strict=True)
    return [_verdict(*of) for of in zip(questions, claims, p_values, strict=True)]


def _verdict(question: Question, pairs: Sequence["_Pair"], p_values: tuple[float, float, float, float]) -> Verdict:
    """Return a claim's verdict by its p-values: corrected ones against and for it, then those before the correction."""
    known = [pair for pair in pairs if pair.n] or pairs
    steps = zip(("contradicted", "supported", "leans against", "leans"), p_values, strict=True)
    word = next((word for word, p in steps if p <= ALPHA), "undecided")
    if word in ("contradicted", "leans against"):
        decides = min(known, key=lambda pair: (pair.p_contradicted, pair.slack))
    else:
        decides = max(known, key=lambda pair: (pair.p_supported, -pair.slack))
    scale = "difference" if all(factor == 1 for factor, _ in question.claim.bounds) else "ratio"
    effect = decides.ratio() if scale == "ratio" else decides.difference()
    about = (question.claim.id, question.protocol, word, *(mean for mean, *_ in decides.moments), *effect, scale)
    shown = sum(pair.p_supported <= ALPHA for pair in known)
    counts = min(pair.n for pair in known), len(known), sum(pair.points for pair in known), shown
    return Verdict(*about, decides.name, *counts, p_values[1], p_values[0], _note(question))


class _Pair:
    """Two cells side by side, their uncorrected p-values, and the slack that breaks ties of p.

    n: finished runs of the smaller, 1 for two numbers, 0 where nothing can be told: one is empty, or no run of both
    reached its time.
    """

    p_supported, p_contradicted, slack, points = 1.0, 1.0, 0.0, False

    def __init__(self, question: Question, lhs: str, rhs: str) -> None:
        self.claim = question.claim
        self.name = f"{documents.in_words(lhs)} against {documents.in_words(rhs)}"
        self.cells = _cell(question, lhs), _cell(question, rhs)
        self.moments = tuple(map(moments, self.cells))
        self.finished = [cell[~np.isnan(cell)] for cell in self.cells]
        reached = np.isfinite(np.concatenate(self.finished))
        self.unreached = not reached.all()
        n = min(n for *_, n in self.moments) if reached.any() else 0
        self.n = 1 if n == math.inf else n
        if self.n:
            self._judge(exact=n == math.inf)

    def _judge(self, exact: bool) -> None:
        (lower, upper), same, below, above = self.claim.bounds, (1, 0), -1, 1
        shown, opposite = {
            "less": ([(same, below)], [(same, above)]),
            "greater": ([(same, above)], [(same, below)]),
            "not_less": ([(lower, above)], [(same, below)]),
            "not_greater": ([(upper, below)], [(same, above)]),
        }.get(self.claim.kind, ([(lower, above), (upper, below)], [(lower, below), (upper, above)]))
        inclusive = self.claim.kind not in ("less", "greater")
        for_it = [self._test(*bound, inclusive) for bound in shown]
        against = [self._test(*bound, inclusive=False) for bound in opposite]
        self.p_supported, self.slack = max(p for p, _ in for_it), min(distance for _, distance in for_it)
        self.points = self.slack > 0 or (inclusive and self.slack == 0)
        self.p_contradicted = min(1.0, len(against) * min(p for p, _ in against))
        if exact:  # a number that does not show the claim refutes it
            self.p_supported = float(self.p_supported == 1 or self.p_contradicted == 0)
            self.p_contradicted = 1 - self.p_supported

    def _contrast(self, factor: float) -> tuple[float, float, float]:
        """Return mean(left) - factor * mean(right), its standard error and its degrees of freedom."""
        (mean, variance, n), (other, other_variance, other_n) = self.moments
        return mean - factor * other, *welch(variance, n, factor**2 * other_variance, other_n)

    def _test(self, bound: tuple[float, float], direction: int, inclusive: bool) -> tuple[float, float]:
        """Return p-value and distance of left being above (direction 1) or below (-1) factor * right + offset."""
        factor, offset = bound
        estimate, error, dof = self._contrast(factor)
        distance = direction * (estimate - offset)
        if abs(distance) <= 1e-12 * (abs(self.moments[0][0]) + abs(offset)):
            distance = 0.0  # rounding, as of 0.9 - 0.7 against 0.2
        better = 1 if self.claim.metric.endswith("accuracy") else -1
        favoured_is_whole = not np.isnan(self.cells[direction != better]).any()
        if self.unreached:
            # Where a bound lies beyond what was watched, a run that did not reach its time says nothing about it.
            known = favoured_is_whole and direction * (factor - 1 + offset) <= 0
            left, right = self.finished
            return log_rank(*(left, factor * right + offset)[::direction]) if known else (1.0, -math.inf)
        if math.isnan(error) or not favoured_is_whole:
            return 1.0, distance
        if error == 0:
            return (self._by_order() if distance > 0 or (inclusive and distance == 0) else 1.0), distance
        return float(stdtr(dof, -distance / error)), distance

    def _by_order(self) -> float:
        """Return the p-value of samples that do not vary, as a coarse measure's may not: of their order by chance."""
        n, other = sorted(n for *_, n in self.moments)
        return 2.0**-n if other == math.inf else 1 / math.comb(int(n + other), int(n))

    def difference(self) -> tuple[float, float, float]:
        """Return mean(left) - mean(right) and its 95 % interval."""
        return self._contrast(1)[0], *difference_interval(*self.cells)

    def ratio(self) -> tuple[float, float, float]:
        """Return mean(left) / mean(right) and its 95 % interval, Fieller's: the factors that no test excludes."""
        (left, *_), (right, *_) = self.moments
        if min(left, right) < 0:
            raise ValueError(f"a ratio needs means of at least 0, not {left:g} and {right:g}: {self.name}")
        ratio = left / right if right > 0 else math.nan
        _, error, dof = self._contrast(ratio)
        if not error > 0:
            return ratio, ratio + error, ratio + error  # a point without variance, NaN for too few runs
        left_2, both = ((stdtrit(dof, 0.975) * self._contrast(factor)[1]) ** 2 for factor in (0, 1))
        a, b, c = right**2 + left_2 - both, left * right, left**2 - left_2
        if a <= 0:
            return ratio, 0.0, math.inf  # the denominator may be 0
        root = math.sqrt(max(b * b - a * c, 0.0))
        return ratio, max(0.0, float((b - root) / a)), float((b + root) / a)


def _cell(question: Question, ref: str) -> np.ndarray:
    """Return float [runs], or [] for a number (a literal of the claim, too); [0] where there is no run."""
    return np.asarray(question.cells.get(ref, () if ":" in ref else float(ref)), dtype=float)


def _note(question: Question) -> str:
    cells = {ref: _cell(question, ref) for pair in question.claim.pairs for ref in pair}
    if not any(values.size for ref, values in cells.items() if ":" in ref):
        return "not run"
    if not any(values.ndim for values in cells.values()):
        return "exact"
    notes: list[str] = []
    few: dict[str, list[str]] = {"missing": [], "n = 0": [], "n = 1": []}
    for ref, values in cells.items():
        name, diverged, unreached = documents.in_words(ref), np.isnan(values).sum(), np.isinf(values).sum()
        for count, what in ((diverged, "diverged"), (unreached, "never got there")):
            notes += [f"{count} of {values.size} runs {what}: {name}"] if count else []
        if values.ndim and (finished := values.size - diverged) < 2:
            few[f"n = {finished}" if values.size else "missing"].append(name)
    for word, names in few.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes += [f"{word}: {'; '.join(names[:3])}{more}"] if names else []
    return "; ".join(notes)


def one_word(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return one verdict on a claim from those under each protocol, of which any that could be tried; else why none."""
    words = {line["verdict"] for line in lines}
    words = words - {*NOT_JUDGED} or words
    if len(words) > 1 and words & {"supported", "contradicted"}:
        return IN_PART
    if {"leans", "leans against"} <= words:
        return "undecided"
    return next((word for word in VERDICTS if word in words), "too few runs")


def of_claims(
    claims: Sequence[str | Claim],
    values: Mapping[tuple[str, str], Mapping[str, Cell]],
    protocols: Sequence[str],
    untried: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return a line a claim and protocol: its Verdict, with the claim's source, statement and metric.

    claims: the documents' by id, and others as they are.
    values: (protocol, metric) -> "table:row:column" -> cell. A protocol tries a claim when each of its left-hand sides
    that has a cell under any protocol has one under this one. untried: claim -> why its runs cannot try it; it is not
    judged and no part of the family. Raises ValueError for an unknown claim.
    """
    found = [documents.claim(claim) if isinstance(claim, str) else claim for claim in claims]
    asked = {claim.id: claim for claim in found}
    if unknown := untried.keys() - asked.keys():
        raise ValueError(f"untried claims are among those that are judged, {', '.join(asked)}; not {unknown}")
    for claim in (claim for claim in claims if isinstance(claim, Claim)):
        kept = {ref for (_, metric), cells in values.items() if metric == claim.metric for ref in cells}
        lost = sorted({ref for pair in claim.pairs for ref in pair if ":" in ref} - kept)
        if lost:
            raise ValueError(
                f"{claim.id}: no cells {', '.join(lost)} of metric {claim.metric!r} were kept before; kept of it are: "
                f"{', '.join(sorted(kept)) or 'none'} (see Study.keep)"
            )
    questions = []
    for id, claim in asked.items():
        kept = {protocol: values.get((protocol, claim.metric), {}) for protocol in protocols}
        sides = {lhs for lhs, _ in claim.pairs if any(lhs in cells for cells in kept.values())}
        tried = [protocol for protocol in protocols if sides and sides <= kept[protocol].keys()]
        questions += [Question(claim, {} if id in untried else kept[p], p) for p in tried or protocols[:1]]
    lines = []
    for verdict in judge(questions):
        claim = asked[verdict.id]
        line = asdict(verdict) | {"source": claim.source, "statement": claim.statement, "metric": claim.metric}
        if verdict.id in untried:
            line |= {"verdict": "not tried", "note": untried[verdict.id]}
        elif verdict.verdict == "undecided" and (verdict.n < 2 or verdict.comparisons < len(claim.pairs)):
            line["verdict"] = "too few runs"
        lines.append(line)
    return lines
