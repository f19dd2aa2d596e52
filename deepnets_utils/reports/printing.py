"""How a study's numbers are written for a reader: comparisons, verdicts, the audit, and one difference in words."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from deepnets_utils.results.comparison import OTHER_SCALE
from deepnets_utils.results.statistics import difference_interval, smallest_significant, summary
from deepnets_utils.runs.run import Run

NOT_RUN = "(not run)"  # what stands in a text for a number that waits for its runs


def comparison(frame: pd.DataFrame, form: str) -> pd.DataFrame:
    """Return a table of `comparison.compare` for printing, by row and column; form: of our numbers, as in ".2f".

    Without verdicts where ours are of another scale: `comparison.likeness` says how like they are.
    """
    protocol, exact = frame["protocol"].iloc[0], frame["exact"].all()
    text = pd.DataFrame({"row": frame["row"], "column": frame["column"]})
    # Of one number the documents do not say of how many runs.
    spreads = zip(frame["published_spread"], frame["published_n"].where(frame["published_n"] > 1), strict=True)
    text["published"] = [
        of and of + _runs(*more, 0, ".10g") for of, more in zip(frame["printed"], spreads, strict=True)
    ]
    ours = frame.assign(n=math.nan, diverged=0) if exact else frame
    text[f"ours {protocol}".strip()] = [
        f"{line.ours:{form}}" + _runs(line.spread, line.n, line.diverged, form)
        if pd.notna(line.ours)
        else _runs(math.nan, math.nan, line.diverged, form).strip(" ()")
        for line in ours.itertuples()
    ]
    if not exact:
        ends = zip(frame["low"], frame["high"], strict=True)
        text[f"95 % {protocol}".strip()] = [interval(low, high, form) for low, high in ends]
    if not frame["verdict"].eq(OTHER_SCALE).any():
        text[f"verdict {protocol}".strip()] = frame["verdict"]
    return text.set_index(["row", "column"])


def scale(settings: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """Return in words which settings are not those of profile paper, "" where only numbers of runs (seeds) are.

    A number says how large a training is, 0 that all there is is taken; texts and lists say what is trained.
    """
    changed = [
        f"{name.replace('_', ' ')} {_size(value)} ({_size(paper[name])})"
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not name.endswith("seeds") and value != paper[name]
    ]
    return f"Another scale than profile paper's (in brackets): {', '.join(changed)}." if changed else ""


def _size(number: float) -> str:
    return f"{number:,g}" if number else "all"


def verdicts(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return verdicts, each with what `verdicts.Verdict` holds and its claim's statement, for printing."""
    shown = [
        {
            "claim": line["statement"],
            "protocol": line["protocol"],
            "verdict": line["verdict"],
            "comparisons": comparisons(line),
            **dict(zip(("effect", "95 %"), effect(line), strict=True)),
            "n": line["n"],
            "p": _p_value(line),
            "note": note(line),
        }
        for line in lines
    ]
    return pd.DataFrame(shown).set_index("claim")


def verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the verdicts on one claim in words, a protocol each; "not judged here" where there are none."""
    texts = []
    for line in lines:
        text = f"{line['protocol']}: {line['verdict']}".removeprefix(": ")
        number, ends = effect(line)
        of = f"; {_rank(line)} of {line['comparisons']} comparisons" if line["comparisons"] > 1 else ""
        texts.append(text + (f", {number} (95 %: {ends}; n = {line['n']}{of})" if ends else ""))
    return "; ".join(texts) or "not judged here"


def comparisons(line: Mapping[str, Any]) -> str:
    """Return what the means of a verdict's comparisons say, and how many of them are shown; "" where nothing ran."""
    if not line["n"]:
        return ""
    return f"{line['pointing']} of {line['comparisons']} point the claimed way, {line['shown']} shown"


def resolution(n: int, claims: int) -> str:
    """Return in words what n runs a side can show where so many claims are tested and corrected together."""
    if n < 2 or not claims:
        return "Nothing can be tested yet: that takes two runs on each side."
    least = smallest_significant(n, claims)
    text = f"With {n} runs a side a difference must be about {least:.1f} standard deviations to be significant"
    last = f" at the first step of the correction, and {smallest_significant(n):.1f} at the last" if claims > 1 else ""
    return f"{text}{last}."


def note(line: Mapping[str, Any]) -> str:
    """Return which comparison a verdict's effect is of, and what is missing or diverged."""
    return "; ".join(filter(None, (f"{_rank(line)}: {line['pair']}" if line["n"] else "", line["note"])))


