"""Prose of a notebook's Markdown cells, with the numbers that its code fills in."""

import math
import re
import string
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from deepnets_utils.reports.notebooks import read_notebook
from deepnets_utils.reports.printing import NOT_RUN


class _Places(string.Formatter):
    """Formats what stands in a text's places, and NOT_RUN for what is not there."""

    def format_field(self, value: Any, form: str) -> str:
        if isinstance(value, list):
            return "; ".join(item for item in value if NOT_RUN not in item) or NOT_RUN
        absent = value is None or (isinstance(value, Real) and math.isnan(value))
        return NOT_RUN if absent else format(value, form)


def filled(notebook: Path, tag: str, numbers: Mapping[str, Any]) -> str:
    """Return the text of a notebook's Markdown cell with this tag, with `numbers` in the places of their {names}.

    A place is one of str.format: {gain:.2f}, {gains.mean:.2f}; a brace that is none stands twice. A list of texts is
    joined, without those that say "(not run)". That stands in the place of NaN, of None and of a list without others.
    Raises ValueError where there is not one such cell, and for names that only one side has.
    """
    cells = read_notebook(notebook)["cells"]
    tagged = [cell for cell in cells if cell["cell_type"] == "markdown" and tag in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook.name} has {len(tagged)} Markdown cells tagged {tag!r}; it needs one")
    text = "".join(tagged[0]["source"])
    named = {re.split(r"[.[]", place)[0] for _, place, _, _ in string.Formatter().parse(text) if place is not None}
    if odd := named ^ numbers.keys():
        raise ValueError(f"{notebook.name}, {tag}: named in the text or given, and not both: {', '.join(sorted(odd))}")
    return _Places().format(text, **numbers)


def rows(text: str) -> list[list[str]]:
    """Return the rows of a text's Markdown table, without its head; raises ValueError for one with an empty cell."""
    lines = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines[2:]]
    for line in cells:
        if len(line) != len(lines[0]) or not all(line):
            raise ValueError(f"a row of the table has {len(lines[0])} cells, none of them empty, not {line}")
    return cells
