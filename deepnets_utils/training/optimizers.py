"""Optimisers of one network and of a stack, in which each replica has its own learning rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.runs.run import Run
from deepnets_utils.training.stack import Stack


class StackOptimizer:
    """Makes each step with a learning rate of each replica's own.

    The updates of Adam, SGD and RMSprop are proportional to the rate. So `optimizer` makes a step with a rate of 1, and
    each replica goes its share of that. rates: [R, 1], on the device of the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: Tensor) -> None:
        self.optimizer, self.weights = optimizer, weights
        self.rates = torch.zeros(len(weights), 1, dtype=weights.dtype, device=weights.device)
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        before = self.weights.detach().clone()
        self.optimizer.step()
        self.weights.copy_(before.lerp(self.weights, self.rates))


Optimizer = torch.optim.Optimizer | StackOptimizer


def make_optimizer(run: Run, network: nn.Module, rates: Sequence[float]) -> Optimizer:
    """Return the runs' optimiser: Adam or SGD with PyTorch's defaults, or RMSprop with Keras's (rho 0.9, 1e-7)."""
    stacked = isinstance(network, Stack)
    options = {"lr": 1.0 if stacked else rates[0], "weight_decay": run.weight_decay}
    if run.optimizer == "adam":
        optimizer: Optimizer = torch.optim.Adam(network.parameters(), fused=True, **options)
    elif run.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(network.parameters(), alpha=0.9, eps=1e-7, **options)
    else:
        optimizer = torch.optim.SGD(network.parameters(), fused=True, momentum=run.momentum, **options)
    if not stacked:
        return optimizer
    optimizer = StackOptimizer(optimizer, network.weights)
    set_rates(optimizer, rates)
    return optimizer


def set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rate of each run."""
    if isinstance(optimizer, StackOptimizer) and len(set(rates)) == 1:
        optimizer.rates.fill_(rates[0])  # waits for nothing, and a range test does it at each step
    elif isinstance(optimizer, StackOptimizer):
        optimizer.rates.copy_(torch.tensor(rates, dtype=torch.float64)[:, None])
    else:
        optimizer.param_groups[0]["lr"] = rates[0]
