"""What every notebook says: parameters, settings, sweeps, comparisons, verdicts, figures, finish."""

import ast
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from IPython.display import HTML

from deepnets_utils import data, paths, published, statistics
from deepnets_utils.cells import Cells, Label, costs
from deepnets_utils.files import write_whole
from deepnets_utils.parameters import (
    check_parameters,
    notebook_path,
    read_parameters,
    read_title,
    report_folder,
    report_label,
)
from deepnets_utils.progress import watched
from deepnets_utils.runs import Run, canonical
from deepnets_utils.store import Store
from deepnets_utils.sweep import sweep
from deepnets_utils.workers import end_workers, resolve


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
        self.parameters = check_parameters(declared, given | _injected(namespace))
        self.name, self.title = name, read_title(notebook)
        self.profile, self.train = self.parameters["profile"], self.parameters["train"]
        self.device, self.workers = resolve(self.parameters["device"], self.parameters["workers"])
        self.folder = report_folder(self.parameters, declared)
        self.label = report_label(self.parameters, declared)
        self.figures_folder = paths.output_root() / "figures" / self.folder.name
        pd.options.display.max_colwidth = pd.options.display.max_rows = None
        pd.options.display.float_format = "{:.4g}".format
        self.store = Store()
        self.banner = self._why = ""
        self._settings: dict[str, Any] = {}
        self._data: dict[str, str] = {}
        self._sweeps: dict[str, Cells] = {}
        self._trained = 0
        self._runs: dict[str, Run] = {}
        self._values: dict[tuple[str, str], dict[str, Any]] = {}
        self._tables: dict[tuple[str, str], dict[tuple[str, str], pd.DataFrame]] = {}
        self._figures: dict[str, dict[str, str]] = {}
        self._verdicts: list[dict[str, Any]] = []

    def settings(self, **profiles: dict[str, Any]) -> SimpleNamespace:
        """Return this profile's settings; a parameter of the same name that is not 0 or "" or [] replaces one."""
        chosen = profiles[self.profile]
        self._settings = {name: self.parameters.get(name) or value for name, value in chosen.items()}
        return SimpleNamespace(**self._settings)

    def dataset(self, name: str) -> str:
        """Return the data set to train on: `name`, or the embedded one in its place.

        smoke: always the embedded one. quick: the real one where it is or can be downloaded, else the embedded
        one with a banner. paper: the real one. Raises DataError where the real one is demanded and not to be had.
        """
        chosen = self._choose_data(name)
        self._data[chosen] = data.CANONICAL[chosen]
        if chosen != name:
            self.banner = (
                f"These numbers come from scikit-learn's bundled digits ({chosen}), not from {name}: "
                f"they show that everything runs, and say nothing about the document. {self._why}".strip()
            )
        return chosen

    def images(self, name: str) -> data.Images | None:
        """Return a data set to look at; where it cannot be had, say why and return None."""
        try:
            return data.load(name)
        except data.DataError as error:
            print(f"{error}\nThe stored results are shown without a look at the data.")
            return None

    def _choose_data(self, name: str) -> str:
        wanted = self.parameters["data"]
        if self.profile == "smoke" or wanted == "embedded":
            return data.embedded(name)
        if data.present(name) or self.train == "never":
            return name
        try:
            data.download(name)
        except data.DataError as error:
            if wanted == "real":
                raise
            if self.profile == "quick" and not self._has_real_page():
                self._why = str(error)
                return data.embedded(name)
            print(f"{error}\nStored runs are shown, nothing is trained.")
            self.train = "never"
        return name

    def _has_real_page(self) -> bool:
        file = self.folder / f"{self.name}.json"
        return file.exists() and not json.loads(file.read_text())["banner"]

    def sweep(self, cells: Mapping[Label, Sequence[Run]], title: str) -> Cells:
        """Return the Results of cells of runs, after training those that are not stored (with train "missing")."""
        runs = [run for group in cells.values() for run in group]
        self._runs |= {run.digest: run for run in runs}
        missing = self._missing(runs)
        options = {"device": self.device, "workers": self.workers, "yes": self.parameters["yes"]}
        results = iter(sweep(runs, store=self.store, train=self.train, title=title, **options))
        swept = Cells({label: [next(results) for _ in group] for label, group in cells.items()})
        self._sweeps[title] = swept
        self._trained += missing - self._missing(runs) if missing else 0
        return swept

    def _missing(self, runs: Sequence[Run]) -> int:
        return sum(self.store.get(run) is None for run in {run.digest: run for run in runs}.values())

    def watch(self, run: Run, metric: str = "train_loss") -> Any:
        """Return the figure of one run's curve, drawn live where somebody watches while it trains here."""
        from deepnets_utils.figures import LiveCurve

        self._runs[run.digest] = run
        result = self.store.get(run)
        live = watched() and result is None
        curve = LiveCurve(metric, run.epochs, live=live)
        if result is None and self.train == "missing":
            from deepnets_utils.training import train

            taught = {"teacher": self.store.weights(run.teacher)} if run.teacher else {}
            result = train(run, device=self.device, on_epoch=curve, **taught)
            self.store.put(result)
            self._trained += 1
        return None if live else curve.draw(result.history if result else {})

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

        values: protocol ("" where there is one only) -> (row, column) -> one value per run, NaN for a diverged
        one; a plain number is exact. source, table, metric: as in data/published/results.csv. form: how our numbers
        are written: "f" with `digits` after the point, "g" with so many in all (1.12e-05).
        """
        shown = None
        for protocol, cells in values.items():
            exact = all(np.ndim(cell) == 0 for cell in cells.values())
            frame = published.compare(cells, source, table, metric, protocol=protocol, exact=exact)
            self._tables.setdefault((source, table), {})[metric, protocol] = frame
            self.keep(cells, table, metric, protocol)
            text = pd.DataFrame({"row": frame["row"], "column": frame["column"]})
            text["published"] = _texts(frame, ["published", "published_spread", "published_n"], ".10g")
            ours = ["ours", "spread"] if exact else ["ours", "spread", "n"]
            text[f"ours {protocol}".strip()] = _texts(frame, ours, f".{digits}{form}")
            if not exact:
                text[f"95 % {protocol}".strip()] = [
                    "" if np.isnan(low) else f"{low:.{digits}{form}} to {high:.{digits}{form}}"
                    for low, high in zip(frame["low"], frame["high"], strict=True)
                ]
            text[f"verdict {protocol}".strip()] = frame["verdict"]
            text = text.set_index(["row", "column"])
            shown = text if shown is None else shown.join(text.drop(columns="published"))
        return shown

    def keep(self, cells: Mapping[Label, Any], table: str, metric: str, protocol: str = "") -> None:
        """Keep numbers that a claim refers to and that stand in no printed table."""
        known = self._values.setdefault((protocol, metric), {})
        known |= {f"{table}:{row}:{column}": cell for (row, column), cell in cells.items()}

    def agreement(self, source: str, table: str) -> pd.DataFrame:
        """Return one row a protocol: how many of a compared table's cells agree, and the mean distance of means."""
        lines = {}
        for (_, protocol), frame in self._tables[source, table].items():
            distance = (frame["ours"] - frame["published"]).abs().mean()
            counts = {word: int((frame["verdict"] == word).sum()) for word in published.WORDS}
            lines[protocol] = {"cells": len(frame)} | counts | {"mean distance": distance}
        return pd.DataFrame(lines).T.rename_axis("protocol")

    def judge(self, claims: Sequence[str], protocols: Sequence[str] = ("",)) -> pd.DataFrame:
        """Return the verdicts on claims, each under each protocol that tries it, as one family; once a notebook.

        The means must have been kept by `compare` or `keep` under the claim's metric. A protocol tries a claim when
        one of its left-hand sides was kept under it.
        """
        self._verdicts = []
        asked = [published.claim(name) for name in claims]
        questions = []
        for claim in asked:
            kept = {protocol: self._values.get((protocol, claim.metric), {}) for protocol in protocols}
            tried = [protocol for protocol in protocols if any(lhs in kept[protocol] for lhs, _ in claim.pairs)]
            questions += [statistics.Question(claim, kept[p], p) for p in tried or protocols[:1]]
        statements = {claim.id: claim for claim in asked}
        for verdict in statistics.judge(questions):
            claim = statements[verdict.id]
            about = {"source": claim.source, "statement": claim.statement, "unit": verdict.scale}
            self._verdicts.append(asdict(verdict) | about)
        lines = [
            {
                "claim": line["statement"],
                "protocol": line["protocol"],
                "verdict": line["verdict"],
                "effect": "" if np.isnan(line["effect"]) else f"{line['effect']:.3g} ({line['scale']})",
                "95 %": "" if np.isnan(line["low"]) else f"{line['low']:.3g} to {line['high']:.3g}",
                "n": line["n"],
                "note": "; ".join(filter(None, (f"decided by {line['pair']}" if line["n"] else "", line["note"]))),
            }
            for line in self._verdicts
        ]
        return pd.DataFrame(lines).set_index("claim")

    def figure(self, figure: Any, name: str, title: str, alt: str) -> Any:
        """Save a figure as PNG and SVG, close it, and return it for display with caption and alternative text."""
        from deepnets_utils import figures

        file = self.figures_folder / f"{self.name}_{name}.png"
        pictures = {ending: figures.rendered(figure, ending) for ending in ("png", "svg")}
        figures.plt.close(figure)
        for ending, picture in pictures.items():
            write_whole(file.with_suffix(f".{ending}"), lambda stream, picture=picture: stream.write(picture))
        place = Path(os.path.relpath(file, self.folder)).as_posix()
        self._figures[name] = {"file": place, "title": title, "alt": alt}
        return figures.embedded(pictures["png"], title, alt)

    def finish(self) -> HTML:
        """Write tables, verdicts, the list of runs and, last, the summary by which a report knows of success.

        Returns the cost of each cell for display.
        """
        tables = [self._table(source, table) for source, table in self._tables]
        cost = costs(self._sweeps)
        self._write(f"tables/{self.name}_cost.csv", cost.to_csv(index=False))
        self._write(f"{self.name}.runs.jsonl", "".join(f"{canonical(run.to_json())}\n" for run in self._runs.values()))
        results = {digest: result for digest, run in self._runs.items() if (result := self.store.get(run))}
        summary = {
            "study": self.name,
            "title": self.title,
            "profile": self.profile,
            "label": self.label,
            "token": os.environ.get("DEEPNETS_REPORT_TOKEN", ""),
            "parameters": self.parameters,
            "settings": self._settings,
            "banner": self.banner,
            "data": [
                {"name": name, "fingerprint": fingerprint, "embedded": name == data.embedded(name)}
                for name, fingerprint in self._data.items()
            ],
            "device": self.device,
            "runs": {
                "total": len(self._runs),
                "missing": len(self._runs) - len(results),
                "trained": self._trained,
                "diverged": sum(result.status == "diverged" for result in results.values()),
            }
            | {
                key: sum(result.provenance[key] for result in results.values())
                for key in ("cpu_seconds", "wall_seconds")
            },
            "tables": tables,
            "figures": list(self._figures.values()),
            "claims": [
                {key: None if value != value else value for key, value in verdict.items()} for verdict in self._verdicts
            ],
            "finished_at": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        # JSON has no infinity: an interval that reaches it is open on that side.
        text = json.dumps(summary, indent=1).replace("-Infinity", "null").replace("Infinity", "null")
        with FileLock(self.folder / ".claims.lock"):  # studies that finish at once
            self._write_shared(summary)
            self._write(f"{self.name}.json", text)
        end_workers()
        link = f'<a href="tables/{self.name}_cost.csv">tables/{self.name}_cost.csv</a>'
        return HTML(f"<details><summary>The cost of each cell ({link})</summary>{cost.to_html(index=False)}</details>")

    def _table(self, source: str, table: str) -> dict[str, Any]:
        frame = pd.concat(self._tables[source, table].values(), ignore_index=True)
        counts = {word: int((frame["verdict"] == word).sum()) for word in published.WORDS}
        lines = frame.to_csv(index=False, float_format="%.10g").splitlines()
        about = {"file": f"tables/{source}_{table}.csv", "title": f"{source}: {table}", "cells": len(frame)}
        return about | counts | {"columns": lines[0], "rows": lines[1:]}

    def _write_shared(self, summary: dict[str, Any]) -> None:
        """Write what several studies contribute to: the claims, and tables of which each has some metrics."""
        paths_of_others = [path for path in self.folder.glob("[0-9][0-9]_*.json") if path.stem != self.name]
        summaries = [summary, *(json.loads(path.read_text()) for path in paths_of_others)]
        summaries.sort(key=lambda each: each["study"])
        claims = [{"study": each["study"]} | claim for each in summaries for claim in each["claims"]]
        self._write("tables/claims.csv", pd.DataFrame(claims).to_csv(index=False))
        tables = [table for each in summaries for table in each["tables"]]
        for file, columns in {table["file"]: table["columns"] for table in summary["tables"]}.items():
            rows = [row for table in tables if table["file"] == file for row in table["rows"]]
            self._write(file, "\n".join([columns, *rows, ""]))

    def _write(self, file: str, text: str) -> None:
        write_whole(self.folder / file, lambda stream: stream.write(text.encode()))


def _injected(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names and values of the parameters cell as it was run, and of the one that papermill put in.

    The notebook's file declares the parameters; a name that only these cells have is a misspelt one.
    """
    found = {}
    for source in namespace.get("In", []):
        if source.startswith(("# Parameters\n", "profile: str")):
            for node in ast.parse(source).body:
                target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
                if isinstance(target, ast.Name) and target.id in namespace:
                    found[target.id] = namespace[target.id]
    return found


def _texts(frame: pd.DataFrame, columns: Sequence[str], form: str) -> list[str]:
    """Return a text of each line's mean, spread and n (the columns, in this order), leaving out what is missing."""

    def text(mean: float, spread: float, n: float = np.nan) -> str:
        parts = [(mean, f"{{:{form}}}"), (spread, f" ± {{:{form}}}"), (n, " (n={:.0f})")]
        return "" if pd.isna(mean) else "".join(form.format(value) for value, form in parts if not pd.isna(value))

    return [text(*line) for line in frame[list(columns)].itertuples(index=False)]
