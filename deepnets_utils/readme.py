"""Regenerates the numbers in README.md from the paper report and the benchmark: `python -m deepnets_utils.readme`."""

import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from deepnets_utils import paths, printing, summaries

BENCHMARK = paths.ROOT / "data" / "benchmarks" / "cpu.json"
PICTURES = paths.ROOT / "figures" / "readme"


def _report() -> Path:
    return paths.output_root() / "reports" / "paper"


def claims() -> str:
    """Return the Markdown of the paper report's verdicts: a line a claim and protocol that is decided."""
    found = [(each["study"], claim) for each in summaries.read_all(_report()) for claim in each["claims"]]
    lines = []
    for study, claim in found:
        if claim["verdict"] in ("supported", "contradicted"):
            statement = f"{claim['statement']} ({claim['protocol']})".removesuffix(" ()")
            lines.append([study[:2], statement, claim["verdict"], *printing.effect(claim), str(claim["n"])])
    undecided, few = (sum(claim["verdict"] == word for _, claim in found) for word in ("undecided", "too few runs"))
    table = _table(["study", "claim (protocol)", "verdict", "effect", "95 %", "n"], lines)
    others = f"{undecided} are undecided with the runs that there are, {few} have too few runs"
    return f"{table}\n\nOf the other verdicts {others}."


def results() -> str:
    """Return the Markdown of all tables of the paper report: a line each, then every compared cell with runs."""
    overview, details = [], []
    for summary in summaries.read_all(_report()):
        number = summary["study"][:2]
        for table in summary["tables"]:
            lines = io.StringIO("\n".join([table["columns"], *table["rows"]]))
            frame = pd.read_csv(lines, keep_default_na=False, dtype=str)
            waiting = table["missing"] + table["too few runs"]
            agree = f"{table['agrees']} of {table['cells']}"
            agree += f" ({waiting} missing or too few runs)" if waiting else ""
            overview.append([table["title"], f"`make report STUDY={number} PROFILE=paper`", agree])
            shown = (frame["verdict"] != "missing") & ((frame["verdict"] != "") | (frame["n"] != "0"))
            if len(stored := frame[shown]):
                title = f"<details><summary>{number}, {table['title']}: every cell that has runs</summary>"
                details.append(f"{title}\n\n{_cells(stored)}\n\n</details>\n")
    return "\n".join([_table(["table", "command", "cells that agree"], overview), "", *details])


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