def _rank(line: Mapping[str, Any]) -> str:
    against = line["verdict"] in ("contradicted", "leans against")
    return "the one most against it" if against else "the weakest"


def _p_value(line: Mapping[str, Any]) -> str:
    """Return the corrected p-value of a verdict, of an undecided one the smaller; "" where nothing could be tested."""
    sides = {"supported": line["p_supported"], "contradicted": line["p_contradicted"]}
    sides |= {"leans": line["p_supported"], "leans against": line["p_contradicted"]}
    p = sides.get(line["verdict"], min(sides.values()))
    return "" if line["n"] < 2 else f"{p:.2g}" if p >= 0.001 else "< 0.001"


def effect(line: Mapping[str, Any]) -> tuple[str, str]:
    """Return a verdict's effect in a reader's units, and its 95 % interval, as texts; "" for what there is not.

    A difference of percentages is in points, a ratio or a difference of logarithms so many times, another difference
    its two sides.
    """
    ends = ("effect", "left", "right", "low", "high")
    number, left, right, low, high = (math.nan if line.get(name) is None else line[name] for name in ends)
    if math.isnan(number):
        return "", ""
    ratio, metric = line["scale"] == "ratio", line["metric"]
    if metric.startswith("log10_"):
        ratio, number, left, right, low, high = True, *(10**value for value in (number, left, right, low, high))
    sides = f"{short(left)} against {short(right)}"
    text = f"{short(number)} times ({sides})" if ratio else sides
    if metric.startswith("gain"):
        text = f"{short(left)} against {short(right)} points"
    elif not ratio and metric.endswith(("accuracy", "error")):
        way = "higher" if number > 0 else "lower"
        text = f"{abs(number):.3g} points {way} ({sides} %)" if number else f"no difference ({sides} %)"
    elif not ratio and metric.endswith("seconds"):
        text = f"{left:.3g} s against {right:.3g} s"
    return text, "" if line["note"] == "exact" else interval(low, high, "")


def audit(findings: Sequence[tuple[str, str, str]]) -> Styler:
    """Return findings (name, what the document does, what changes) as a table of texts, whatever shows it."""
    left = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
    table = pd.DataFrame(findings, columns=["point", "in the document", "what changes without it"])
    styled = table.style.format(escape="html").hide().set_properties(**left)
    return styled.set_table_styles([{"selector": "th", "props": list(left.items())}])


def with_runs(lines: Mapping[Any, Mapping[str, Any]], *names: str) -> HTML:
    """Return a table of the lines that have runs, and how many wait for theirs, or that there is none.

    lines: label -> column -> what stands there; "n" counts the runs. names: of the labels' parts.
    """
    filled = {label: line for label, line in lines.items() if line["n"]}
    waiting = f"{len(lines) - len(filled)} of {len(lines)} lines wait for runs; the cost of each cell ends the page."
    text = f"<p>{waiting}</p>" if len(filled) < len(lines) else ""
    if not lines:
        text = "<p>Not in this profile.</p>"
    frame = pd.DataFrame(filled).T
    return HTML(text + (frame.rename_axis(names).to_html(na_rep="") if filled else ""))


def means(table: pd.DataFrame, by: Sequence[str], columns: Mapping[str, tuple[str, str]]) -> HTML:
    """Return a table of the means over each cell's runs, see `mean`, and of their number n, as `with_runs` shows it.

    table: one row a run (see `frames.tidy`). by: the columns that make a cell. columns: title -> column and format; n
    is the first one's.
    """
    lines = {}
    (first, _), *_ = columns.values()
    for label, cell in table.groupby(list(by), sort=False):
        stored = cell[cell["status"] != "missing"]
        texts = {title: mean(stored[name], form) for title, (name, form) in columns.items()}
        lines[label] = texts | {"n": count(stored[first])}
    return with_runs(lines, *by)


