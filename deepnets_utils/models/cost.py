"""What a network costs: its parameters, and the multiply-adds of one input."""

import copy
import math
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deepnets_utils.models.registry import build_model
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.runs.sizes import images_seen, input_shape


@cache
def cost(spec: Spec) -> tuple[int, int]:
    """Return the parameters of a model, and the multiply-adds of one image of CIFAR-10's shape."""
    with torch.device("meta"):
        network = build_model(spec)
    return sum(parameter.numel() for parameter in network.parameters()), multiply_adds(network, (3, 32, 32))


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of all convolutions and matrix products for one input of `input_shape` (without batch).

    Counted in a forward pass in training mode, so with auxiliary classifiers, of a copy of the network on the meta
    device: nothing is computed, nothing is changed.
    """
    copied = copy.deepcopy(network).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        copied(torch.empty(2, *input_shape, device="meta"))  # two: batch norm takes no single image
    return counter.get_total_flops() // 4


def training_operations(run: Run) -> float:
    """Return the multiply-adds of a training: three passes of the network an image, one of its teacher.

    NaN for an estimator, and for a network that does not take such images.
    """
    if run.learning_rate is None:
        return math.nan
    shape = input_shape(run)
    once = 3 * _once(run.model, shape) + (_once(run.teacher.model, shape) if run.teacher else 0)
    return once * images_seen(run)


@cache
def _once(model: Spec, shape: tuple[int, int, int]) -> float:
    try:
        with torch.device("meta"):
            return float(multiply_adds(build_model(model), shape))
    except Exception:  # a notebook's own network raises what it likes, and a page must not fail for a price
        return math.nan
