"""What a study leaves for reports, the README and the summary: <study>.json and tables that studies share."""

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnets_utils.reports.parameters import LARGE
from deepnets_utils.results import comparison, documents
from deepnets_utils.results.verdicts import NOT_JUDGED
from deepnets_utils.runs.files import locked, move_aside, warn, write_text
from deepnets_utils.runs.progress import duration
from deepnets_utils.runs.run import Result, Run, nan_to_null
from deepnets_utils.sweeps.estimates import basis, estimates

SCALES = LARGE[::-1]  # their claims are judged together, the largest scale first


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


def scales(folder: Path) -> list[Path]:
    """Return the folders whose claims a profile's pages judge, the largest scale first: its own, or those of SCALES."""
    return [folder.with_name(name) for name in SCALES] if folder.name in SCALES else [folder]


def claims(folder: Path) -> list[dict[str, Any]]:
    """Return the verdicts that a profile's pages show, a line a claim and protocol, with its "study" and "profile".

    Each is of the largest of the profile's scales that has the runs for it. Where none has, it is of the one with most
    runs, and among equals of the one that says why its runs cannot try the claim.
    """
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for place in scales(folder):
        for summary in read_all(place):
            for claim in summary["claims"]:
                key = summary["study"], claim["id"], claim["protocol"]
                known = lines.get(key)
                if known is None or (known["verdict"] in NOT_JUDGED and _told(claim) > _told(known)):
                    lines[key] = {"study": summary["study"], "profile": place.name} | claim
    return sorted(lines.values(), key=lambda line: line["study"])


def _told(line: Mapping[str, Any]) -> tuple[bool, int, bool, bool]:
    """Return how much a line tells of its claim: a verdict first, then more runs, then why they cannot try it, or
    which are missing."""
    return line["verdict"] not in NOT_JUDGED, line["n"], line["verdict"] == "not tried", line["note"] != "not run"


def audit(folder: Path, study: str) -> list[tuple[str, str, str]]:
    """Return a study's points: name, what the document does, and what changes without it.

    What changes is of the largest of the profile's scales among those whose text says "too few runs" least often;
    another scale than the folder's own is named.
    """
    points: dict[str, dict[str, str]] = {}
    for place in scales(folder):
        for point in read(place / f"{study}.json").get("audit", []):
            here = point | {"scale": "" if place == folder else f"At the scale of {place.name}: "}
            points[point["finding"]] = min(points.get(point["finding"], here), here, key=_lacking)
    return [(name, of["text"], of["scale"] + of["change"]) for name, of in points.items()]


def _lacking(point: Mapping[str, str]) -> tuple[bool, int]:
    """Return how much of what changes is not measured: whether all of it, then how many numbers."""
    return point["change"] == "too few runs", point["change"].count("too few runs")


def write(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a study's summary, last of all and with the time, and what several studies contribute to.

    That is tables/claims.csv, and tables of which each study has some metrics.
    """
    finished_at = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    made = {"token": os.environ.get("DEEPNETS_REPORT_TOKEN", ""), "finished_at": finished_at}
    text = json.dumps(nan_to_null({**summary, **made}), indent=1)  # an interval to infinity is open on that side
    with locked(folder / ".claims.lock"):  # studies that finish at once
        summaries = [summary, *(other for other in read_all(folder) if other["study"] != summary["study"])]
        summaries.sort(key=lambda each: each["study"])
        lines = [{"study": each["study"]} | claim for each in summaries for claim in each["claims"]]
        write_text(folder / "tables" / "claims.csv", pd.DataFrame(lines).to_csv(index=False))
        tables = [table for each in summaries for table in each["tables"]]
        for file, columns in {table["file"]: table["columns"] for table in summary["tables"]}.items():
            alike = [table for table in tables if (table["file"], table["columns"]) == (file, columns)]
            rows = [row for table in alike for row in table["rows"]]
            write_text(folder / file, "\n".join([columns, *rows, ""]))
        write_text(folder / f"{summary['study']}.json", text)


def table(source: str, name: str, protocol: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table compared under one protocol as a summary holds it: file, counts of its cells' verdicts, lines.

    "cells" counts those of another scale, too, and "likeness" says in words how like these are to the printed ones.
    Cells in which nothing is random, as numbers of parameters, are counted apart once they are there: "counted".
    """
    lines = frame.to_csv(index=False, float_format="%.10g").splitlines()
    exact = frame["exact"] & ~frame["verdict"].isin(["", "missing"])
    about = {
        "file": f"tables/{source}_{name}.csv",
        "title": f"{source}: {documents.place(name)}, {protocol}".removesuffix(", "),
        "cells": int((frame["verdict"].ne("") & ~exact).sum()),
        "counted": f"{(exact & frame['verdict'].eq('same')).sum()} of {exact.sum()}" if exact.any() else "",
        "likeness": comparison.likeness(frame),
        comparison.OTHER_SCALE: int(frame["verdict"].eq(comparison.OTHER_SCALE).sum()),
    }
    return about | counts(frame) | {"columns": lines[0], "rows": lines[1:]}


def runs(
    runs: Mapping[str, Run], results: Mapping[str, Result], stored: Iterable[Result], device: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what a summary says of a study's runs, and the seconds of each missing one by digest, NaN where unknown.

    runs, results: by digest, those of the study. stored: any others, by which the seconds are estimated, too.
    """
    known = [*results.values(), *stored]
    missing = [digest for digest in runs if digest not in results]
    seconds = estimates([runs[digest] for digest in missing], known, device)
    counts = {
        "total": len(runs),
        "missing": len(missing),
        "missing_seconds": float(np.nansum(seconds)),
        "missing_unknown": int(np.isnan(seconds).sum()),
        "missing_by": basis(known, device),
        "diverged": sum(result.status == "diverged" for result in results.values()),
        **{key: sum(result.provenance[key] for result in results.values()) for key in ("cpu_seconds", "wall_seconds")},
    }
    return counts, dict(zip(missing, seconds, strict=True))


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """Return how many cells have each of `comparison.WORDS`, without those in which nothing is random."""
    counted = frame["exact"] & frame["verdict"].ne("missing")
    return {word: int((frame["verdict"].eq(word) & ~counted).sum()) for word in comparison.WORDS}


def banners(summary: Mapping[str, Any]) -> list[str]:
    """Return what stands above a study's numbers: whose data these are, and what was not used."""
    notes = summary.get("notes", [])
    text = "; ".join(notes[:2]) + (f"; and {len(notes) - 2} more" if notes[2:] else "")
    return [line for line in (summary["banner"], text) if line]


def missing(runs: Mapping[str, Any]) -> str:
    """Return in words how many of a summary's runs are missing and what they would cost, "" where none is.

    The cost is that of one run after another as `estimates` knows it for the study's device; runs like nothing stored
    from such a device are named, and those that cannot be planned yet.
    """
    if not runs["missing"]:
        return ""
    text = f"{runs['missing']} of {runs['total']} runs are not there"
    unknown = runs.get("missing_unknown", runs["missing"])
    if unknown == runs["missing"]:
        text += ", nothing like them is stored from such a device to tell their time from"
    else:
        time = duration(runs["missing_seconds"])
        text += f"; {runs.get('missing_by', 'by stored runs')} they take about {time} one after another"
        text += f", without {unknown} that nothing stored is like" if unknown else ""
    return text + (f"; {runs['later']} more cannot be planned before them" if runs.get("later") else "")
