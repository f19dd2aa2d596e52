"""What the documents say: their printed numbers and their claims, read from data/published."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from deepnets_utils.runs.paths import PUBLISHED

_REFERENCE = re.compile(r"[^:]+:[^:]+:[^:]+|-?\d+(\.\d+)?(e-?\d+)?")
_NUMBER = r"(\d+(?:\.\d+)?)"
_TOLERANT = ("equal", "not_less", "not_greater")
_MARGINS = (  # what each allows: its text, kinds of claims, and the bounds that it stands for
    ("", ("less", "greater"), lambda: ((1, 0), (1, 0))),
    (f"{_NUMBER} % of rhs", _TOLERANT, lambda m: ((1 - m / 100, 0), (1 + m / 100, 0))),
    (f"a factor of {_NUMBER}", _TOLERANT, lambda m: ((1 / m, 0), (m, 0))),
    (_NUMBER, _TOLERANT, lambda m: ((1, -m), (1, m))),
    (f"{_NUMBER} percentage points", _TOLERANT, lambda m: ((1, -m), (1, m))),
    (f"{_NUMBER} to {_NUMBER}", ("ratio_within",), lambda a, b: ((a, 0), (b, 0))),
    (f"{_NUMBER} to {_NUMBER} percentage points", ("difference_within",), lambda a, b: ((1, a), (1, b))),
)
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
        for pair in self.pairs:
            if not isinstance(pair, tuple) or len(pair) != 2 or not all(map(_REFERENCE.fullmatch, pair)):
                raise ValueError(
                    f"{self.id}: pairs are of two texts, each a cell 'table:row:column' or a number, not {pair!r}"
                )
        _ = self.bounds  # a claim that cannot be judged fails when it is made

    @property
    def bounds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The lower and the upper bound of mean(lhs), each as (factor, offset): factor * mean(rhs) + offset."""
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
        rows = only(rows, "source", source)
    pairs = [
        tuple(zip(lhs.split(";"), rhs.split(";"), strict=True))
        for lhs, rhs in zip(rows["lhs"], rows["rhs"], strict=True)
    ]
    return [Claim(**row) for row in rows.drop(columns=["lhs", "rhs"]).assign(pairs=pairs).to_dict("records")]


def claim(id: str) -> Claim:
    """Return one claim; ValueError lists the claims of its source, the part before the dot."""
    of_source = {item.id: item for item in claims(id.partition(".")[0])}
    if id not in of_source:
        raise ValueError(f"unknown claim {id!r}; there are: {', '.join(of_source)}")
    return of_source[id]


def in_words(reference: str) -> str:
    """Return a claim's reference "table:row:column" as "row, column (Table 1)", and a number as it is."""
    if ":" not in reference:
        return reference
    table, row, column = reference.split(":")
    return f"{row}, {column} ({place(table)})"


def place(table: str) -> str:
    """Return the name of a table as a reader has it: "table1" as "Table 1"."""
    return re.sub(r"^(figure|table)(\d)", lambda found: f"{found[1].capitalize()} {found[2]}", table)


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


def results(source: str, table: str | None = None) -> pd.DataFrame:
    """Return the published cells of one table, or of all tables of a source, in the order of results.csv.

    Columns: source, table, row, column, metric, value, spread, n, unit, note and printed, the value's text.
    ValueError lists the sources or tables that exist.
    """
    rows = only(_read("results.csv"), "source", source)
    if table is not None:
        rows = only(rows, "table", table, f" of {source}")
    return rows.assign(printed=rows["value"]).astype({"value": float})


@cache
def _read(name: str) -> pd.DataFrame:
    types = defaultdict(lambda: str, spread=float, n="Int64")
    return pd.read_csv(PUBLISHED / name, dtype=types, keep_default_na=False, na_values={"spread": "", "n": ""})


def only(rows: pd.DataFrame, column: str, wanted: str, where: str = "") -> pd.DataFrame:
    chosen = rows[rows[column] == wanted]
    if chosen.empty:
        raise ValueError(f"unknown {column} {wanted!r}{where}; there are: {', '.join(rows[column].unique())}")
    return chosen
