"""What every notebook says: parameters, settings, sweeps, comparisons, verdicts, figures, finish."""

import datetime
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from pandas.io.formats.style import Styler

from deepnets_utils.data import loading
from deepnets_utils.reports import printing, summaries
from deepnets_utils.reports.parameters import (
    check_parameters,
    injected,
    notebook_path,
    read_parameters,
    read_title,
    report_folder,
    report_label,
)
from deepnets_utils.reports.watching import watch
from deepnets_utils.results import comparison, documents, statistics
from deepnets_utils.results.cells import Cells, Label, costs
from deepnets_utils.results.comparison import OTHER_SCALE
from deepnets_utils.runs import files, paths
from deepnets_utils.runs.files import write_text, write_whole
from deepnets_utils.runs.run import Run, canonical
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.estimates import estimates
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.sweeps.workers import end_workers, engine, resolve


class Study:
    """One execution of a notebook. Everything that it reports goes through this object.

    name: the notebook's name without ending. namespace: the notebook's `globals()`, from which the declared
    parameters are taken. Raises ParameterError for an unknown name, a wrong type or an impossible value, before
    anything is trained.
    """

    def __init__(self, name: str, namespace: Mapping[str, Any]) -> None:
        notebook = notebook_path(name)
        declared = read_parameters(notebook)
        given = {key: namespace[key] for key in declared if key in namespace}
        self.parameters = check_parameters(declared, given | injected(namespace, declared))
        self.name, self.title = name, read_title(notebook)
        self.profile, self.train = self.parameters["profile"], self.parameters["train"]
        # Workers take longer to start than smoke trains.
        workers = self.parameters["workers"] or int(self.profile == "smoke")
        self.device, self.workers = resolve(self.parameters["device"], workers)
        self.folder = report_folder(self.parameters, declared)
        self.label = report_label(self.parameters, declared)
        self.figures_folder = paths.output_root() / "figures" / self.folder.name
        pd.options.display.max_colwidth = pd.options.display.max_rows = None
        pd.options.display.float_format = "{:.4g}".format
        files.notes.clear()  # what an earlier execution in this kernel said
        self.store = Store()
        self.banner = self._why = ""
        self._settings, self._paper = SimpleNamespace(), {}
        self._data: dict[str, str] = {}
        self._sweeps: dict[str, Cells] = {}
        self._trained = 0
        self._runs: dict[str, Run] = {}
        self._values: dict[tuple[str, str], dict[str, Any]] = {}
        self._tables: dict[tuple[str, str], dict[str, dict[str, pd.DataFrame]]] = {}
        self._figures: dict[str, dict[str, str]] = {}
        self._verdicts: list[dict[str, Any]] = []
        self._audit: list[dict[str, str]] = []

    def settings(self, **profiles: dict[str, Any]) -> SimpleNamespace:
        """Return this profile's settings; a parameter of the same name that is not 0 or "" or [] replaces one.

        The report shows them as the notebook leaves them.
        """
        chosen, self._paper = profiles[self.profile], profiles["paper"]
        self._settings = SimpleNamespace(**{name: self.parameters.get(name) or value for name, value in chosen.items()})
        return self._settings

    @property
    def scale(self) -> str:
        """In words, which settings make this another scale than the document's; "" at its own, with few seeds, too."""
        return printing.scale(vars(self._settings), self._paper)

    def dataset(self, name: str) -> str:
        """Return the data set to train on: `name`, or the embedded one in its place.

        smoke: always the embedded one. quick: the real one where it is or can be downloaded, else the embedded
        one with a banner. paper: the real one. Raises DataError where the real one is demanded and not to be had.
        """
        chosen = self._choose_data(name)
        self._data[chosen] = loading.CANONICAL[chosen]
        if chosen != name:
            self.banner = (
                f"These numbers come from scikit-learn's bundled digits ({chosen}), not from {name}: "
                f"they show that everything runs, and say nothing about the document. {self._why}".strip()
            )
        return chosen

    def images(self, name: str) -> loading.Images | None:
        """Return a data set to look at; where it cannot be had, say why and return None."""
        try:
            return loading.load(name)
        except loading.DataError as error:
            print(f"{error}\nThe stored results are shown without a look at the data.")
            return None

    def _choose_data(self, name: str) -> str:
        wanted = self.parameters["data"]
        if self.profile == "smoke" or wanted == "embedded":
            return loading.embedded(name)
        if loading.present(name) or self.train == "never":
            return name
        try:
            loading.download(name)
        except loading.DataError as error:
            if wanted == "real":
                raise
            if self.profile == "quick" and not self._has_real_page():
                self._why = str(error)
                return loading.embedded(name)
            print(text := f"{error}. Stored runs are shown, nothing is trained.")
            files.notes.append(text)
            self.train = self.parameters["train"] = "never"
        return name

    def _has_real_page(self) -> bool:
        return summaries.read(self.folder / f"{self.name}.json").get("banner") == ""

    def sweep(self, cells: Mapping[Label, Sequence[Run]], title: str) -> Cells:
        """Return the Results of cells of runs, after training those that are not stored (with train "missing").

        The first run of every cell comes first, then the second: interrupted, all cells have about as many. A table's
        last cells, mostly of its largest networks, begin each round: at a sweep's end the small ones fill all workers.
        """
        rounds = itertools.zip_longest(*reversed(list(cells.values())))
        runs = {run.digest: run for group in rounds for run in group if run is not None}
        self._runs |= runs
        missing = sum(self.store.get(run) is None for run in runs.values())
        options = engine(self.device, self.workers) | {"yes": self.parameters["yes"]}
        results = sweep(runs.values(), store=self.store, train=self.train, title=title, **options)
        self._trained += missing - results.count(None)
        found = dict(zip(runs, results, strict=True))
        swept = Cells({label: [found[run.digest] for run in group] for label, group in cells.items()}, cells)
        self._sweeps[title] = swept
        return swept

    def watch(self, run: Run, metric: str = "train_loss") -> Any:
        """Return the figure of one run's curve, drawn live where somebody watches while it trains here."""
        self._runs[run.digest] = run
        options = engine(self.device, self.workers) | {"yes": self.parameters["yes"], "train": self.train}
        shown, trained = watch(run, metric, self.store, **options)
        self._trained += trained
        return shown

    def compare(
        self,
        values: Mapping[str, Mapping[Label, Any]],
        source: str,
        table: str,
        metric: str,
        digits: int = 2,
        form: str = "f",
    ) -> pd.DataFrame:
        """Return published beside own numbers for printing, and keep them for the report and the verdicts.

        Where ours were trained at another scale, show above them how like they are, and a table's first time at which.

        values: protocol ("" where there is one only) -> (row, column) -> one value per run, NaN for a diverged
        one; a plain number is exact. source, table, metric: as in data/published/results.csv. form: how our numbers
        are written: "f" with `digits` after the point, "g" with so many in all (1.12e-05).
        """
        texts, alike = [], {}
        for protocol, cells in values.items():
            exact = all(np.ndim(cell) == 0 for cell in cells.values())
            other = {"other_scale": bool(self.scale) and not exact}
            frame = comparison.compare(cells, source, table, metric, protocol=protocol, exact=exact, **other)
            self._tables.setdefault((source, table), {}).setdefault(protocol, {})[metric] = frame
            self.keep(cells, table, metric, protocol)
            text = printing.comparison(frame, exact, protocol, f".{digits}{form}")
            texts.append(text.drop(columns="published") if texts else text)
            if frame["verdict"].eq(OTHER_SCALE).any():
                alike[protocol] = comparison.likeness(frame)
        if alike:
            said = [f"{protocol}: {text}.".removeprefix(": ") for protocol, text in alike.items() if text]
            others = any(of_metric.keys() - {metric} for of_metric in self._tables[source, table].values())
            display(Markdown("\n\n".join(said if others else [self.scale, *said])))
        return pd.concat(texts, axis=1).fillna("")

    def keep(self, cells: Mapping[Label, Any], table: str, metric: str, protocol: str = "") -> None:
        """Keep numbers that a claim refers to and that stand in no printed table."""
        known = self._values.setdefault((protocol, metric), {})
        known |= {f"{table}:{row}:{column}": cell for (row, column), cell in cells.items()}

    def agreement(self, source: str, table: str) -> pd.DataFrame:
        """Return one row a protocol: how many of a compared table's cells agree, and the mean distance of means.

        At another scale than the document's also how many are of that, of which none agrees or differs.
        """
        lines = {}
        for protocol, frame in self._by_protocol(source, table).items():
            distance = (frame["ours"] - frame["published"]).abs().mean()
            counts = summaries.counts(frame["verdict"])
            counts |= {OTHER_SCALE: frame["verdict"].eq(OTHER_SCALE).sum()} if self.scale else {}
            lines[protocol] = {"cells": int(frame["verdict"].ne("").sum())} | counts | {"mean distance": distance}
        return pd.DataFrame(lines).T.rename_axis("protocol")

    def _by_protocol(self, source: str, table: str) -> dict[str, pd.DataFrame]:
        of_table = self._tables[source, table]
        return {protocol: pd.concat(of_metric.values(), ignore_index=True) for protocol, of_metric in of_table.items()}

    def judge(
        self, claims: Sequence[str], protocols: Sequence[str] = ("",), untried: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """Return the verdicts on claims, each under each protocol that tries it, as one family; once a notebook.

        untried: claim -> why the runs of this scale cannot try it; it is not judged and no part of the family.

        The means must have been kept by `compare` or `keep` under the claim's metric. A protocol tries a claim when
        each of its left-hand sides that was kept under any protocol was kept under this one.
        """
        self._verdicts, untried = [], untried or {}
        if unknown := untried.keys() - set(claims):
            raise ValueError(f"untried claims are among those that are judged, {', '.join(claims)}; not {unknown}")
        asked = [documents.claim(name) for name in claims]
        questions = []
        for claim in asked:
            kept = {protocol: self._values.get((protocol, claim.metric), {}) for protocol in protocols}
            sides = {lhs for lhs, _ in claim.pairs if any(lhs in cells for cells in kept.values())}
            tried = [protocol for protocol in protocols if sides and sides <= kept[protocol].keys()]
            cells_of = {p: {} if claim.id in untried else kept[p] for p in tried or protocols[:1]}
            questions += [statistics.Question(claim, cells, protocol) for protocol, cells in cells_of.items()]
        statements = {claim.id: claim for claim in asked}
        for verdict in statistics.judge(questions):
            claim = statements[verdict.id]
            about = {"source": claim.source, "statement": claim.statement, "unit": "ratio"}
            if verdict.scale == "difference":
                points = claim.metric.endswith(("accuracy", "error"))
                about["unit"] = "points" if points else f"difference in {claim.metric.replace('_', ' ')}"
            if verdict.id in untried:
                about |= {"verdict": "not tried", "note": untried[verdict.id]}
            elif verdict.verdict == "undecided" and (verdict.n < 2 or verdict.comparisons < len(claim.pairs)):
                about["verdict"] = "too few runs"
            self._verdicts.append(asdict(verdict) | about)
        return printing.verdicts(self._verdicts)

    def verdict(self, claim: str) -> str:
        """Return in words what `judge` found about a claim, protocol by protocol, or "not judged here"."""
        return printing.verdict([line for line in self._verdicts if line["id"] == claim])

    def audit(self, findings: Sequence[tuple[str, str, str]]) -> Styler:
        """Return the flaws of the document's protocol as a table, and keep them for the summary; once a notebook.

        findings: (finding, text, change): a short name, what is wrong, and what changes without it as measured in
        this notebook, or "not measured: why". Raises ValueError where one of the three is missing.
        """
        for finding in findings:
            if len(finding) != 3 or not all(isinstance(text, str) and text.strip() for text in finding):
                raise ValueError(f"a finding is three texts (finding, text, change), none of them empty: {finding!r}")
        self._audit = [dict(zip(("finding", "text", "change"), finding, strict=True)) for finding in findings]
        return printing.audit(findings)

    def figure(self, figure: Any, name: str, title: str, alt: str) -> Any:
        """Save a figure as PNG and SVG, close it, and return it for display with caption and alternative text.

        A figure in which nothing is drawn is a text that says so.
        """
        from deepnets_utils.reports import figures

        if not any(map(figures.has_data, figure.axes)):
            figures.plt.close(figure)
            return HTML(f"<p>{escape(title)}: none of its runs is stored yet, or all have diverged.</p>")
        file = self.figures_folder / f"{self.name}_{name}.png"
        pictures = {ending: figures.rendered(figure, ending) for ending in ("png", "svg")}
        figures.plt.close(figure)
        for ending, picture in pictures.items():
            write_whole(file.with_suffix(f".{ending}"), lambda stream, picture=picture: stream.write(picture))
        place = Path(os.path.relpath(file, self.folder)).as_posix()
        self._figures[name] = {"file": place, "title": title, "alt": alt}
        return figures.embedded(pictures["png"], title, alt)

    def finish(self, later: int = 0) -> HTML:
        """Write tables, verdicts, the list of runs and, last, the summary by which a report knows of success.

        later: runs that cannot be planned before others are there. Returns the cost of each cell for display.
        """
        results = {digest: result for digest, run in self._runs.items() if (result := self.store.get(run))}
        missing = [run for digest, run in self._runs.items() if digest not in results]
        known = itertools.chain(results.values(), self.store.results())
        times = estimates(missing, known, self.device) if missing else []
        seconds = {run.digest: time for run, time in zip(missing, times, strict=True)}
        cost = costs(self._sweeps, seconds)
        write_text(self.folder / f"tables/{self.name}_cost.csv", cost.to_csv(index=False))
        listed = "".join(f"{canonical(run.to_json())}\n" for run in self._runs.values())
        write_text(self.folder / f"{self.name}.runs.jsonl", listed)
        summary = {
            "study": self.name,
            "title": self.title,
            "profile": self.profile,
            "label": self.label,
            "token": os.environ.get("DEEPNETS_REPORT_TOKEN", ""),
            "parameters": self.parameters,
            "settings": vars(self._settings),
            "scale": self.scale,
            "banner": self.banner,
            "notes": list(dict.fromkeys(files.notes)),
            "data": [
                {"name": name, "fingerprint": fingerprint, "embedded": name == loading.embedded(name)}
                for name, fingerprint in self._data.items()
            ],
            "device": self.device,
            "runs": {
                "total": len(self._runs),
                "missing": len(missing),
                "missing_seconds": float(np.nansum(times)),
                "missing_unknown": int(np.isnan(times).sum()),
                "missing_on": self.device,
                "later": later,
                "trained": self._trained,
                "diverged": sum(result.status == "diverged" for result in results.values()),
            }
            | {
                key: sum(result.provenance[key] for result in results.values())
                for key in ("cpu_seconds", "wall_seconds")
            },
            "tables": [
                summaries.table(*of, protocol, frame)
                for of in self._tables
                for protocol, frame in self._by_protocol(*of).items()
            ],
            "figures": list(self._figures.values()),
            "claims": self._verdicts,
            "audit": self._audit,
            "finished_at": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        summaries.write(self.folder, summary)
        end_workers()
        if not self._sweeps:
            return HTML("No runs of its own.")
        link = f'<a href="tables/{self.name}_cost.csv">tables/{self.name}_cost.csv</a>'
        about = f"<p>{said}.</p>" if (said := summaries.missing(summary["runs"])) else ""
        return HTML(
            f"<details><summary>The cost of each cell ({link})</summary>{cost.to_html(index=False)}</details>{about}"
        )
