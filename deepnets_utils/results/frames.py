"""Tidy tables: one row a run, one row an epoch, and what is read from them.

A table of runs has a column a factor, then `status`, `digest`, a column a metric, and where the run was trained.
Status is "finished", "diverged" or "missing"; metrics of the last two are NaN, but for the range test of a diverged
run.
"""

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from deepnets_utils.data.tasks import build_task
from deepnets_utils.results.statistics import summary
from deepnets_utils.runs.run import Result, Run

WORDS = ("status", "digest", "device", "path", "weights_sha256", "teacher_weights_sha256")  # columns of texts
ORIGIN = ("cpu_seconds", "wall_seconds", *WORDS[2:])
SEEDS = ("seed", "data_seed")  # factors that runs of one cell differ in


def plan(make: Callable[..., Run | None], factors: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Return one row a combination of the factors' values, with its `run`: make(**values), or None for no such row."""
    if taken := {"run", "epoch", "sweep", *WORDS, *ORIGIN} & factors.keys():
        raise ValueError(f"a factor cannot be called {', '.join(sorted(taken))}: a table of runs has such a column")
    listed = {name: list(of) for name, of in factors.items()}
    if empty := [name for name, of in listed.items() if any(value is None for value in of)]:
        raise ValueError(f"a value of factor {empty[0]} is None, which tables take for missing: give it a name")
    rows = [dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())]
    planned = [row | {"run": run} for row in rows if (run := make(**row)) is not None]
    return pd.DataFrame(planned, columns=[*factors, "run"])


def tidy(planned: pd.DataFrame, results: Iterable[Result | None], metrics: Iterable[str] = ()) -> pd.DataFrame:
    """Return the table of the runs of a `plan`, one row each in this order.

    The columns of the metrics that such runs have at least are there without any stored run, too. metrics: the columns
    of a table without rows, for there no run says which it would have.
    """
    factors, lines = planned.drop(columns="run"), []
    for run, result in zip(planned["run"], results, strict=True):
        line = {"status": "missing", "digest": run.digest} | dict.fromkeys(_metrics(run), np.nan)
        if not isinstance(run.learning_rate, str):
            line["learning_rate"] = run.learning_rate
        if result is not None:
            origin = {name: result.provenance.get(name) for name in ORIGIN}
            line |= {"status": result.status} | result.metrics | origin
        lines.append(line)
    found = pd.DataFrame(lines)
    measured = [name for name in found if name not in (*factors, *WORDS, *ORIGIN)]
    found = found.reindex(columns=[*WORDS[:2], *measured, *ORIGIN])
    if not lines:
        found = found.reindex(columns=[name for name in dict.fromkeys([*found, *metrics]) if name not in factors])
    types = dict.fromkeys(found.columns[found.isna().all()], float) | dict.fromkeys(WORDS, object)
    return factors.join(found.astype(types))


def _metrics(run: Run) -> list[str]:
    """Return the metrics that a finished run has at least."""
    learned = build_task(run.task)
    names = ["learning_rate", *(f"test_{measure}" for measure in (*learned.measures, *getattr(learned, "lists", ())))]
    if run.learning_rate is None:
        names += [f"{split}_{name}" for split in ("train", "test") for name in getattr(learned, "described", ())]
    if isinstance(run.learning_rate, str):
        names.append("range_test_losses")
    if run.keep_best:
        names += ["selected_epoch", *(f"selected_test_{measure}" for measure in learned.measures)]
    if run.gradient_steps:
        names.append("gradient_norms")
    return names


def factors_of(table: pd.DataFrame) -> list[str]:
    """Return the columns before `status`."""
    return list(table.columns[: table.columns.get_loc("status")])


def curves(table: pd.DataFrame, results: Mapping[str, Result], names: Sequence[str]) -> pd.DataFrame:
    """Return one row an epoch of each stored run: its factors, `status`, `epoch` (from 1) and the histories by name.

    The index is the run's in `table`, so that what is read from its epochs can be joined to it; ValueError where two
    rows have one, and where no run has one of these histories. results: by digest. A history that a run does not have
    is NaN; one named as a factor takes its place.
    """
    if not table.index.is_unique:
        raise ValueError("each run needs an index of its own: give pd.concat ignore_index=True")
    known = {name for result in results.values() for name in result.history}
    if known and not known & set(names):
        raise ValueError(f"no history is called {', '.join(names)}; there are {', '.join(sorted(known))}")
    parts = []
    for place, digest in table["digest"].items():
        if (result := results.get(digest)) is not None:
            length = max(map(len, result.history.values()), default=0)
            part = {name: pd.Series(result.history.get(name, []), dtype=float).reindex(range(length)) for name in names}
            parts.append(pd.DataFrame({"epoch": range(1, length + 1)} | part).set_axis([place] * length))
    long = pd.concat(parts) if parts else pd.DataFrame(columns=["epoch", *names], dtype=float)
    factors = [name for name in factors_of(table) if name not in names]
    return table[[*factors, "status"]].join(long, how="inner")


