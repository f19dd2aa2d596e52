"""Means, spreads, intervals and tests of samples: one value a run, NaN of a diverged one.

A value may be infinite: a time that the run did not reach. scipy's tests take no number without sampling error on one
side, and it has no Holm: its distributions are used here.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

ALPHA = 0.05


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
    mean, variance, n = moments(values)
    ranked = np.sort(np.where(np.isnan(values), np.inf, values))
    places = np.array([0.5, 0.25, 0.75]) * (values.size - 1)
    quantiles = np.interp(places, range(values.size), ranked).tolist() if values.size else [math.nan] * 3
    counts = n, values.size - n, int(np.isinf(values).sum())
    return Summary(mean, math.sqrt(variance), *counts, *quantiles, *difference_interval(values, 0.0))


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
    values: float | Sequence[float] | np.ndarray, others: float | Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Return Welch's 95 % interval of mean(values) - mean(others) without diverged runs; NaN where there is none.

    A number has no sampling error.
    """
    (mean, variance, n), (other, other_variance, other_n) = moments(values), moments(others)
    error, dof = welch(variance, n, other_variance, other_n)
    half = float(stdtrit(dof, 0.975)) * error if error else error
    return mean - other - half, mean - other + half


def mean_of_others(mean: float, n: int, one: float) -> float:
    """Return the mean of the other n - 1 of n numbers with this mean, one of which is `one`.

    Where no number is below 0, as losses are, and this is, `one` was none of them.
    """
    return (n * mean - one) / (n - 1)


def smallest_significant(n: int, claims: int = 1) -> float:
    """Return how many standard deviations two means of n runs each must be apart for Welch's one-sided test.

    For the smallest p-value of so many claims, where Holm's correction begins; NaN below two runs.
    """
    return float(stdtrit(2 * n - 2, 1 - ALPHA / claims)) * math.sqrt(2 / n) if n > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given."""
    p_values = np.asarray(p_values, dtype=float)
    order, adjusted = p_values.argsort(), np.empty(p_values.size)
    steps = p_values[order] * np.arange(p_values.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def moments(values: float | Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return mean, variance (n - 1) and number of the finished runs; a number counts as infinitely many."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 0 and np.isfinite(values):
        return float(values), 0.0, math.inf
    finished = values[~np.isnan(values)]
    if not np.isfinite(finished).all() or finished.size == 0:
        return math.nan, math.nan, finished.size
    shifted = finished - finished[0]  # so that equal values have a variance of exactly 0
    variance = float(shifted.var(ddof=1)) if finished.size > 1 else math.nan
    return float(finished[0] + shifted.mean()), variance, finished.size


def log_rank(times: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return the log-rank test of `times` being longer, infinite ones beyond all: its one-sided p-value, and by how
    many events `times` have fewer than expected, above 0 where they are longer. p is 1 for a side with one run.

    By permutation, all of them up to 10,000 and else so many: with a few runs scipy's normal approximation rejects too
    often, at the small levels that Holm's correction asks for about twice as often as it says.
    """
    n, size = times.size, times.size + others.size
    pooled = np.concatenate((times, others))
    events, number = np.unique(pooled[np.isfinite(pooled)], return_counts=True)
    outlived = pooled[:, None] >= events
    scores = outlived @ (number / outlived.sum(0)) - np.isfinite(pooled)  # events expected of a run, minus its own
    fewer = float(scores[:n].sum())
    if min(n, size - n) < 2:
        return 1.0, fewer
    if math.comb(size, n) <= 10_000:
        groups = np.array(list(itertools.combinations(range(size), n)))
    else:
        groups = np.random.default_rng(0).random((10_000, size)).argsort(axis=1)[:, :n]
        groups[0] = np.arange(n)
    return float((scores[groups].sum(axis=1) >= fewer - 1e-9).mean()), fewer
