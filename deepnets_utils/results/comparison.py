"""Our numbers beside the printed ones."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from deepnets_utils.results.documents import only, results
from deepnets_utils.results.statistics import Summary, summary, welch
from deepnets_utils.training.learning_rates import HIGHEST

WORDS = ("same", "close", "wide", "differs", "too few runs", "missing")  # what `compare` says of a published cell,
OTHER_SCALE = "other scale"  # and what of one whose runs are not the document's
LOGARITHMIC = ("mse", "mse_order", "learning_rate")  # endings of metrics whose ratios count, and not their differences
SHARE, FACTOR, EXACT_SHARE = 0.05, 1.5, 0.001  # margins of "close" where the document prints no spread


def compare(
    values: Mapping[tuple[str, str], Sequence[float] | float],
    source: str,
    table: str,
    metric: str,
    protocol: str = "",
    exact: bool = False,
    other_scale: bool = False,
) -> pd.DataFrame:
    """Return our cells beside the published ones, one line a cell: theirs in their order, then our others.

    values: (row, column) -> one value per run, NaN = diverged, inf = not reached; empty, or no key, where
    nothing ran yet. In the units of results.csv. exact: every value is deterministic: a number, or equal ones.
    other_scale: ours are of trainings that are larger or smaller than the document's.
    Columns: row, column, metric, protocol, printed (as the document has it), published, published_spread, published_n,
    ours (mean), spread, n (finished runs), low, high (95 % t interval of ours; of a loss or a rate, of the logarithm of
    their mean; cut off where nothing is possible: errors outside 0 to 100 %, rates above a range test's highest),
    verdict, diverged (runs), exact.

    verdict: "" where nothing is published, "missing" where nothing ran, OTHER_SCALE of another scale, "too few runs"
    below two finished ones (unless exact) or where one did not reach its time. Else "same": ours rounds to the printed
    digits (half a unit either way), or lies in what a printed word allows. "close": two one-sided tests show the
    difference to be smaller than a margin: the printed spread, or where none is printed 5 % of the number (of a loss
    or a rate a factor of 1.5, of what is exact 0.1 %, of a count nothing). "differs": Welch's test shows a difference.
    "wide": neither is shown. A printed mean without spread, or of one run or an unknown number, borrows our spread,
    which takes three runs: two that happen to be close would decide for both sides.
    Raises ValueError for an unknown source, table or metric, and for exact values that differ or diverged.
    """
    rows = only(results(source, table), "metric", metric, f" in {source} {table}")
    cells = {(row["row"], row["column"]): row for _, row in rows.iterrows()}
    lines = []
    for key in dict.fromkeys([*cells, *values]):
        sample = np.asarray(values.get(key, ()), dtype=float).reshape(-1)
        if exact and sample.size and not (np.isfinite(sample) & (sample == sample[0])).all():
            raise ValueError(f"exact values are finite and equal, not {sample.tolist()}: {key}")
        ours, cell = summary(sample), cells.get(key)
        line = dict(zip(("row", "column"), key, strict=True)) | {"metric": metric, "protocol": protocol}
        value, spread, n = (math.nan, math.nan, pd.NA) if cell is None else cell[["value", "spread", "n"]]
        line |= {"printed": "" if cell is None else _allowed(cell)[0]}
        line |= {"published": value, "published_spread": spread, "published_n": n}
        low, high = _log_interval(ours) if metric.endswith(LOGARITHMIC) else (ours.low, ours.high)
        if metric.endswith(("error", "accuracy")):
            low, high = np.clip((low, high), 0, 100)
        elif metric == "learning_rate":
            low, high = np.clip((low, high), 0, HIGHEST)
        line |= {"ours": ours.mean, "spread": ours.spread, "n": ours.n, "low": low, "high": high}
        word = _verdict(ours, cell, exact, other_scale)
        lines.append(line | {"verdict": word, "diverged": ours.diverged, "exact": exact})
    return pd.DataFrame(lines).astype({"published_n": "Int64"})


def likeness(frame: pd.DataFrame) -> str:
    """Return in words how like ours are to the published numbers of another scale, metric by metric.

    That is the order of the cells, and sign and size (its median) of differences: those that the document prints as
    such (metric "difference"), else those between two cells of one row or column. frame: as `compare` returns it, or
    several such of one protocol. "" where no such cell has runs, or nothing to be compared with.
    """
    texts = []
    known = frame[(frame["verdict"] == OTHER_SCALE) & frame["ours"].notna()]
    for metric, cells in known.groupby("metric", sort=False):
        said, numbers = [], cells[["published", "ours"]].to_numpy(dtype=float)
        if metric != "difference":
            order = cells["published"].rank().corr(cells["ours"].rank())
            said += [f"order of {len(cells)} cells: Spearman {order:.2f}"] if len(cells) > 2 and order == order else []
            first, second = np.triu_indices(len(cells), 1)
            labels = cells[["row", "column"]].to_numpy()
            numbers = (numbers[first] - numbers[second])[(labels[first] == labels[second]).any(axis=1)]
        theirs, ours = numbers[numbers[:, 0] != 0].T  # what is printed as equal has no sign
        if len(theirs):
            same, times = (np.sign(ours) == np.sign(theirs)).sum(), np.median(ours / theirs)
            said.append(f"{same} of {len(theirs)} printed differences with the same sign, {times:.2g} times as large")
        texts += [f"{metric.replace('_', ' ')}: {'; '.join(said)}"] if said else []
    return ". ".join(texts)


def _verdict(ours: Summary, cell: pd.Series | None, exact: bool, other_scale: bool) -> str:
    if cell is None:
        return ""
    if ours.n + ours.diverged == 0:
        return "missing"
    if other_scale:
        return OTHER_SCALE
    spread, n = cell["spread"], 1 if pd.isna(cell["n"]) else int(cell["n"])
    borrowed = math.isnan(spread) or n < 2
    if (ours.n < (3 if borrowed else 2) or ours.unreached) and not exact:
        return "too few runs"
    _, low, high = _allowed(cell)
    if low <= Decimal(str(ours.mean)) <= high:
        return "same"
    if exact:
        count = Decimal(cell["printed"]) == int(cell["value"])
        close = not count and abs(ours.mean - cell["value"]) <= EXACT_SHARE * abs(cell["value"])
        return "close" if close else "differs"
    if logarithmic := cell["metric"].endswith(LOGARITHMIC) and min(ours.mean, cell["value"]) > 0:
        distance, scale, theirs = math.log(ours.mean / cell["value"]), ours.mean, cell["value"]
    else:
        distance, scale, theirs = ours.mean - cell["value"], 1.0, 1.0
    variance = (ours.spread / scale) ** 2
    if borrowed:
        error, dof = math.sqrt(variance * (1 / ours.n + 1 / n)), ours.n - 1
    else:
        error, dof = welch(variance, ours.n, (spread / theirs) ** 2, n)
    if math.isnan(spread):
        margin = math.log(FACTOR) if logarithmic else SHARE * abs(cell["value"])
    else:
        margin = math.log1p(spread / cell["value"]) if logarithmic else spread
    if abs(distance) + stdtrit(dof, 0.95) * error <= margin:
        return "close"
    return "differs" if abs(distance) > stdtrit(dof, 0.975) * error else "wide"


def _allowed(cell: pd.Series) -> tuple[str, Decimal, Decimal]:
    """Return what a document prints in words, and the numbers that are the same as this."""
    printed = Decimal(cell["printed"])
    if cell["note"] == "almost half":
        return cell["note"], Decimal("0.45"), Decimal("0.5")
    if cell["note"] == "order of magnitude":
        return f"of the order of {cell['value']:g}", printed, printed
    rounded = cell["note"].startswith("approximate")  # 5000000.0 is what was printed as 5M: 4.5 to 5.5 million
    half = Decimal(1).scaleb((printed.normalize() if rounded else printed).as_tuple().exponent) / 2
    return f"about {printed:,.0f}" if rounded else f"{cell['value']:.10g}", printed - half, printed + half


def _log_interval(ours: Summary) -> tuple[float, float]:
    """Return the 95 % interval of a mean above 0 by that of its logarithm, whose error is the mean's relative one."""
    if not (ours.n > 1 and ours.mean > 0):
        return math.nan, math.nan
    factor = math.exp(stdtrit(ours.n - 1, 0.975) * ours.spread / ours.mean / math.sqrt(ours.n))
    return ours.mean / factor, ours.mean * factor
