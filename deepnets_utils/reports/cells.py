"""A notebook's cells in the order and form of a page: findings first, tables aligned, claims with their verdicts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from deepnets_utils.results.verdicts import one_word

RUNS_IN_A_BROWSER = ("application/javascript", "application/vnd.jupyter.widget-view+json")
SHORT = 24  # characters of a row's label
WORD = re.compile(r"(?!NaN|nan|inf)[A-Za-z]{3}")


def arranged(notebook: NotebookNode) -> NotebookNode:
    """Return a copy in the order of a page: what was found below the title, parameters and settings at the end.

    The tags of its cells say which these are: code tagged "findings", and "lead" for the figure that carries the study;
    "parameters" and "settings"; what has no such tag stays in its order. Markdown that code fills in is left out.
    """
    first, middle, last = [], [], []
    title = notebook.cells[:1] if notebook.cells and notebook.cells[0]["cell_type"] == "markdown" else []
    for cell in notebook.cells[len(title) :]:
        tags = set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "markdown" and tags & {"findings", "audit"}:
            text = "".join(cell["source"]) if "audit" in tags else ""
            kept = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
            middle += [NotebookNode(cell, source=kept)] if kept.strip() else []
        else:
            place = first if tags & {"findings", "lead"} else last if tags & {"parameters", "settings"} else middle
            place.append(cell)
            if "lead" in tags:
                middle.append(new_markdown_cell("*The figure of this section stands at the top of the page.*"))
    first.sort(key=lambda cell: "lead" in cell["metadata"]["tags"])
    heading = [new_markdown_cell("## Parameters and settings")] if last else []
    return NotebookNode(notebook, cells=[*title, *first, *middle, *heading, *last])


def printable(notebook: NotebookNode, claims: Sequence[Mapping[str, Any]]) -> NotebookNode:
    """Return a copy without what a reader needs no sight of: no log lines, no widgets, folded what one checks.

    That are the tables of code cells tagged "checked". Tables of code cells tagged "claims" get a column with what the
    notebook found, in one word. claims: a summary's.
    """
    notebook = NotebookNode(notebook, cells=[NotebookNode(cell) for cell in notebook.cells])
    for cell in notebook.cells:
        outputs = []
        for output in cell.get("outputs", []):
            data = dict(output.get("data", {}))
            if output.get("name") == "stderr" or any(kind in data for kind in RUNS_IN_A_BROWSER):
                continue
            if "text/html" in data:
                text, tags = align("".join(data["text/html"])), cell["metadata"].get("tags", [])
                text = judged(text, claims) if "claims" in tags else text
                folded = "<table" in text and "checked" in tags
                lines = f"<details class='table'><summary>a table of {text.count('<tr')} lines</summary>"
                data["text/html"] = f"{lines}{text}</details>" if folded else text
            outputs.append(NotebookNode(output, data=NotebookNode(data)) if data else output)
        if "outputs" in cell:
            cell["outputs"] = outputs
    return notebook


def align(text: str) -> str:
    """Return HTML with classes on the cells of pandas' tables: "text" where a column holds words, "short" for labels.

    What is missing (NaN) is left empty. Only numbers stand to the right, and what is short stays on one line.
    """
    if 'class="dataframe"' not in text:
        return text
    page = BeautifulSoup(text, "html.parser")
    for style in page.select("style[scoped]"):
        style.decompose()  # browsers take it for the whole page
    for table in page.select("table.dataframe"):
        for cell in table.find_all("td", string="NaN"):
            cell.string = ""
        rows = [row.find_all("td") for row in table.select("tbody tr")]
        if not rows:
            table.replace_with("None of these runs is stored yet.")
            continue
        worded = [any(WORD.search(cell.get_text()) for cell in column) for column in zip(*rows, strict=False)]
        for label in table.select("tbody th"):
            if len(label.get_text()) <= SHORT:
                label["class"] = "short"
        for heading in table.select("thead tr"):
            names = heading.find_all("th")
            if (index := len(names) - len(worded)) >= 0:  # else they stand above several columns
                rows.append(names[index:])
                for name in names[:index]:
                    name["class"] = "text"
        for row in rows:
            for cell, word in zip(row, worded, strict=False):
                if word:
                    cell["class"] = "text"
    return str(page)


def judged(text: str, claims: Sequence[Mapping[str, Any]]) -> str:
    """Return a table whose rows begin with claims' statements, with a column for the verdict on each, in one word."""
    page = BeautifulSoup(text, "html.parser")
    for row in page.select("tr"):
        cell = page.new_tag("th" if row.parent.name == "thead" else "td", attrs={"class": "text"})
        label = row.find("th")
        statement = label.get_text() if label else ""
        if lines := [line for line in claims if line["statement"] == statement]:
            word = one_word(lines)
            cell.append(page.new_tag("span", attrs={"class": f"word {word.split()[0]}"}, string=word))
        elif not row.find_previous_sibling("tr") and cell.name == "th":
            cell.string = "found here"
        row.append(cell)
    return str(page)
