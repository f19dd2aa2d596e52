"""Our numbers beside the printed ones."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from deepnets_utils.results.documents import only, results
from deepnets_utils.results.statistics import Summary, summary, welch

WORDS = ("agrees", "differs", "too few runs", "missing")  # what `compare` says of a published cell,
OTHER_SCALE = "other scale"  # and what of one whose runs are not the document's


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
    Columns: row, column, metric, protocol, published, published_spread, published_n, ours (mean), spread, n
    (finished runs), low, high (95 % t interval of ours), verdict, diverged (runs).

    verdict: "" where nothing is published, "missing" where nothing ran, OTHER_SCALE of another scale, "too few runs"
    below two finished ones (unless exact) or where one did not reach its time, else "agrees" or "differs". Ours agrees
    when it rounds to the printed digits (half a unit either way). Unless exact, it also does when Welch's 95 % interval
    of ours - published holds 0; a published mean without spread, or of one run or an unknown number, borrows our
    spread, which takes three runs: two that happen to be close would decide for both sides. The printed digits are
    those of the CSV's text; of a value noted as approximate, those before its trailing zeros (5000000.0: 4.5 to 5.5
    million).
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
        line |= {"published": value, "published_spread": spread, "published_n": n}
        line |= {"ours": ours.mean, "spread": ours.spread, "n": ours.n, "low": ours.low, "high": ours.high}
        word = _verdict(ours, cell, exact, other_scale)
        lines.append(line | {"verdict": word, "diverged": ours.diverged})
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
    printed = Decimal(cell["printed"])
    digits = printed.normalize() if cell["note"].startswith("approximate") else printed
    difference = Decimal(str(ours.mean)) - printed
    if abs(difference) <= Decimal(1).scaleb(digits.as_tuple().exponent) / 2:
        return "agrees"
    if exact:
        return "differs"
    if borrowed:
        error, dof = ours.spread * math.sqrt(1 / ours.n + 1 / n), ours.n - 1
    else:
        error, dof = welch(ours.spread**2, ours.n, spread**2, n)
    return "agrees" if abs(difference) <= stdtrit(dof, 0.975) * error else "differs"
