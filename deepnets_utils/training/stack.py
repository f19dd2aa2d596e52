"""Networks of one shape as one: every weight gets a leading dimension of replicas.

A small network leaves a GPU idle between its kernels. R of them take each kernel once, on tensors R times as large.
What trains one network trains a Stack: inputs, outputs, losses and learning rates have that dimension, too.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from deepnets_utils.data.tasks import Split


class Stack(nn.Module):
    """R networks of one shape as one network: inputs [R, N, ...] to outputs [R, N, ...].

    weights: [R, P], all that is trained; the buffers are the networks', [R, ...] each. Dropout draws for each replica.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        vectors = [torch.cat([weight.detach().flatten() for weight in net.parameters()]) for net in networks]
        self.weights = nn.Parameter(torch.stack(vectors))
        self._one = [networks[0]]  # in a list: its weights are not this network's
        self._shapes = {name: weight.shape for name, weight in networks[0].named_parameters()}
        self._names = {name.replace(".", ":"): name for name, _ in networks[0].named_buffers()}
        for own, name in self._names.items():
            self.register_buffer(own, torch.stack([net.get_buffer(name) for net in networks]))

    def train(self, mode: bool = True) -> "Stack":
        self._one[0].train(mode)
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Any:
        buffers = {name: self.get_buffer(own) for own, name in self._names.items()}

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Any:
            return functional_call(self._one[0], (weights, buffers), (inputs,))

        return torch.vmap(one, randomness="different")(self.parts(self.weights), buffers, inputs)

    def parts(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return [R, P], weights or their gradients, by the name of the weight in a network: [R, *its shape]."""
        split = vectors.split([shape.numel() for shape in self._shapes.values()], 1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), split, strict=True)}


def each(network: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of one network's tensors as one of the tensors that this network has."""
    return torch.vmap(function) if isinstance(network, Stack) else function


def l1_norm(network: nn.Module) -> Tensor:
    """Return the sum of the absolute weights: a scalar, [R] of a stack."""
    if isinstance(network, Stack):
        return network.weights.abs().sum(1)
    return sum(weight.abs().sum() for weight in network.parameters())


def gradient_norms(network: nn.Module) -> Tensor:
    """Return the norm of each weight's gradient but the biases', 0 of weights that get none: [R, layers]."""
    if isinstance(network, Stack):
        gradients = network.parts(network.weights.grad).values()
        return torch.stack([part.flatten(1).norm(dim=1) for part in gradients if part.dim() > 2], 1)
    gradients = [weight.grad for weight in network.parameters() if weight.dim() > 1]
    zero = next(network.parameters()).new_zeros(())
    return torch.stack([zero if gradient is None else gradient.norm() for gradient in gradients])[None]


def joined(network: nn.Module, parts: Sequence[Any]) -> list[Any]:
    """Return each replica's outputs (or targets) of a split from those of its batches, in order.

    Those of a stack are on the CPU: what is measured of each would wait for the device one by one.
    """
    if not isinstance(network, Stack):
        return [tree_map(lambda *batches: torch.cat(batches), *parts)]
    whole = tree_map(lambda *batches: torch.cat(batches, 1).cpu(), *parts)
    return [tree_map(itemgetter(replica), whole) for replica in range(len(network.weights))]


def states(network: nn.Module) -> list[dict[str, Tensor]]:
    """Return each replica's weights and buffers, by name; the tensors are the network's own."""
    state = network.state_dict()
    if not isinstance(network, Stack):
        return [state]
    return [{name: tensor[replica] for name, tensor in state.items()} for replica in range(len(network.weights))]


def load_states(network: nn.Module, own: Sequence[dict[str, Tensor]]) -> None:
    """Give each replica what `states` returned for it."""
    if not isinstance(network, Stack):
        network.load_state_dict(own[0])
        return
    device = network.weights.device  # those of a checkpoint lie on the CPU, others beside them do not
    network.load_state_dict({name: torch.stack([state[name].to(device) for state in own]) for name in own[0]})


class Rows:
    """What each of R replicas reads, [R, N, ...]: equal tensors are held once. Raises ValueError for other shapes."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        distinct: list[Tensor] = []
        places = []
        for tensor in tensors:
            if tensor.shape != tensors[0].shape:
                raise ValueError(f"replicas need equal shapes, not {tuple(tensor.shape)}, {tuple(tensors[0].shape)}")
            same = (place for place, other in enumerate(distinct) if other is tensor or torch.equal(other, tensor))
            places.append(next(same, len(distinct)))
            if places[-1] == len(distinct):
                distinct.append(tensor)
        self.values, self.device = torch.cat(distinct).to(device), device
        self.shape, self.offsets = tensors[0].shape, torch.tensor(places, device=device)[:, None] * len(tensors[0])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return rows [R, n, ...] of each replica for index int64 [R, n]."""
        return self.values[index + self.offsets]


def side_by_side(splits: Sequence[Split], device: torch.device) -> Split:
    """Return one split of R runs: Rows as inputs and targets, mean and deviation [R, 1, C, 1, 1]."""
    rows = [Rows([getattr(split, name) for split in splits], device) for name in ("inputs", "targets")]
    if splits[0].mean is None:
        return Split(*rows)
    scale = [torch.stack([getattr(split, name) for split in splits])[:, None] for name in ("mean", "deviation")]
    return Split(*rows, *(numbers.to(device) for numbers in scale))
