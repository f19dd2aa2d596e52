"""What a network costs: its parameters, and the multiply-adds of one input."""

import math
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deepnets_utils.models.registry import build_model
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.runs.sizes import images_seen, input_shape


@cache
def cost(spec: Spec, shape: tuple[int, int, int] = (3, 32, 32)) -> tuple[int, int]:
    """Return the parameters of a model, and the multiply-adds of one image of `shape` (default: CIFAR-10's)."""
    with torch.device("meta"):
        network = build_model(spec)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # no multiply-adds, and most of the time on this device
            layer.forward = nn.Identity().forward
    return sum(parameter.numel() for parameter in network.parameters()), multiply_adds(network, shape)


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of all convolutions and matrix products for one input of `input_shape` (without batch).

    Counted in a forward pass in training mode, so with auxiliary classifiers, of a network on the meta device.
    """
    with FlopCounterMode(display=False) as counter:
        network.train()(torch.empty(2, *input_shape, device="meta"))  # two: batch norm takes no single image
    return counter.get_total_flops() // 4


def training_operations(run: Run) -> float:
    """Return the multiply-adds of a training: three passes of the network an image, one of its teacher.

    NaN for an estimator, and for a network that does not take such images.
    """
    if run.learning_rate is None:
        return math.nan
    try:
        networks = [*[run.model] * 3, *([run.teacher.model] if run.teacher else [])]
        return float(sum(cost(network, input_shape(run))[1] for network in networks)) * images_seen(run)
    except Exception:  # a notebook's own network raises what it likes, and a page must not fail for a price
        return math.nan
