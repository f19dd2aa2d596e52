"""Regenerates the numbers in README.md from the paper report and the benchmark: `python -m deepnets_utils.readme`."""

import io
import json
import shutil

import pandas as pd

from deepnets_utils import paths, summaries

BENCHMARK = paths.ROOT / "data" / "benchmarks" / "cpu.json"
PICTURES = paths.ROOT / "figures" / "readme"


def results() -> str:
    """Return the Markdown of all tables of the paper report: a line a table, then every compared cell with runs."""
    folder = paths.output_root() / "reports" / "paper"
    overview = ["| study | table | command | cells that agree |", "| --- | --- | --- | --- |"]
    details = []
    for summary in summaries.read_all(folder):
        number = summary["study"][:2]
        for table in summary["tables"]:
            lines = io.StringIO("\n".join([table["columns"], *table["rows"]]))
            frame = pd.read_csv(lines, keep_default_na=False, dtype=str)
            counts = []
            for protocol, part in frame[frame["verdict"] != ""].groupby("protocol", sort=False):
                waiting = int(part["verdict"].isin(["missing", "too few runs"]).sum())
                text = f"{(part['verdict'] == 'agrees').sum()} of {len(part)}"
                text += f" ({waiting} missing or too few runs)" if waiting else ""
                counts.append(f"{protocol}: {text}" if protocol else text)
            command = f"`make report STUDY={number} PROFILE=paper`"
            overview.append(f"| {summary['study']} | {table['title']} | {command} | {'; '.join(counts)} |")
            shown = (frame["verdict"] != "missing") & ((frame["verdict"] != "") | (frame["n"] != "0"))
            if len(stored := frame[shown]):
                details.append(_cells(f"{number}, {table['title']}", stored))
    return "\n".join([*overview, "", *details])


def speeds() -> str:
    """Return the Markdown of the benchmark's ratios: a line a network, the median and each round's."""
    found = json.loads(BENCHMARK.read_text())
    lines = ["| network | held against | one run at a time | one process a core | its rounds |", "| --- " * 5 + "|"]
    for network in dict.fromkeys(row["network"] for row in found["rows"]):
        rows = [row for row in found["rows"] if (row["network"], row["device"]) == (network, "cpu")]
        first, *_, alone, together = rows
        rounds = [f"{a / b:.1f}" for a, b in zip(first["seconds"], together["seconds"], strict=True)]
        texts = [network, first["way"], f"{alone['ratio']:.1f}", f"**{together['ratio']:.1f}**", ", ".join(rounds)]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def _cells(title: str, frame: pd.DataFrame) -> str:
    lines = [
        f"<details><summary>{title}: every cell that has runs</summary>",
        "",
        "| row | column | protocol | published | ours | 95 % interval | n | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in frame.to_dict("records"):
        interval = f"{_short(cell['low'])} to {_short(cell['high'])}" if cell["low"] else ""
        published, ours = _mean(cell["published"], cell["published_spread"]), _mean(cell["ours"], cell["spread"])
        texts = [cell["row"], cell["column"], cell["protocol"], published, ours, interval, cell["n"], cell["verdict"]]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join([*lines, "", "</details>", ""])


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
    for name, written in (("results", results()), ("speeds", speeds())):
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
