"""What a study leaves for reports, the README and the summary: <study>.json and tables that studies share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from deepnets_utils import published
from deepnets_utils.files import locked, move_aside, warn, write_text
from deepnets_utils.progress import duration
from deepnets_utils.runs import nan_to_null


def read(file: Path) -> dict[str, Any]:
    """Return a file's JSON object, {} when there is none; a damaged file is reported and moved aside."""
    try:
        if not isinstance(found := json.loads(file.read_text(encoding="utf-8")), dict):
            raise ValueError("it is no object")
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warn(f"{file.name} is not used: {error}; {move_aside(file)}")
        return {}


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Return what the studies of a profile's folder wrote, in order."""
    return [found for path in sorted(folder.glob("[0-9][0-9]_*.json")) if (found := read(path))]


def write(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a study's summary, last of all, and what several studies contribute to.

    That is tables/claims.csv, and tables of which each study has some metrics.
    """
    text = json.dumps(nan_to_null(summary), indent=1)  # an interval that reaches infinity is open on that side
    with locked(folder / ".claims.lock"):  # studies that finish at once
        summaries = [summary, *(other for other in read_all(folder) if other["study"] != summary["study"])]
        summaries.sort(key=lambda each: each["study"])
        claims = [{"study": each["study"]} | claim for each in summaries for claim in each["claims"]]
        write_text(folder / "tables" / "claims.csv", pd.DataFrame(claims).to_csv(index=False))
        tables = [table for each in summaries for table in each["tables"]]
        for file, columns in {table["file"]: table["columns"] for table in summary["tables"]}.items():
            rows = [row for table in tables if table["file"] == file for row in table["rows"]]
            write_text(folder / file, "\n".join([columns, *rows, ""]))
        write_text(folder / f"{summary['study']}.json", text)


def table(source: str, name: str, protocol: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table compared under one protocol as a summary holds it: file, counts of its cells' verdicts, lines."""
    lines = frame.to_csv(index=False, float_format="%.10g").splitlines()
    about = {
        "file": f"tables/{source}_{name}.csv",
        "title": f"{source}: {name}, {protocol}".removesuffix(", "),
        "cells": int(frame["verdict"].ne("").sum()),
    }
    return about | counts(frame["verdict"]) | {"columns": lines[0], "rows": lines[1:]}


def counts(verdicts: pd.Series) -> dict[str, int]:
    """Return how many cells have each of `published.WORDS`."""
    return {word: int((verdicts == word).sum()) for word in published.WORDS}


def banners(summary: Mapping[str, Any]) -> list[str]:
    """Return what stands above a study's numbers: whose data these are, and what was not used."""
    notes = summary.get("notes", [])
    text = "; ".join(notes[:2]) + (f"; and {len(notes) - 2} more" if notes[2:] else "")
    return [line for line in (summary["banner"], text) if line]


def missing(runs: Mapping[str, Any]) -> str:
    """Return in words how many of a summary's runs are missing and what they would cost, "" where none is.

    The cost is that of one run after another as `estimates` knows it; runs like nothing stored are named, and those
    that cannot be planned yet.
    """
    if not runs["missing"]:
        return ""
    text = f"{runs['missing']} of {runs['total']} runs are not there"
    unknown = runs.get("missing_unknown", runs["missing"])
    if unknown == runs["missing"]:
        text += ", nothing like them is stored to tell their time from"
    else:
        time = duration(runs["missing_seconds"])
        text += f"; by stored runs of any device they take about {time} one after another"
        text += f", without {unknown} that nothing stored is like" if unknown else ""
    return text + (f"; {runs['later']} more cannot be planned before them" if runs.get("later") else "")
