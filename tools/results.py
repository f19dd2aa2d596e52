"""Writes RESULTS.md, and the README's pictures, from the reports and the benchmark: `python -m tools.results`."""

import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deepnets_utils.reports import printing, summaries
from deepnets_utils.results.comparison import OTHER_SCALE, WORDS
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
    others = f"{undecided} are undecided with the runs that there are, {few} have too few runs"
    others += f", {untried} cannot be tried by runs so short" if untried else ""
    return f"{table}\n\nOf the other verdicts {others}."


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
                    overview.append([table["title"], f"`{command}`", _words(table)])
                    details += _details(summary, table)
    return "\n".join([_table(["table", "command", "its cells"], overview), "", *details])


def _words(table: Mapping[str, Any]) -> str:
    if table[OTHER_SCALE]:
        missing = f"{table['missing']} missing" if table["missing"] else ""
        return "; ".join(filter(None, (f"{table[OTHER_SCALE]} of another scale", missing, table["likeness"])))
    parts = [f"{table[word]} {word}" for word in WORDS if table[word]]
    parts += [f"counted: {table['counted']} the same"] if table["counted"] else []
    return ", ".join(parts)


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
        published, ours = _mean(cell["printed"], cell["published_spread"]), _mean(cell["ours"], cell["spread"])
        n = "" if cell["exact"] == "True" else cell["n"]  # nothing in it is random
        lines.append([cell["row"], cell["column"], published, ours, interval, n, cell["verdict"]])
    return _table(["row", "column", "published", "ours", "95 % interval", "n", ""], lines)


def _mean(mean: str, spread: str) -> str:
    return _short(mean) + (f" ± {_short(spread)}" if spread else "")


def _short(number: str) -> str:
    if not number:
        return ""
    if not re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", number):  # a printed word
        return number
    return f"{float(number):.5g}" if abs(float(number)) < 1e5 else f"{float(number):,.0f}"


TEXT = """# Results

Written by `make results` from the overnight and the paper report, which show the records in `data/records/` and what
is stored here. Each table has the command that makes its page.

## Claims that are decided, or lean

By Welch's tests with Holm's correction over a study, under each protocol; in 01 nothing is random, and numbers are
compared as they are. Each claim is judged at the largest scale that has the runs for it: *paper*, the documents' own,
or *overnight*. What *leans* would be decided if it were its study's only claim. "Comparisons" are what a claim is
made of: how many point the claimed way by their means, and how many of these are significant alone, by one-sided
tests at 5 %. The interval is two-sided, of the difference of the two sides, or of their ratio where the effect says
"times"; like the effect it is of the weakest comparison, or of the one most against a claim that fails, and not
corrected. n is the smallest of all comparisons. "About 1 point", "slightly" and "much" are judged by their direction.
"(ours)" are claims that no document makes. The claims of 07 are tried on other images than
the asker's: they say whether the order shows there, and not what the asker saw.

A protocol, in brackets, is a reading of a document. 02, 03: every run's learning rate found by a range test
(`found_rate`), 0.001 in all (`default_rate`), or as printed (`printed_rate`). 04: the augmentation, drawn anew in
every epoch (`every_epoch`), once (`extended`), or not at all (`none`). 05: our reading of the text (`as_published`), or
of its authors' code (`as_coded`). 06: test images choose epoch and rate (`as_published`), or validation images do
(`sound`). 07: the pair of classes. 01: constants from the test targets, or from the training targets.

{claims}

## Every number published beside ours

*Same* rounds to the printed digits, or lies in what a printed word allows. *Close* is shown to lie within a margin:
the printed spread, or where none is printed 5 % (of losses and rates a factor of 1.5; of what is exact 0.1 %).
*Differs* is shown. *Wide*: the runs show neither, as where one run rules a mean and the median is near the printed
number or on its other side. Losses and rates are compared as logarithms: the interval of their mean is the mean times
or divided by exp(t × standard error / mean). Numbers of parameters
and layers, and orders of magnitude, are counted apart. At another scale than the document's a cell has no word: there
the order of the cells is compared, and sign and size of the differences between cells of one row or column.

{results}
## How fast

How many times less a run takes here than elsewhere, by the medians of all rounds, on two CPU cores; the last column
has the ratio of each round. The others use all cores for one run, a run of this package one, so that alone a large
network is slower here, and what counts is one process a core.

{speeds}
"""


def main() -> None:
    """Write RESULTS.md, and copy the pictures that the README shows."""
    text = TEXT.format(claims=claims(), results=results(), speeds=speeds())
    (paths.ROOT / "RESULTS.md").write_text(text)
    shown = (paths.ROOT / "README.md").read_text().split("](figures/readme/")[1:]
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in sorted({part.split(")")[0] for part in shown}):
        drawn = paths.output_root() / "figures" / "paper" / picture
        if drawn.exists():  # the benchmark's is drawn by `python -m benchmarks`
            shutil.copyfile(drawn, PICTURES / picture)


if __name__ == "__main__":
    main()