def at_best(curves: pd.DataFrame, on: str) -> pd.DataFrame:
    """Return the epoch of each finished run in which `on` is lowest, the first of equal ones; indexed as its run."""
    finished = curves[(curves["status"] == "finished") & curves[on].notna()]
    ordered = finished.sort_values([on, "epoch"], kind="stable")
    return ordered[~ordered.index.duplicated()].sort_index()


def converged(curves: pd.DataFrame, on: str, points: float = 0.0, factor: float = 1.0) -> pd.Series:
    """Return each finished run's first epoch with `on` at most `factor` times its lowest value and `points` more."""
    finished = curves[curves["status"] == "finished"]
    lowest = finished.groupby(level=0)[on].transform("min")
    return finished[finished[on] <= factor * lowest + points].groupby(level=0)["epoch"].min()


def reached(curves: pd.DataFrame, on: str, level: float) -> pd.Series:
    """Return each finished run's first epoch with `on` at most `level`, infinite where there is none."""
    finished = curves[curves["status"] == "finished"]
    hits = finished[finished[on] <= level].groupby(level=0)["epoch"].min()
    return hits.astype(float).reindex(finished.index.unique(), fill_value=np.inf)


def values(table: pd.DataFrame, metric: str, **labels: Any) -> np.ndarray:
    """Return a column's values of the stored runs with these labels, float [runs]; NaN of a diverged run.

    In a table without `status`, as of what is counted, all rows are there.
    """
    if table.empty:  # no run before it said what it would have measured
        return np.array([])
    if metric not in table:
        raise ValueError(f"no column is called {metric!r}; there are {', '.join(map(str, table.columns))}")
    chosen = table.get("status", pd.Series("", table.index)) != "missing"
    for name, label in labels.items():
        chosen &= table[name] == label
    return table.loc[chosen, metric].to_numpy(dtype=float)


def cells(table: pd.DataFrame, metric: str, by: Sequence[str]) -> dict[tuple[Any, ...], np.ndarray]:
    """Return (labels of `by`) -> `values`, in order of appearance; empty where no run of a cell is stored."""
    groups = table.groupby(list(by), sort=False, dropna=False)
    return {label: values(group, metric) for label, group in groups}


def describe(table: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Return one row a cell: `statistics.Summary` of a column, as columns, indexed by the labels of `by`."""
    found = cells(table, metric, by)
    summaries = [asdict(summary(cell)) for cell in found.values()]
    frame = pd.DataFrame(summaries, pd.MultiIndex.from_tuples(found, names=by), list(asdict(summary([]))))
    return frame if found else frame.astype(float)


def by_label(
    table: pd.DataFrame, row: str, column: str, value: str, exact: bool
) -> dict[str, dict[tuple[str, str], np.ndarray | float]]:
    """Return protocol -> (row, column) -> one value a run, or where nothing is random (exact) the number.

    row, column: columns with the printed labels; a name that is no column is the label of all rows. Tables without a
    column "protocol" have the one protocol "". Raises ValueError where row or column is a column of numbers.
    """
    constant = {name: name for name in (row, column) if name not in table}
    for name in constant:
        near = difflib.get_close_matches(name, map(str, table.columns), 1, cutoff=0.8)
        if near and " " not in name:
            raise ValueError(f"no column is called {name!r}; did you mean {near[0]!r}?")
    if numbers := [name for name in (row, column) if name in table and is_float_dtype(table[name])]:
        raise ValueError(f"{numbers[0]!r} is a column of numbers; row and column are those of the printed labels")
    found: dict[str, dict[tuple[str, str], np.ndarray | float]] = {}
    labelled = table.assign(**constant, protocol=table.get("protocol", ""))
    for (protocol, *label), cell in cells(labelled, value, ["protocol", row, column]).items():
        found.setdefault(protocol, {})[tuple(label)] = float(cell[0]) if exact and len(set(cell)) == 1 else cell
    return found
