"""Pages that stand alone: a notebook, a profile's index and the list of profiles as HTML without scripts.

nbconvert's template folder and pandas' Styler were tried: they take more lines, and a call at every table.
"""

import functools
import html
import importlib.metadata
import platform
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from deepnets_utils.reports import printing, summaries
from deepnets_utils.reports.cells import arranged, printable
from deepnets_utils.results.comparison import WORDS
from deepnets_utils.results.verdicts import IN_PART, VERDICTS, one_word
from deepnets_utils.runs.progress import duration

TEMPLATES = Path(__file__).with_name("pages")
PACKAGES = ("deepnets-utils", "torch", "torchvision", "numpy", "scipy", "scikit-learn")
WITHOUT_ALT = re.compile(r"<img\s+(?![^>]*\balt=)")
SECTION = re.compile(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"')
SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
ELSEWHERE = re.compile(
    r"""<(?:img|iframe|script|link|object|embed|source|video|audio)\b[^>]*?\s(?:src|href|data)\s*=\s*["']?"""
    r"""(?!data:)([^"'\s>]+)|<style\b[^<]*?(?:@import\s+|url\(\s*)["']?((?:https?:)?//[^"'\s)]+)""",
    re.IGNORECASE,
)


class MathRenderer(IPythonRenderer):
    """Markdown with its formulas as MathML, which browsers draw without a script."""

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def _html_embed_images(self, html: str) -> str:
        # The base class closes what a piece of HTML leaves open, and <details> would lose its content.
        return super()._html_embed_images(html) if "<img" in html else html


class PageExporter(HTMLExporter):
    """nbconvert's plain HTML of the cells, without head, styles and scripts.

    Left out is what takes most of its time: to clean code that is highlighted already, and to parse the whole page
    once more for pictures without alternative text.
    """

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """Yield the filters of the templates by name."""
        yield from super().default_filters()
        yield "highlight_code", self.highlighted
        yield "clean_html", lambda text: text

    def highlighted(self, source: str, metadata: Mapping[str, Any]) -> str:
        """Return a cell's code in colours, folded, so that results stand below the text."""
        code, lines = Highlight2HTML(pygments_lexer="ipython3", parent=self)(source), source.count("\n") + 1
        words = f"{lines} lines of code" if lines > 1 else "a line of code"
        return f'<details class="code"><summary>{words}</summary>{code}</details>'

    def from_notebook_node(self, *args: Any, **settings: Any) -> tuple[str, dict[str, Any]]:
        """Return the cells as HTML, and nbconvert's resources."""
        return super(HTMLExporter, self).from_notebook_node(*args, **settings)

    def markdown2html(self, context: Mapping[str, Any], source: str) -> str:
        """Return a Markdown text as HTML; pictures that it names beside the notebook are embedded."""
        renderer = MathRenderer(
            escape=False,
            embed_images=True,
            attachments=context.get("cell", {}).get("attachments", {}),
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
        )
        return MarkdownWithMath(renderer=renderer).render(source)

    markdown2html.jinja_pass_arg = HTMLExporter.markdown2html.jinja_pass_arg


def mathml(formula: str, display: str) -> str:
    """Return a LaTeX formula as MathML, or as code where it cannot be read; display: "inline" or "block"."""
    try:
        return convert(formula, display=display)
    except Exception:  # the converter raises many kinds
        return f"<code>{escape(formula)}</code>"


def study_page(
    notebook: NotebookNode, folder: Path, summary: Mapping[str, Any], seconds: float, hide_code: bool
) -> str:
    """Return an executed notebook as a page, which names on top and in a warning what it needs from elsewhere.

    folder: where its Markdown's pictures lie. summary: what `study.finish()` wrote. seconds: wall time of the
    execution, from 0. hide_code: leave the code cells' sources out.
    """
    left_out = {"exclude_input": hide_code, "exclude_input_prompt": True, "exclude_output_prompt": True}
    cells, place = arranged(printable(notebook, summary["claims"])), {"metadata": {"path": str(folder)}}
    content, _ = PageExporter(template_name="basic", **left_out).from_notebook_node(cells, place)
    banners = summaries.banners(summary)
    if addresses := dict.fromkeys(address for pair in ELSEWHERE.findall(content) for address in pair if address):
        banners.append(f"Not on this page, for they lie elsewhere or are missing: {', '.join(addresses)}.")
        warnings.warn(banners[-1], stacklevel=2)
    content = WITHOUT_ALT.sub('<img alt="a picture without description" ', SCRIPT.sub("", content))
    for figure in summary["figures"]:
        alt, title = (re.escape(html.escape(figure[name])) for name in ("alt", "title"))
        picture = rf'<figure>(<img [^>]*alt="{alt}"[^>]*>)(?=<figcaption>{title}</figcaption>)'
        content = re.sub(picture, rf'<figure><a href="{quote(figure["file"])}">\1</a>', content)
    if lacking := summaries.missing(summary["runs"]):
        banners.append(f"{lacking}: what needs them is marked as missing.")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    return _render(
        "study",
        summary=summary,
        name="+".join(filter(None, (summary["profile"], summary["label"]))),  # as in "quick+epochs=5"
        banners=banners,
        seconds=seconds,
        versions=", ".join([f"Python {platform.python_version()}", *versions]),
        sections=[(Markup(anchor), Markup(title)) for anchor, title in SECTION.findall(content)],
        content=Markup(content),
    )


def index_page(name: str, rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]) -> str:
    """Return a profile's index. rows: one a study, as `reporting.study_row` makes them.

    claims: as `summaries.claims` returns them.
    """
    banners: dict[str, list[str]] = {}
    for row in rows:
        for text in summaries.banners(row["summary"]) if row["summary"] else []:
            banners.setdefault(text, []).append(row["study"])
    runs = [row["summary"]["runs"] for row in rows if row["summary"]]
    keys = ("total", "missing", "missing_seconds", "missing_unknown", "later")
    bases = sorted({run.get("missing_by", "by stored runs") for run in runs if run["missing"]})
    total = {key: sum(run.get(key, 0) for run in runs) for key in keys}
    lacking = summaries.missing(total | {"missing_by": " and ".join(bases)})
    lacking += " (runs of two studies count twice)" if lacking and len(runs) > 1 else ""
    shown = {"banners": banners, "verdicts": count_verdicts(claims), "lacking": lacking, "words": WORDS}
    return _render("index", name=name, rows=rows, claims=claims, **shown)


