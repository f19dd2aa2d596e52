"""The tables of a study's runs and of their epochs, as files, and what its cells cost."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from deepnets_utils.results.frames import SEEDS, factors_of
from deepnets_utils.runs.files import write_text
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Result


def write_tables(
    folder: Path,
    study: str,
    sweeps: Mapping[str, pd.DataFrame],
    results: Mapping[str, Result],
    missing_seconds: Mapping[str, float],
) -> str:
    """Write the tables of a study's runs and of their epochs as CSV; return links to them and each cell's cost as HTML.

    tables/<study>_runs.csv has one row a run: its sweep and factors, what was measured (numbers alone), digest, device
    and seconds. _curves.csv has one row an epoch, with the run's digest. sweeps: by title. results: by digest.
    """
    if not sweeps:
        return "No runs of its own."
    runs = pd.concat([table.assign(sweep=title) for title, table in sweeps.items()], ignore_index=True)
    lists = [name for name in runs if runs[name].map(lambda value: isinstance(value, list)).any()]
    runs = runs.drop(columns=lists).set_index("sweep").dropna(axis="columns", how="all")
    of_epoch = {digest: pd.DataFrame(result.history) for digest, result in results.items() if result.history}
    curves = pd.concat(of_epoch, names=["digest", "epoch"]) if of_epoch else pd.DataFrame(columns=["digest", "epoch"])
    curves = curves.rename(lambda epoch: epoch + 1, level="epoch") if of_epoch else curves
    links = []
    for name, frame, of in (("runs", runs, "every run"), ("curves", curves, "every epoch")):
        file = f"tables/{study}_{name}.csv"
        write_text(folder / file, frame.to_csv(float_format="%.10g"))
        links.append(f'<a href="{file}">{of}</a>')
    cost = pd.concat([costs(title, table, missing_seconds) for title, table in sweeps.items()])
    shown = cost.to_html(index=False)
    return f"<p>As tables: {' and '.join(links)}.</p><details><summary>The cost of each cell</summary>{shown}</details>"


def costs(title: str, table: pd.DataFrame, missing_seconds: Mapping[str, float]) -> pd.DataFrame:
    """Return one row a cell: runs stored, missing and diverged, mean CPU and wall seconds a run, device.

    missing_seconds: of every missing run by its digest, NaN where unknown; their sum is the column "missing take", in
    words.
    """
    lines = []
    by = [name for name in factors_of(table) if name not in SEEDS]
    for label, cell in table.groupby(by, sort=False, dropna=False) if by else [((), table)]:
        stored = cell[cell["status"] != "missing"]
        lacking = cell.loc[cell["status"] == "missing", "digest"]
        named = ", ".join(f"{name} {value}" for name, value in zip(by, label, strict=True))
        line = {"sweep": title, "cell": named, "n": len(stored), "missing": len(lacking)}
        line["diverged"] = (stored["status"] == "diverged").sum()
        line |= {f"{name}_a_run": stored[name].mean() for name in ("cpu_seconds", "wall_seconds")}
        seconds = sum(missing_seconds.get(digest, 0.0) for digest in lacking)
        line["missing take"] = duration(seconds) if len(lacking) else ""
        lines.append(line | {"device": ", ".join(sorted(stored["device"].unique()))})
    return pd.DataFrame(lines)