def plans(
    paper: pd.DataFrame, here: pd.DataFrame, by: Sequence[str], pflop: Callable[[Run], float], stored: Collection[str]
) -> HTML:
    """Return a table of what the runs of two plans cost, in PFLOP (10^15 operations), and the sums in words.

    paper, here: as `Study.plan` returns them; a run that two rows share is counted in the first. by: the columns that a
    line of the table is of. pflop: of a run's training. stored: digests of the runs that are not missing.
    """
    sums = {"PFLOP a run": ("pflop", "first"), "runs": ("pflop", "size"), "PFLOP in all": ("pflop", "sum")}
    sums["missing"] = ("missing", "sum")
    costs = []
    for profile, plan in {"paper": paper, "here": here}.items():
        plan = plan.assign(digest=plan["run"].map(lambda run: run.digest)).drop_duplicates("digest")
        plan = plan.assign(pflop=plan["run"].map(pflop), missing=~plan["digest"].isin(stored))
        costs.append(plan.groupby(list(by), sort=False).agg(**sums).add_suffix(f", {profile}"))
    table = pd.concat(costs, axis=1).drop(columns=["missing, paper", "PFLOP in all, here"])
    table = table.rename(columns={"runs, here": "runs here", "missing, here": "missing here"})
    counts = ["runs, paper", "runs here", "missing here"]
    table[counts] = table[counts].fillna(0).astype(int)
    total, lacking = table["PFLOP in all, paper"].sum(), (table["PFLOP a run, here"] * table["missing here"]).sum()
    hours = f"{total / 0.02 / 3600:,.0f} h at a sustained 20 TFLOP/s, by arithmetic and not measured"
    return HTML(
        f"{table.to_html(na_rep='')}<p>Profile paper: {table['runs, paper'].sum()} runs, {total:,.0f} PFLOP; "
        f"{hours}.</p>"
        f"<p>Missing in this profile: {table['missing here'].sum()} runs, {lacking:.4g} PFLOP.</p>"
    )


def mean(values: Sequence[float], form: str = ".2f") -> str:
    """Return the mean of one value a run ± their standard deviation, "" where there is none; NaN of a diverged run.

    Of times that a run did not reach (inf) there is no mean: their median, and how many were never reached.
    """
    s = summary(values)
    if s.unreached:
        median = f", median {s.median:{form}}" if np.isfinite(s.median) else ""
        return f"{s.unreached} of {s.n} never{median}"
    spread = f" ± {s.spread:{form.removeprefix('+')}}" if s.n > 1 else ""
    return f"{s.mean:{form}}{spread}" if s.n else ""


def mean_and_n(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Return `mean` with its unit and the number of runs in words, NOT_RUN where no run is stored."""
    text = mean(values, form)
    words = [text, unit] if text else []
    return " ".join([*filter(None, words), f"(n = {count(values)})"]) if len(values) else NOT_RUN


def count(values: Sequence[float]) -> str:
    """Return how many of one value a run are of finished runs, and how many of diverged ones; "" without any."""
    s = summary(values)
    return f"{s.n}, {s.diverged} diverged" if s.diverged else f"{s.n or ''}"


def short(number: float) -> str:
    """Return a number with three digits, a large one without an exponent."""
    return f"{number:,.0f}" if 1_000 <= abs(number) < 1e7 else f"{number:.3g}"


def interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    """Return "low to high", or the one end that is finite; "" of an interval that could not be computed.

    form: of both numbers, "" for `short`.
    """
    known = (end if pd.notna(end) and np.isfinite(end) else None for end in (low, high))
    ends = ["" if end is None else f"{end:{form}}" if form else short(end) for end in known]
    if not all(ends):
        return f"at least {ends[0]}" if ends[0] else f"at most {ends[1]}" if ends[1] else ""
    return " to ".join(ends)


def difference(left: Sequence[float], right: Sequence[float], unit: str = "", form: str = "+.2f") -> str:
    """Return mean(left) - mean(right) with Welch's 95 % interval and both n in words, or "too few runs".

    left, right: one value a run, NaN for a diverged one. unit: written after the number. A single run on a side gives
    the number, and says that there is no interval.
    """
    low, high = difference_interval(left, right)
    one, other = summary(left), summary(right)
    if not np.isfinite(one.mean - other.mean):
        return "too few runs"
    number = f"{one.mean - other.mean:{form}} {unit}".rstrip()
    interval = "no interval" if np.isnan(low) else f"95 %: {low:{form}} to {high:{form}}"
    return f"{number} ({interval}; n = {one.n} and {other.n})"


def _runs(spread: float, n: float, diverged: int, form: str) -> str:
    """Return what stands behind a mean, as in " ± 0.12 (n=3, 2 diverged)", without what is NaN or 0."""
    counts = ["" if pd.isna(n) else f"n={n:.0f}", f"{diverged} diverged" if diverged else ""]
    runs = ", ".join(filter(None, counts))
    return ("" if pd.isna(spread) else f" ± {spread:{form}}") + (f" ({runs})" if runs else "")
