"""Networks of one shape as one network: every tensor gets a leading dimension of replicas.

A small network leaves a GPU idle between its kernels. R of them take the same kernels once, on tensors R times as
large: a convolution with R groups, a batched matrix product, batch norm over all their channels side by side.

torch.vmap of functional_call would do it in a few lines, with the same numbers and, without batch norm, in the
same time; with batch norm a step took 1.3 to 1.4 times as long (10 replicas, on a CPU).
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepnets_utils.models.siamese import PairLogits, ResidualBlock, Siamese


def stackable(network: nn.Module) -> bool:
    """Return whether every layer is known here. Dropout is not: its masks could not be those of a network alone."""
    return all(map(_known, network.modules()))


def _known(layer: nn.Module) -> bool:
    if type(layer) in (nn.Sequential, nn.ModuleList, Siamese, ResidualBlock, nn.ReLU, nn.AdaptiveAvgPool2d):
        return True
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.MaxPool2d:
        return not layer.return_indices
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    if type(layer) is nn.Conv2d:
        return layer.bias is not None and layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear and layer.bias is not None


class StackedNetwork:
    """R networks of one shape as one: inputs [R, N, ...] to outputs [R, N, ...], each replica with its own weights.

    weights: [R, P], all that is trained; `parameters` are views of it, the leaves of autograd. `buffers`: running
    means and variances [R, C]. Between layers features are [R, N, C, H, W] that lie in memory as [N, R, C, H, W]:
    what convolution, pooling and batch norm want is a view of it.
    """

    def __init__(self, networks: Sequence[nn.Module], device: str) -> None:
        vectors = [nn.utils.parameters_to_vector(network.parameters()).detach() for network in networks]
        self.weights = torch.stack(vectors).to(device)
        self.parameters: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.training = True
        self._first = networks[0]
        self._tensors: dict[nn.Module, dict[str, Tensor]] = {}
        start = 0
        for layers in zip(*(network.modules() for network in networks), strict=True):
            own = self._tensors[layers[0]] = {}
            for name, parameter in layers[0].named_parameters(recurse=False):
                part = self.weights[:, start : start + parameter.numel()].unflatten(1, parameter.shape)
                own[name] = part.detach().requires_grad_()
                self.parameters.append(own[name])
                start += parameter.numel()
            for name, buffer in layers[0].named_buffers(recurse=False):
                if buffer.is_floating_point():
                    own[name] = torch.stack([layer.get_buffer(name) for layer in layers]).to(device)
                    self.buffers.append(own[name])

    def __call__(self, inputs: Tensor) -> Any:
        return self._apply(self._first, inputs)

    def _apply(self, layer: nn.Module, x: Tensor) -> Any:
        own = self._tensors[layer]
        match layer:
            case nn.Sequential():
                return functools.reduce(lambda features, part: self._apply(part, features), layer, x)
            case Siamese():
                first = self._apply(layer.branches[0], x[:, :, :1])
                second = self._apply(layer.branches[-1], x[:, :, 1:])
                comparison = self._apply(layer.head, torch.cat((first, second), 2))
                return PairLogits(comparison, torch.stack((first, second), 2))
            case ResidualBlock():
                return torch.relu(self._apply(layer.layers, x) + x)
            case nn.Conv2d():
                return grouped_convolution(layer, x, own["weight"], own["bias"])
            case nn.Linear():
                return torch.baddbmm(own["bias"][:, None], x, own["weight"].transpose(1, 2))
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                statistics = own["running_mean"].view(-1), own["running_var"].view(-1)
                affine = own["weight"].flatten(), own["bias"].flatten()
                momentum, epsilon = layer.momentum, layer.eps
                return _narrow(F.batch_norm(_wide(x), *statistics, *affine, self.training, momentum, epsilon), len(x))
            case nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
                return _narrow(layer(_wide(x)), len(x))
            case nn.Flatten():
                return x.flatten(2)
        return layer(x)  # ReLU


def _wide(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1, 2)


def _narrow(x: Tensor, replicas: int) -> Tensor:
    return x.unflatten(1, (replicas, -1)).transpose(0, 1)


def grouped_convolution(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x [R, N, C, H, W] with weight [R, O, C, h, w] as one with R groups."""
    geometry = layer.stride, layer.padding, layer.dilation
    return _narrow(F.conv2d(_wide(x), weight.flatten(0, 1), bias.flatten(), *geometry, groups=len(x)), len(x))
