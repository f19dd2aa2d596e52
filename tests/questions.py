"""Claims of made-up runs: what tests of verdicts begin with."""

import math

import numpy as np

from deepnets_utils.results.documents import Claim
from deepnets_utils.results.verdicts import Question, judge


def make(kind, margin="", metric="test_error", pairs=1, id="study.claim"):
    cells = tuple((f"table:lhs {i}:x", f"table:rhs {i}:x") for i in range(pairs))
    return Claim(id, "study", "Table", "A statement", kind, metric, cells, margin)


def cells(*pairs):
    """Cells of a claim of `make`: one (lhs, rhs) a pair, None = no such cell."""
    named = {}
    for i, (lhs, rhs) in enumerate(pairs):
        named |= {f"table:lhs {i}:x": lhs, f"table:rhs {i}:x": rhs}
    return {ref: values for ref, values in named.items() if values is not None}


def verdict(kind, *pairs, margin="", metric="test_error"):
    asked = make(kind, margin, metric, len(pairs))
    return judge([Question(asked, cells(*pairs))])[0]


def watched(draws, end):
    return np.where(draws <= end, draws, math.inf)
