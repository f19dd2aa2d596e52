"""The documents' numbers and claims, read from data/published, and our numbers beside them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from deepnets_utils.paths import PUBLISHED
from deepnets_utils.statistics import Summary, summary, welch


class Bound(NamedTuple):
    """What a claim compares mean(lhs) with: factor * mean(rhs) + offset."""

    factor: float
    offset: float


_NUMBER = r"(\d+(?:\.\d+)?)"
_TOLERANT = ("equal", "not_less", "not_greater")
_MARGINS = (
    ("", ("less", "greater"), lambda: (Bound(1, 0), Bound(1, 0))),
    (f"{_NUMBER} % of rhs", _TOLERANT, lambda m: (Bound(1 - m / 100, 0), Bound(1 + m / 100, 0))),
    (f"a factor of {_NUMBER}", _TOLERANT, lambda m: (Bound(1 / m, 0), Bound(m, 0))),
    (_NUMBER, _TOLERANT, lambda m: (Bound(1, -m), Bound(1, m))),
    (f"{_NUMBER} percentage points", _TOLERANT, lambda m: (Bound(1, -m), Bound(1, m))),
    (f"{_NUMBER} to {_NUMBER}", ("ratio_within",), lambda a, b: (Bound(a, 0), Bound(b, 0))),
    (f"{_NUMBER} to {_NUMBER} percentage points", ("difference_within",), lambda a, b: (Bound(1, a), Bound(1, b))),
)
WORDS = ("agrees", "differs", "too few runs", "missing")  # what `compare` says of a published cell,
OTHER_SCALE = "other scale"  # and what of one whose runs are not the document's
KINDS = {  # and how a reader is told of one, with its margin
    "less": "less",
    "greater": "greater",
    "equal": "equal within {}",
    "not_less": "not less by {}",
    "not_greater": "not greater by {}",
    "ratio_within": "ratio of {}",
    "difference_within": "difference of {}",
}


@dataclass(frozen=True)
class Claim:
    """What a document says, as pairs (lhs, rhs) of cells "table:row:column"; an rhs may be a number ("0.5").

    kind: one of KINDS. metric: of both sides, in the units of results.csv. margin: the text of claims.csv; an empty one
    of not_less and not_greater becomes 2 percentage points where the metric ends in "error" or "accuracy" (these are in
    %), else a factor of 2, the rule that go_deep.depth_no_help_mean states.
    Raises ValueError for an unknown kind and a margin that its kind does not allow.
    """

    id: str
    source: str
    where: str
    statement: str
    kind: str
    metric: str
    pairs: tuple[tuple[str, str], ...]
    margin: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.margin and self.kind in ("not_less", "not_greater"):
            in_percent = self.metric.endswith(("error", "accuracy"))
            object.__setattr__(self, "margin", "2 percentage points" if in_percent else "a factor of 2")
        _ = self.bounds  # a claim that cannot be judged fails when it is made

    @property
    def bounds(self) -> tuple[Bound, Bound]:
        """The lower and the upper bound that the margin stands for."""
        if self.kind not in KINDS:
            raise ValueError(f"{self.id}: unknown kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        allowed = {pattern: bounds for pattern, kinds, bounds in _MARGINS if self.kind in kinds}
        for pattern, bounds in allowed.items():
            if match := re.fullmatch(pattern, self.margin):
                lower, upper = bounds(*map(float, match.groups()))
                if lower <= upper:
                    return lower, upper
        texts = ", ".join(repr(pattern.replace(_NUMBER, "N")) for pattern in allowed)
        raise ValueError(f"{self.id}: {self.kind} does not understand margin {self.margin!r}; allowed: {texts}")


def claims(source: str | None = None) -> list[Claim]:
    """Return the claims of one source, or of all, in the order of claims.csv."""
    rows = _read("claims.csv")
    if source is not None:
        rows = _only(rows, "source", source)
    fields = ["id", "source", "where", "statement", "kind", "metric", "margin", "note"]
    return [
        Claim(pairs=tuple(zip(row["lhs"].split(";"), row["rhs"].split(";"), strict=True)), **row[fields])
        for _, row in rows.iterrows()
    ]


def claim(id: str) -> Claim:
    """Return one claim; ValueError lists the claims of its source, the part before the dot."""
    of_source = {item.id: item for item in claims(id.partition(".")[0])}
    if id not in of_source:
        raise ValueError(f"unknown claim {id!r}; there are: {', '.join(of_source)}")
    return of_source[id]


def results(source: str, table: str | None = None) -> pd.DataFrame:
    """Return the published cells of one table, or of all tables of a source, in the order of results.csv.

    Columns: source, table, row, column, metric, value, spread, n, unit, note and printed, the value's text.
    ValueError lists the sources or tables that exist.
    """
    rows = _only(_read("results.csv"), "source", source)
    if table is not None:
        rows = _only(rows, "table", table, f" of {source}")
    types = {"value": float, "spread": float, "n": "Int64"}
    filled = {name: pd.to_numeric(rows[name].where(rows[name] != "")) for name in types}
    return rows.assign(**filled, printed=rows["value"]).astype(types)


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
    rows = _only(results(source, table), "metric", metric, f" in {source} {table}")
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


@cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / name, dtype=str, keep_default_na=False)


def _only(rows: pd.DataFrame, column: str, wanted: str, where: str = "") -> pd.DataFrame:
    chosen = rows[rows[column] == wanted]
    if chosen.empty:
        raise ValueError(f"unknown {column} {wanted!r}{where}; there are: {', '.join(rows[column].unique())}")
    return chosen


def claims_table(ids: Sequence[str]) -> pd.DataFrame:
    """Return the statements of some claims for display, with their place in the document ("" of our own).

    The last column says how each is judged, with its margin.
    """
    found = [claim(id) for id in ids]
    columns = {
        "in the document": ["" if c.statement.startswith("(ours)") else c.where for c in found],
        "judged as": [KINDS[c.kind].format(c.margin.replace("rhs", "the other side")) for c in found],
    }
    return pd.DataFrame(columns, pd.Index([c.statement for c in found], name="claim"))