def profiles_page(profiles: Sequence[Mapping[str, Any]]) -> str:
    """Return the list of profiles: name, statuses and verdicts (word to number), newest (a time) of each."""
    return _render("profiles", profiles=profiles)


def count_verdicts(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how often each verdict occurs, each claim once whatever its protocols, in a fixed order."""
    ids = {claim["id"] for claim in claims}
    found = [one_word([claim for claim in claims if claim["id"] == each]) for each in ids]
    return {word: found.count(word) for word in (*VERDICTS[:2], IN_PART, *VERDICTS[2:]) if word in found}


def navigation(page: str, before: str | None, after: str | None, elsewhere: Mapping[str, str]) -> str:
    """Return a study's page with links to the index and to its neighbours (names of studies with a page).

    elsewhere: profile -> address of its page of the same study.
    """
    links = ['<a href="index.html">Index</a>']
    links += [f'<a href="{quote(address)}">profile {escape(name)}</a>' for name, address in elsewhere.items()]
    links += [f'<a href="{quote(before)}.html">← {escape(before)}</a>'] if before else []
    links += [f'<a class="next" href="{quote(after)}.html">{escape(after)} →</a>'] if after else []
    return re.sub("<!--nav-->.*?<!--/nav-->", f"<!--nav--><nav>{''.join(links)}</nav><!--/nav-->", page)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(f"{template}.html.j2").render(values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "markdown": lambda text: Markup(MarkdownWithMath(renderer=MathRenderer(escape=True)).render(text)),
        "comparisons": printing.comparisons,
        "effect": printing.effect,
        "duration": duration,
        "href": quote,
        "literal": lambda value: (
            ", ".join(map(str, value)) if isinstance(value, list) and value else str(value) or '""'
        ),
        "minute": lambda time: time[:16].replace("T", " "),
    }
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    environment.globals["style"] = Markup((TEMPLATES / "style.css").read_text() + colours)
    return environment
