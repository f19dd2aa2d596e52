"""What every notebook says: parameters, settings, sweeps, comparisons, verdicts, figures, finish."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display
from pandas.io.formats.style import Styler

from deepnets_utils.data import downloading, inventory, loading
from deepnets_utils.reports import figures, notebooks, parameters, printing, prose, summaries
from deepnets_utils.reports.comparing import Comparisons
from deepnets_utils.reports.exploring import Explorer
from deepnets_utils.reports.exports import write_tables
from deepnets_utils.reports.parameters import LARGE, PROFILES
from deepnets_utils.reports.watching import watch
from deepnets_utils.results import frames, verdicts
from deepnets_utils.results.documents import Claim
from deepnets_utils.runs import files, paths
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.progress import in_jupyter
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.lists import write_runs
from deepnets_utils.sweeps.sweep import in_rounds, sweep
from deepnets_utils.sweeps.workers import end_workers, engine, resolve


class Study(Comparisons):
    """One execution of a notebook. Everything that it reports goes through this object.

    name: the notebook's name without ending. namespace: the notebook's `globals()`, from which the declared
    parameters are taken. In a script, or a notebook outside notebooks/, there is none: the parameters are those of
    `deepnets new`, given by name, as in Study("scratch", profile="quick"). Raises ParameterError for an unknown name, a
    wrong type or an impossible value, before anything is trained.
    """

    def __init__(self, name: str, namespace: Mapping[str, Any] | None = None, **given: Any) -> None:
        super().__init__()
        self.notebook = notebooks.TEMPLATE if namespace is None else notebooks.notebook_path(name)
        declared = parameters.read_parameters(self.notebook)
        if namespace is not None:
            known = {key: namespace[key] for key in declared if key in namespace}
            given = known | parameters.injected(namespace, declared)
        self.parameters = parameters.check_parameters(declared, given)
        self.name, self.title = name, name if namespace is None else notebooks.read_title(self.notebook)
        self.profile, self.train = self.parameters["profile"], self.parameters["train"]
        # Workers take longer to start than smoke trains.
        workers = self.parameters["workers"] or int(self.profile == "smoke")
        self.device, self.workers = resolve(self.parameters["device"], workers)
        self.folder = parameters.report_folder(self.parameters, declared)
        self.label = self.folder.name.partition("+")[2]
        pd.options.display.max_colwidth = pd.options.display.max_rows = None
        pd.options.display.float_format = "{:.4g}".format
        files.notes.clear()  # what an earlier execution in this kernel said
        self.store = Store()
        self._settings: dict[str, SimpleNamespace] = {}
        self._data: dict[str, dict[str, Any]] = {}
        self._sweeps: dict[str, pd.DataFrame] = {}
        self._trained = 0
        self._runs: dict[str, Run] = {}
        self._figures: dict[str, dict[str, str]] = {}
        self._verdicts: list[dict[str, Any]] = []
        self._audit: list[dict[str, str]] = []
        self._findings = ""

    def settings(self, **settings: Any) -> SimpleNamespace:
        """Return this profile's settings; a parameter of the same name that is not 0 or "" or [] replaces one.

        A setting is one value of all profiles, or a tuple of smoke's, quick's, overnight's and paper's; ValueError for
        another number of them.
        """
        for name, of in settings.items():
            if isinstance(of, tuple) and len(of) != len(PROFILES):
                raise ValueError(f"setting {name} has {len(of)} values; it takes one, or one each of {PROFILES}")
        for number, profile in enumerate(PROFILES):
            chosen = {name: of[number] if isinstance(of, tuple) else of for name, of in settings.items()}
            self._settings[profile] = SimpleNamespace(**chosen)
        own = vars(self._settings[self.profile])
        self._settings["here"] = SimpleNamespace(**{name: self.parameters.get(name) or own[name] for name in own})
        return self._settings["here"]

    def settings_of(self, profile: str) -> SimpleNamespace:
        """Return a profile's settings; of "here" those of this execution, as the notebook left them."""
        return self._settings.get(profile, SimpleNamespace())

    def settings_table(self) -> pd.DataFrame:
        """Return one row a setting and one column a profile, before them what holds here."""
        return pd.DataFrame({name: vars(self._settings[name]) for name in ("here", *PROFILES)}, dtype=object)

    @property
    def scale(self) -> str:
        """In words, which settings make this another scale than the document's; "" at its own, with few seeds, too."""
        return printing.scale(vars(self.settings_of("here")), vars(self.settings_of("paper")))

    def dataset(self, name: str) -> str:
        """Return the data set to train on: `name`, or the embedded one in its place.

        smoke: always the embedded one. quick: the real one where it is or can be downloaded, else the embedded one
        with a banner. overnight, paper, and quick where a page of the real data is there: the real one; where it is
        not to be had, stored runs are shown and nothing is trained. Raises DataError where `data` demands the real one.
        """
        chosen, why = name, ""
        if self.profile == "smoke" or self.parameters["data"] == "embedded":
            chosen = inventory.embedded(name)
        elif self.train != "never":
            try:
                downloading.provide(name)
            except DataError as error:
                if self.parameters["data"] == "real":
                    raise
                real_page = summaries.read(self.folder / f"{self.name}.json").get("banner") == ""
                if self.profile == "quick" and not real_page:
                    chosen, why = inventory.embedded(name), f" {error}"
                else:
                    files.notes.append(f"{error}. Stored runs are shown, nothing is trained.")
                    print(files.notes[-1])
                    self.train = self.parameters["train"] = "never"
        embedded = chosen == inventory.embedded(chosen)
        self._data[chosen] = {"name": chosen, "fingerprint": CANONICAL[chosen], "embedded": embedded}
        if chosen != name:
            self.banner = (
                f"These numbers come from scikit-learn's bundled digits ({chosen}), not from {name}: "
                f"they show that everything runs, and say nothing about the document.{why}"
            )
        return chosen

    def images(self, name: str) -> loading.Images | None:
        """Return a data set to look at; where it cannot be had, say why and return None."""
        try:
            return loading.load(name)
        except DataError as error:
            print(f"{error}\nThe stored results are shown without a look at the data.")
            return None

    def sweep(self, make: Callable[..., Run | None], /, title: str, **factors: Iterable[Any]) -> pd.DataFrame:
        """Return the table of all combinations of the factors' values, one row a run; train those that are missing.

        make: called with one value of each factor, it returns the Run, or None where the study has none. title: of the
        progress, and in the table of costs. The columns are those of `frames.tidy`; a table without rows has those of
        the metrics of the sweeps before it.
        The first run of every cell comes first, then the second: interrupted, all cells have about as many. A table's
        last cells, mostly of its largest networks, begin each round: at a sweep's end the small ones fill all workers.
        """
        planned = frames.plan(make, factors)
        ordered = in_rounds(planned["run"], last_cell_first=True)
        self._runs |= {run.digest: run for run in ordered}
        found = dict(zip(ordered, self._results(ordered, title), strict=True))
        known = [name for table in self._sweeps.values() for name in table.columns[len(frames.factors_of(table)) :]]
        self._sweeps[title] = frames.tidy(planned, map(found.get, planned["run"]), known)
        return self._sweeps[title]

    def _results(self, runs: Sequence[Run], title: str) -> list[Result | None]:
        """Return the result of each run; train those that are missing."""
        missing = sum(self.store.get(run) is None for run in runs)
        found = sweep(runs, store=self.store, title=title, **self._options())
        self._trained += missing - found.count(None)
        return found

    def _options(self) -> dict[str, Any]:
        """Return where a sweep trains and whether it does, as its options."""
        return engine(self.device, self.workers) | {"yes": self.parameters["yes"], "train": self.train}

    def plan(self, make: Callable[..., Run | None], /, **factors: Iterable[Any]) -> pd.DataFrame:
        """Return the runs that a sweep would be of, without training: a row each, its factors and the `run`."""
        return frames.plan(make, factors)

    def curves(self, table: pd.DataFrame, *names: str) -> pd.DataFrame:
        """Return one row an epoch of the stored runs of a sweep's table, with these histories; see `frames.curves`."""
        results = {digest: self.store.get(self._runs[digest]) for digest in table["digest"].unique()}
        return frames.curves(table, {digest: result for digest, result in results.items() if result}, names)

    def explore(self, table: pd.DataFrame, name: str, *names: str) -> Any:
        """Return widgets that choose runs of a sweep's table and draw their histories (by name); elsewhere a picture.

        Above it stands what the document prints for these cells, where the table was compared before; what is not
        stored can be trained from there.
        """

        def train(rows: pd.DataFrame) -> pd.DataFrame:
            self._results([self._runs[digest] for digest in rows["digest"]], "explored")
            results = [self.store.get(self._runs[digest]) for digest in table["digest"]]
            return table.assign(status=["missing" if result is None else result.status for result in results])

        compared = [] if self.banner else [each for table in self._compared.values() for each in table.values()]
        explorer = Explorer(table, [name, *names], self.curves, compared, train if self.train == "missing" else None)
        if in_jupyter():
            return explorer.widgets()
        display(HTML(explorer.said()))
        title = f"To be chosen in JupyterLab; here {name.replace('_', ' ')} of {explorer.words()}"
        return self.figure(explorer.draw(), "explore", title, f"{name} over epochs, a line a run")

    def watch(self, run: Run, metric: str = "train_loss") -> Any:
        """Return the figure of one run's curve, drawn live where somebody watches while it trains here."""
        self._runs[run.digest] = run
        shown, trained = watch(run, metric, self.store, **self._options())
        self._trained += trained
        return shown

    def judge(
        self, claims: Sequence[str | Claim], protocols: Sequence[str] = ("",), untried: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """Return the verdicts on claims, each under each protocol that tries it, as one family; once a notebook.

        Above them it shows how many there are of each word. claims: the documents' by id, your own as a `Claim`. The
        numbers must have been kept by `compare` or `keep` under the claim's metric. untried: claim -> why the runs of
        this scale cannot try it. See `verdicts.of_claims`.
        """
        self._verdicts = verdicts.of_claims(claims, self._values, protocols, untried or {})
        words = [line["verdict"] for line in self._verdicts]
        counts = [f"{words.count(word)} × {word}" for word in verdicts.VERDICTS if word in words]
        display(Markdown(f"Verdicts, a claim under a protocol each: {', '.join(counts)}."))
        return printing.verdicts(self._verdicts)

    def verdict(self, claim: str) -> str:
        """Return in words what `judge` found about a claim, protocol by protocol, or "not judged here"."""
        return printing.verdict([line for line in self._verdicts if line["id"] == claim])

    def findings(self, **numbers: Any) -> Markdown:
        """Return what came out, for the head of the page; once a notebook.

        The text is the notebook's Markdown cell tagged "findings". numbers: of its places, see `prose.filled`, which
        raises ValueError. A paragraph with a number that is "(not run)" waits, and is counted.
        """
        paragraphs = prose.filled(self.notebook, "findings", numbers).split("\n\n")
        found = [paragraph for paragraph in paragraphs if printing.NOT_RUN not in paragraph]
        waiting = f"*{len(paragraphs) - len(found)} of {len(paragraphs)} findings wait for runs of this profile.*"
        self._findings = "\n\n".join(found if found == paragraphs else [*found, waiting])
        small = f"Profile {self.profile} shows that everything runs; it proves nothing."
        first = self.scale if self.profile in LARGE else small
        return Markdown("\n\n".join(filter(None, (first and f"*{first}*", self._findings))))

    def audit(self, **numbers: Any) -> Styler:
        """Return what we would change in the document's protocol as a table, and keep it; once a notebook.

        It stands in the notebook's Markdown cell tagged "audit", as a table of three columns: a short name, what the
        document does, and what changes without it as measured in this notebook, or "not measured: why". numbers: of its
        places, see `prose.filled`; what changes is "too few runs" where one is "(not run)". Raises ValueError as
        `prose.filled` does, and for an empty text.
        """
        rows = prose.rows(prose.filled(self.notebook, "audit", numbers))
        findings = [(*of, "too few runs" if printing.NOT_RUN in change else change) for *of, change in rows]
        self._audit = [dict(zip(("finding", "text", "change"), finding, strict=True)) for finding in findings]
        return printing.audit(findings)

    def figure(self, figure: Any, name: str, title: str, alt: str) -> Any:
        """Save a figure as PNG and SVG, close it, and return it for display with caption and alternative text.

        figure: matplotlib's, or a grid of seaborn's. A figure in which nothing is drawn is a text that says so.
        """
        figure = getattr(figure, "figure", figure)
        if not any(map(figures.has_data, figure.axes)):
            figures.plt.close(figure)
            return HTML(f"<p>{escape(title)}: none of its runs is stored yet, or all have diverged.</p>")
        file = paths.output_root() / "figures" / self.folder.name / f"{self.name}_{name}.png"
        for ending in ("svg", "png"):
            picture = figures.rendered(figure, ending)
            files.write_whole(file.with_suffix(f".{ending}"), methodcaller("write", picture))
        figures.plt.close(figure)
        link = Path(os.path.relpath(file, self.folder)).as_posix()
        self._figures[name] = {"file": link, "title": title, "alt": alt}
        return figures.embedded(picture, title, alt)

    def finish(self, later: int = 0) -> HTML:
        """Write tables, verdicts, the list of runs and, last, the summary by which a report knows of success.

        later: runs that cannot be planned before others are there. Returns the cost of each cell for display, and
        links to the tables of runs and of curves.
        """
        results = {digest: result for digest, run in self._runs.items() if (result := self.store.get(run))}
        write_runs(self.folder / f"{self.name}.runs.jsonl", self._runs.values())
        counts, seconds = summaries.runs(self._runs, results, self.store.results(), self.device)
        counts |= {"later": later, "trained": self._trained}
        same = ("title", "profile", "label", "parameters", "scale", "banner", "device")
        summary = {name: getattr(self, name) for name in same} | {
            "study": self.name,
            "settings": vars(self.settings_of("here")),
            "notes": list(dict.fromkeys(files.notes)),
            "data": list(self._data.values()),
            "runs": counts,
            "tables": self.tables(),
            "figures": list(self._figures.values()),
            "claims": self._verdicts,
            "findings": self._findings,
            "audit": self._audit,
        }
        shown = write_tables(self.folder, self.name, self._sweeps, results, seconds)
        summaries.write(self.folder, summary)
        end_workers()
        said = summaries.missing(counts)
        return HTML(f"{shown}<p>{said}.</p>" if said else shown)
