"""Curves of stored runs, chosen with widgets in JupyterLab; elsewhere a picture of the first choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure

from deepnets_utils.reports import figures
from deepnets_utils.results.frames import SEEDS, factors_of

EVERY = "(all)"


@dataclass(frozen=True)
class Compared:
    """A table that was compared: its columns row and column hold the labels that `frame` (see `compare`) has."""

    name: str
    row: str
    column: str
    frame: pd.DataFrame


class Explorer:
    """Chooses runs by their factors and draws one of their histories; above it stands what is printed for them.

    table: one row a run, as `Study.sweep` returns it. curves(table, name): one row an epoch of the stored ones. train:
    trains the runs of these rows, and returns the table anew; None where nothing is to be trained.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        names: Sequence[str],
        curves: Callable[[pd.DataFrame, str], pd.DataFrame],
        compared: Sequence[Compared],
        train: Callable[[pd.DataFrame], pd.DataFrame] | None,
    ) -> None:
        self.table, self.curves, self.compared, self.train = table, curves, compared, train
        factors = [name for name in factors_of(table) if table[name].nunique() > 1]
        self.factors = {name: list(table[name].unique()) for name in factors}
        open_factor = next((name for name in reversed(factors) if name not in SEEDS), "")
        self.choice = {
            name: EVERY if name in (*SEEDS, open_factor) else values[0] for name, values in self.factors.items()
        }
        self.name, self.names = names[0], names

    def chosen(self) -> pd.DataFrame:
        """Return the rows of the runs that are chosen."""
        rows = pd.Series(True, self.table.index)
        for name, value in self.choice.items():
            rows &= True if isinstance(value, str) and value == EVERY else self.table[name] == value
        return self.table[rows]

    def words(self) -> str:
        """Return the choice in words."""
        return ", ".join(f"{factor} {value}" for factor, value in self.choice.items()) or "all runs"

    def draw(self) -> Figure:
        """Return the figure of the chosen runs that are stored: a line a run, a colour a cell."""
        chosen = self.chosen()
        varied = [name for name in self.factors if name not in SEEDS and chosen[name].nunique() > 1]
        long = self.curves(chosen, self.name)
        named = [name + " " + long[name].astype(str) for name in varied]
        cell = pd.concat(named, axis=1).agg(", ".join, axis=1) if named and len(long) else "chosen"
        long = long.assign(cell=cell, run=long.index).reset_index(drop=True)
        look = dict(hue="cell", style="cell", units="run", estimator=None, height=4, aspect=1.8)
        figure = figures.relplot(long, kind="line", x="epoch", y=self.name, **look)
        levels = long[self.name]
        if len(long) and levels.min() > 0 and not self.name.endswith("accuracy"):  # one that fails presses others flat
            figures.plt.setp(figure.axes, yscale="log")
        return figure

    def said(self) -> str:
        """Return as HTML how many of the chosen runs are stored, and what is printed for their cells beside ours."""
        chosen = self.chosen()
        stored = chosen["status"].ne("missing").sum()
        lines = [f"{stored} of {len(chosen)} chosen runs are stored."]
        for of in self.compared:
            if {of.row, of.column} <= set(chosen):
                label = [of.row, of.column, *(["protocol"] if "protocol" in chosen else [])]
                cells = chosen[label].drop_duplicates().set_axis(["row", "column", "protocol"][: len(label)], axis=1)
                for cell in of.frame[of.frame["printed"].ne("")].merge(cells).itertuples():
                    ours = f"{cell.ours:.4g} (n = {cell.n})" if cell.n else "(not run)"
                    where = f"{of.name}, {cell.row}, {cell.column} {cell.protocol}".rstrip()
                    lines.append(f"{where}: printed {cell.printed}, ours {ours}")
        return "<br>".join(lines)

    def widgets(self) -> widgets.Widget:
        """Return the choices, the picture, which follows them, and a button that trains what is missing."""
        chosen = {
            name: widgets.Dropdown(
                options=[(str(value), value) for value in (EVERY, *values)], value=self.choice[name], description=name
            )
            for name, values in self.factors.items()
        }
        chosen["history"] = widgets.Dropdown(options=self.names, value=self.name, description="history")
        button = widgets.Button(description="Train what is missing", disabled=self.train is None)

        def show(history: str, **choice: Any) -> None:
            self.name, self.choice = history, choice
            display(HTML(self.said()))
            if self.chosen()["status"].ne("missing").any():
                figure = self.draw()
                display(figures.embedded(figures.rendered(figure, "png"), self.name, f"{self.name} over epochs"))
                figures.plt.close(figure)

        picture = widgets.interactive(show, **chosen)

        def train(_: widgets.Button) -> None:
            with picture.out:
                self.table = self.train(self.chosen())
            picture.update()

        button.on_click(train)
        row = widgets.HBox(list(chosen.values()), layout={"flex_flow": "row wrap"})
        return widgets.VBox([row, button, picture.out])
