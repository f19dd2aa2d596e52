"""What a network costs: its parameters, and the multiply-adds of one input."""

import copy
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.estimates import images_seen
from deepnets_utils.models import build_model
from deepnets_utils.runs import Run, Spec


@cache
def cost(spec: Spec, input_shape: tuple[int, ...] = (3, 32, 32)) -> tuple[int, int]:
    """Return the parameters of a model, and the multiply-adds of one input (without batch; CIFAR-10's shape)."""
    with torch.device("meta"):
        network = build_model(spec)
    return sum(parameter.numel() for parameter in network.parameters()), multiply_adds(network, input_shape)


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of all Conv2d and Linear modules for one input of `input_shape` (without batch).

    Counted in a forward pass in training mode, so with auxiliary classifiers, of a copy of the network on the meta
    device: nothing is computed, nothing is changed.
    """
    counted = 0

    def count(layer: Any, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        nonlocal counted
        counted += outputs.numel() * layer.weight[0].numel()

    copied = copy.deepcopy(network).to("meta").train()
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.forward = lambda features: features  # not counted, and most of the time on the meta device
    copied(torch.empty(1, *input_shape, device="meta"))
    return counted


def training_operations(run: Run) -> float:
    """Return the multiply-adds of a training: three passes of the network an image, one of its teacher.

    NaN for an estimator, and for a network that does not take images of `cost`'s shape.
    """
    if run.learning_rate is None:
        return math.nan
    return (3 * _once(run.model) + (_once(run.teacher.model) if run.teacher else 0)) * images_seen(run)


@cache
def _once(model: Spec) -> float:
    try:
        return float(cost(model)[1])
    except Exception:  # a notebook's own network raises what it likes, and a page must not fail for a price
        return math.nan
