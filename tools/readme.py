"""Regenerates the numbers in README.md from the reports and the benchmark: `python -m tools.readme`."""

import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deepnets_utils.reports import printing, summaries
from deepnets_utils.results.comparison import OTHER_SCALE
from deepnets_utils.results.verdicts import VERDICTS
from deepnets_utils.runs import paths

BENCHMARK = paths.ROOT / "data" / "benchmarks" / "cpu.json"
PICTURES = paths.ROOT / "figures" / "readme"


def _reports() -> Path:
    return paths.output_root() / "reports"


def claims() -> str:
    """Return the Markdown of the verdicts, each at the largest scale that has the runs, that are decided or lean."""
    found, lines = summaries.claims(_reports() / "paper"), []
    for claim in found:
        if claim["verdict"] in VERDICTS[:4]:
            statement = f"{claim['statement']} ({claim['protocol']})".removesuffix(" ()")
            numbers = [printing.comparisons(claim), *printing.effect(claim), str(claim["n"])]
            lines.append([claim["study"][:2], statement, claim["profile"], claim["verdict"], *numbers])
    table = _table(["study", "claim (protocol)", "scale", "verdict", "comparisons", "effect", "95 %", "n"], lines)
    undecided, untried, few = (sum(claim["verdict"] == word for claim in found) for word in VERDICTS[4:])
    others = f"{undecided} are undecided with the runs that there are, {untried} cannot be tried by runs so short"
    return f"{table}\n\nOf the other verdicts {others}, {few} have too few runs."


def results() -> str:
    """Return the Markdown of the tables of all scales: a line each, then every compared cell with runs.

    Of scales below paper's only the tables that are not the documents' own scale: the others are in paper's.
    """
    overview, details = [], []
    for profile in summaries.SCALES:
        for summary in summaries.read_all(_reports() / profile):
            for table in summary["tables"]:
                if profile == "paper" or table[OTHER_SCALE]:
                    command = f"make report STUDY={summary['study'][:2]} PROFILE={profile}"
                    overview.append([table["title"], f"`{command}`", _agreement(table)])
                    details += _details(summary, table)
    return "\n".join([_table(["table", "command", "cells that agree"], overview), "", *details])


def _agreement(table: Mapping[str, Any]) -> str:
    if table[OTHER_SCALE]:
        return "; ".join(filter(None, (f"{table[OTHER_SCALE]} of another scale", table["likeness"])))
    waiting = table["missing"] + table["too few runs"]
    agree = f"{table['agrees']} of {table['cells']}"
    return agree + (f" ({waiting} missing or too few runs)" if waiting else "")


def _details(summary: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Return a folded table of the cells that have runs, in a list that is empty where none has."""
    lines = io.StringIO("\n".join([table["columns"], *table["rows"]]))
    frame = pd.read_csv(lines, keep_default_na=False, dtype=str)
    stored = frame[(frame["verdict"] != "missing") & ((frame["verdict"] != "") | (frame["n"] != "0"))]
    title, scale = f"{summary['study'][:2]}, {table['title']}", ""
    if table[OTHER_SCALE]:
        title, scale = f"{title}, profile {summary['profile']}", f"{summary['scale']}\n\n"
    opened = f"<details><summary>{title}: every cell that has runs</summary>"
    return [f"{opened}\n\n{scale}{_cells(stored.replace(OTHER_SCALE, ''))}\n\n</details>\n"] if len(stored) else []


def speeds() -> str:
    """Return the Markdown of the benchmark's ratios: a line a network, the median and each round's."""
    found = json.loads(BENCHMARK.read_text())
    lines = []
    for network in dict.fromkeys(row["network"] for row in found["rows"]):
        rows = [row for row in found["rows"] if (row["network"], row["device"]) == (network, "cpu")]
        first, *_, alone, together = rows
        rounds = [f"{a / b:.1f}" for a, b in zip(first["seconds"], together["seconds"], strict=True)]
        lines.append(
            [network, first["way"], f"{alone['ratio']:.1f}", f"**{together['ratio']:.1f}**", ", ".join(rounds)]
        )
    return _table(["network", "held against", "one run at a time", "one process a core", "its rounds"], lines)


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *lines))


def _cells(frame: pd.DataFrame) -> str:
    lines = []
    for cell in frame.to_dict("records"):
        interval = f"{_short(cell['low'])} to {_short(cell['high'])}" if cell["low"] else ""
        published, ours = _mean(cell["published"], cell["published_spread"]), _mean(cell["ours"], cell["spread"])
        lines.append([cell["row"], cell["column"], published, ours, interval, cell["n"], cell["verdict"]])
    return _table(["row", "column", "published", "ours", "95 % interval", "n", ""], lines)


def _mean(mean: str, spread: str) -> str:
    return _short(mean) + (f" ± {_short(spread)}" if spread else "")


def _short(number: str) -> str:
    if not number:
        return ""
    return f"{float(number):.5g}" if abs(float(number)) < 1e5 else f"{float(number):,.0f}"


def main() -> None:
    """Rewrite the parts of README.md between the marks, and the pictures that it shows."""
    readme = paths.ROOT / "README.md"
    text = readme.read_text()
    for name, written in (("claims", claims()), ("results", results()), ("speeds", speeds())):
        start, end = f"<!-- {name}: written by `make readme` -->", f"<!-- end of {name} -->"
        before, after = text.split(start)[0], text.split(end)[1]
        text = f"{before}{start}\n\n{written}\n{end}{after}"
    readme.write_text(text)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in sorted(set(part.split(")")[0] for part in text.split("](figures/readme/")[1:])):
        drawn = paths.output_root() / "figures" / "paper" / picture
        if drawn.exists():  # the benchmark's is drawn by `deepnets bench`
            shutil.copyfile(drawn, PICTURES / picture)


if __name__ == "__main__":
    main()
