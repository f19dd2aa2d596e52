"""Cells of runs: what a table's cells are made of, and what they cost."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from deepnets_utils.runs.run import Result, Run

Label = tuple[str, str]


class Cells:
    """Cells of runs: each label, (row, column) of a table, with one Result a run (None where it is missing).

    planned: the runs, label by label in the same order.
    """

    def __init__(
        self, results: Mapping[Label, list[Result | None]], planned: Mapping[Label, Sequence[Run]] | None = None
    ) -> None:
        self.results, self.planned = dict(results), dict(planned or {})

    def metric(self, name: str) -> dict[Label, np.ndarray]:
        """Return each cell's values of a metric or of a provenance number, float [runs].

        NaN for a diverged run (not for the learning rate that it found); a run that is missing is left out.
        """
        return {
            label: np.array([_number(result, name) for result in results if result is not None], dtype=float)
            for label, results in self.results.items()
        }

    def exact(self, name: str) -> dict[Label, float]:
        """Return each cell's one value, for runs in which nothing is random; a cell without it is left out."""
        return {label: float(values[0]) for label, values in self.metric(name).items() if len(values)}

    def history(self, name: str) -> pd.DataFrame:
        """Return one row an epoch and run: row, column, seed, epoch (from 1) and `value` of that history."""
        lines = [
            (*label, result.run.seed, epoch, value)
            for label, results in self.results.items()
            for result in results
            if result is not None
            for epoch, value in enumerate(result.history.get(name, []), 1)
        ]
        return pd.DataFrame(lines, columns=["row", "column", "seed", "epoch", "value"])


def costs(sweeps: Mapping[str, Cells], missing_seconds: Mapping[str, float]) -> pd.DataFrame:
    """Return one row a cell: runs stored, missing and diverged, mean CPU and wall seconds a run, device.

    missing_seconds: of every missing run by its digest, NaN where unknown; summed in the column of the same name, in
    which NaN is a sum with an unknown part.
    """
    lines = []
    for title, cells in sweeps.items():
        for (row, column), results in cells.results.items():
            stored = [result for result in results if result is not None]
            lacking = [run for run in cells.planned[row, column] if run.digest in missing_seconds]
            lines.append(
                {
                    "sweep": title,
                    "row": row,
                    "column": column,
                    "n": len(stored),
                    "missing": len(results) - len(stored),
                    "diverged": sum(result.status == "diverged" for result in stored),
                    "cpu_seconds_a_run": np.mean([_number(result, "cpu_seconds") for result in stored] or np.nan),
                    "wall_seconds_a_run": np.mean([_number(result, "wall_seconds") for result in stored] or np.nan),
                    "missing_seconds": sum(missing_seconds[run.digest] for run in lacking),
                    "device": ", ".join(sorted({result.provenance["device"] for result in stored})),
                }
            )
    return pd.DataFrame(lines)


def _number(result: Result, name: str) -> float:
    if name in result.provenance:
        return result.provenance[name]
    if result.status == "diverged":
        return result.metrics.get(name, np.nan)
    return result.metrics[name]
