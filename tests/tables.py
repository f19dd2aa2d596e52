"""Tables as a sweep gives them, from numbers: what tests of comparisons and claims begin with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

LABELS = {"row": "row", "column": "column", "value": "value"}


def table_of(cells: Mapping[tuple[str, str], Any], protocol: str = "") -> pd.DataFrame:
    """Return one row a run: its labels, status and value; NaN is a diverged run, an empty cell a missing one."""
    lines = []
    for (row, column), numbers in cells.items():
        values = np.asarray(numbers, dtype=float).reshape(-1)
        of = [("diverged" if np.isnan(value) else "finished", value) for value in values] or [("missing", np.nan)]
        lines += [(row, column, protocol, *line) for line in of]
    return pd.DataFrame(lines, columns=["row", "column", "protocol", "status", "value"])


def tables_of(protocols: Mapping[str, Mapping[tuple[str, str], Any]]) -> pd.DataFrame:
    """Return `table_of` each protocol, one below the other."""
    return pd.concat([table_of(cells, protocol) for protocol, cells in protocols.items()], ignore_index=True)
