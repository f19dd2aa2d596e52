"""Which runs train together as one Stack, and how many of them."""

import functools
from dataclasses import replace

import torch
from torch import nn

from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run, Spec

GROUP = 64  # runs at most: all lose their work since the last checkpoint when one is interrupted
WEIGHTS = 50_000_000  # of a stack at most; a guess until a card is measured, and what does not fit on one is halved
TARGETS = ("statistic",)  # options of tasks that change the targets, and neither the loss nor a shape


def group_key(run: Run) -> Run | None:
    """Return what runs that train together share, as a Run without what may differ; None for one that trains alone.

    May differ: seed, data_seed (where there is no teacher), the learning rate (not: given or found) and the target
    statistic. Alone train estimators, what a notebook defines, and networks so large that two exceed WEIGHTS.
    """
    if run.learning_rate is None or run.local or group_size(run) < 2:
        return None
    task = replace(run.task, options=tuple(option for option in run.task.options if option[0] not in TARGETS))
    rate = run.learning_rate if isinstance(run.learning_rate, str) else 1.0
    return replace(run, seed=0, data_seed=run.data_seed if run.teacher else 0, learning_rate=rate, task=task)


def group_size(run: Run) -> int:
    """Return how many runs like this one train together at most, 0 for one whose model is no network."""
    parameters = _parameters(run.model)
    return min(GROUP, WEIGHTS // parameters) if parameters else 0


@functools.cache
def _parameters(spec: Spec) -> int:
    try:
        with torch.device("meta"):
            network = build_model(spec)
    except ValueError:  # it fails where it is trained, and no other run with it
        return 0
    return sum(weight.numel() for weight in network.parameters()) if isinstance(network, nn.Module) else 0
