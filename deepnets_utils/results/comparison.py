"""Our numbers beside the printed ones."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from deepnets_utils.results.documents import only, results
from deepnets_utils.results.statistics import Summary, summary, welch
from deepnets_utils.training.range_test import HIGHEST

WORDS = ("same", "close", "wide", "differs", "too few runs", "missing")  # what `compare` says of a published cell,
OTHER_SCALE = "other scale"  # and what of one whose runs are not the document's
LOGARITHMIC = ("mse", "mse_order", "learning_rate")  # endings of metrics whose ratios count, and not their differences
COLUMNS = (
    *("row", "column", "metric", "protocol", "printed", "published", "published_spread", "published_n"),
    *("ours", "spread", "n", "low", "high", "verdict", "diverged", "exact"),
)
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
    Its columns are COLUMNS: printed as the document has it, ours a mean of n finished runs, low and high its 95 % t
    interval, cut off where nothing is possible: errors outside 0 to 100 %, rates above a range test's highest, epochs
    before the first.

    verdict: "" where nothing is published, "missing" where nothing ran, OTHER_SCALE of another scale, "too few runs"
    below two finished ones (unless exact) or where one did not reach its time. Else "same": ours rounds to the printed
    digits (half a unit either way), or lies in what a printed word allows. "close": two one-sided tests show the
    difference to be smaller than a margin: the printed spread, or where none is printed 5 % of the number (of a loss
    or a rate a factor of 1.5, of what is exact 0.1 %, of a count nothing). "differs": Welch's test shows a difference.
    "wide": neither is shown, or a loss or rate spreads as widely as its mean and its median is not, on the same side,
    beyond a factor of 1.5. A printed mean without spread, or of one run or an unknown number, borrows our spread, which
    takes three runs: two that happen to be close would decide for both sides.
    Raises ValueError for an unknown source, table or metric, and for exact values that differ or diverged.
    """
    cells = only(results(source, table), "metric", metric, f" in {source} {table}").set_index(["row", "column"])
    keys = pd.MultiIndex.from_tuples(dict.fromkeys([*cells.index, *values]), names=cells.index.names)
    lines = []
    for key, cell in cells.reindex(keys).fillna({"printed": "", "note": ""}).iterrows():
        ours = summary(sample := values.get(key, ()))
        if exact and (ours.diverged or ours.unreached or ours.spread > 0):
            raise ValueError(
                f"exact values are finite and equal, not {np.asarray(sample, dtype=float).tolist()}: {key}"
            )
        theirs = cell["printed"] and _allowed(cell)[0], *cell[["value", "spread", "n"]]
        numbers = ours.mean, ours.spread, ours.n, *_interval(ours, metric)
        word = _verdict(ours, cell, exact, other_scale)
        lines.append([*key, metric, protocol, *theirs, *numbers, word, ours.diverged, exact])
    return pd.DataFrame(lines, columns=COLUMNS).astype({"published_n": "Int64"})


def likeness(frame: pd.DataFrame) -> str:
    """Return in words how like ours are to the published numbers of another scale, metric by metric.

    That is the order of the cells, and sign and size (its median) of differences: those that the document prints as
    such (metric "difference"), where it prints none those between two cells of one row or column. frame: as `compare`
    returns it, or several such of one protocol. "" where no such cell has runs, or nothing to be compared with. An
    epoch of a run of another length says nothing, and no learning rate there.
    """
    texts = []
    of_schedule = frame["metric"].isin(["epoch", "learning_rate"])
    known = frame[(frame["verdict"] == OTHER_SCALE) & frame["ours"].notna() & ~of_schedule]
    printed = known["metric"].eq("difference").any()
    for metric, cells in known.groupby("metric", sort=False):
        said, numbers = [], cells[["published", "ours"]].to_numpy(dtype=float)
        if metric != "difference":
            order = cells["published"].rank().corr(cells["ours"].rank())
            said += [f"order of {len(cells)} cells: Spearman {order:.2f}"] if len(cells) > 2 and order == order else []
            first, second = np.triu_indices(len(cells), 1)
            labels = cells[["row", "column"]].to_numpy()
            of_cells = (numbers[first] - numbers[second])[(labels[first] == labels[second]).any(axis=1)]
            numbers = numbers[:0] if printed else of_cells
        theirs, ours = numbers[numbers[:, 0] != 0].T  # what is printed as equal has no sign
        if len(theirs):
            same, times = (np.sign(ours) == np.sign(theirs)).sum(), np.median(ours / theirs)
            none = f", {(ours == 0).sum()} where ours is 0" if (ours == 0).any() else ""
            size = f"{'' if times >= 0 else 'the other way round, '}{abs(times):.2g} times as large"
            said.append(f"{same} of {len(theirs)} printed differences with the same sign{none}, {size}")
        texts += [f"{metric.replace('_', ' ')}: {'; '.join(said)}"] if said else []
    return ". ".join(texts)


def _verdict(ours: Summary, cell: pd.Series, exact: bool, other_scale: bool) -> str:
    if not cell["printed"]:
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
        above = -1 if ours.mean < cell["value"] else 1
        if ours.spread >= ours.mean and above * ours.median <= above * cell["value"] * FACTOR**above:
            return "wide"  # one run is most of the mean, and the others do not say the same
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


def _interval(ours: Summary, metric: str) -> tuple[float, float]:
    """Return the 95 % interval; of a loss or a rate by that of its logarithm, whose error is the relative one."""
    low, high = ours.low, ours.high
    if metric.endswith(LOGARITHMIC):
        factor = math.exp((high - low) / 2 / ours.mean) if ours.mean > 0 else math.nan
        low, high = ours.mean / factor, ours.mean * factor
    if metric.endswith(("error", "accuracy")):
        return np.clip((low, high), 0, 100)
    if metric == "learning_rate":
        return np.clip((low, high), 0, HIGHEST)
    return np.clip((low, high), 1, None) if metric == "epoch" else (low, high)
