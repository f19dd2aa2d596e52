"""A study's numbers beside the printed ones: shown, and kept for its verdicts and its summary."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown, display

from deepnets_utils.reports import printing, summaries
from deepnets_utils.reports.exploring import Compared
from deepnets_utils.results import comparison, frames
from deepnets_utils.results.comparison import OTHER_SCALE
from deepnets_utils.results.documents import place


class Comparisons:
    """The part of a Study that compares; `scale` and `banner` are the study's."""

    scale, banner = "", ""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, Any]] = {}  # by protocol and metric, then as claims refer to them
        self._compared: dict[tuple[str, str], dict[tuple[str, str], Compared]] = {}  # by table, then the same

    def compare(
        self,
        table: pd.DataFrame,
        source: str,
        name: str,
        metric: str,
        *,
        row: str,
        column: str,
        value: str = "",
        exact: bool = False,
        digits: int = 2,
        form: str = "f",
    ) -> pd.DataFrame:
        """Return published beside own numbers for printing, and keep them for the report and the verdicts.

        Where ours were trained at another scale, show above them how like they are, and a table's first time at which.
        Numbers that were learned from the embedded data stand alone.

        table: one row a run (see `frames.tidy`), of the protocols in its column "protocol" if it has one. source, name,
        metric: as in data/published/results.csv. row, column, value: the columns with the labels that are printed
        there, and with our numbers ("": `metric`); a label alone where all rows have it. exact: nothing is random.
        form: how our numbers are written: "f" with `digits` after the point, "g" with so many in all (1.12e-05).
        """
        compared, texts, alike = self._compared.setdefault((source, name), {}), [], {}
        labelled = frames.by_label(table, row, column, value or metric, exact) or {"": {}}  # what is printed, alone
        for protocol, cells in labelled.items():
            self._keep(cells, name, metric, protocol)
            other = bool(self.scale) and not exact
            frame = comparison.compare(cells, source, name, metric, protocol=protocol, exact=exact, other_scale=other)
            compared[protocol, metric] = Compared(place(name), row, column, frame)
            texts.append(printing.comparison(frame, f",.{digits}{form}"))
            if frame["verdict"].eq(OTHER_SCALE).any() and not self.banner:
                alike[protocol] = comparison.likeness(frame)
        if alike:
            said = [f"{protocol}: {text}.".removeprefix(": ") for protocol, text in alike.items() if text]
            others = any(known != metric and not of.frame["exact"].all() for (_, known), of in compared.items())
            display(Markdown("\n\n".join(said if others else [self.scale, *said])))
        text = pd.concat(texts, axis=1).fillna("")
        if self.banner and not exact:  # other images' numbers are not held against the document's
            return text.filter(regex="^(ours|95 %)")
        return text.loc[:, ~text.columns.duplicated()]

    def keep(
        self,
        table: pd.DataFrame,
        name: str,
        metric: str,
        *,
        row: str,
        column: str,
        value: str = "",
        exact: bool = False,
    ) -> None:
        """Keep numbers that a claim refers to and that stand in no printed table; the options are `compare`'s."""
        for protocol, cells in frames.by_label(table, row, column, value or metric, exact).items():
            self._keep(cells, name, metric, protocol)

    def _keep(self, cells: Mapping[tuple[str, str], Any], name: str, metric: str, protocol: str) -> None:
        kept = self._values.setdefault((protocol, metric), {})
        kept |= {f"{name}:{label}:{of}": cell for (label, of), cell in cells.items()}

    def words(self, source: str, name: str) -> pd.DataFrame:
        """Return one row a protocol: how many cells of a compared table have each word, and the means' mean distance.

        At another scale than the document's also how many are of that, of which none has another word. Cells in which
        nothing is random are not counted.
        """
        lines = {}
        for protocol, frame in _by_protocol(self._compared[source, name]):
            frame = frame[~frame["exact"]]
            lines[protocol] = {"cells": frame["verdict"].ne("").sum()} | summaries.counts(frame)
            if self.scale:
                lines[protocol][OTHER_SCALE] = frame["verdict"].eq(OTHER_SCALE).sum()
            lines[protocol]["mean distance"] = (frame["ours"] - frame["published"]).abs().mean()
        return pd.DataFrame(lines).T.rename_axis("protocol")

    def tables(self) -> list[dict[str, Any]]:
        """Return what a summary holds of the compared tables, a protocol each."""
        return [
            summaries.table(source, name, protocol, frame)
            for (source, name), compared in self._compared.items()
            for protocol, frame in _by_protocol(compared)
        ]


def _by_protocol(compared: Mapping[Any, Compared]) -> Iterable[tuple[str, pd.DataFrame]]:
    return pd.concat([each.frame for each in compared.values()]).groupby("protocol", sort=False)
