"""Prose of a notebook's Markdown cells, with the numbers that its code fills in."""

import re
from collections.abc import Mapping
from pathlib import Path

from deepnets_utils.reports.notebooks import read_notebook

PLACE = re.compile(r"\{([a-z]\w*)\}")


def filled(notebook: Path, tag: str, numbers: Mapping[str, str]) -> str:
    """Return the text of a notebook's Markdown cell with this tag, with `numbers` in the places of their {names}.

    Raises ValueError where there is not one such cell, and for names that only one side has.
    """
    cells = read_notebook(notebook)["cells"]
    tagged = [cell for cell in cells if cell["cell_type"] == "markdown" and tag in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook.name} has {len(tagged)} Markdown cells tagged {tag!r}; it needs one")
    text = "".join(tagged[0]["source"])
    if odd := set(PLACE.findall(text)) ^ numbers.keys():
        raise ValueError(f"{notebook.name}, {tag}: named in the text or given, and not both: {', '.join(sorted(odd))}")
    return PLACE.sub(lambda place: str(numbers[place[1]]), text)


def rows(text: str) -> list[list[str]]:
    """Return the rows of a text's Markdown table, without its head; raises ValueError for one with an empty cell."""
    lines = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines[2:]]
    for line in cells:
        if len(line) != len(lines[0]) or not all(line):
            raise ValueError(f"a row of the table has {len(lines[0])} cells, none of them empty, not {line}")
    return cells
