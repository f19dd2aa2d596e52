"""Checkpoints: everything a run needs to go on to the bit, in one file that is whole or not there."""

import copy
import hashlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.files import move_aside, write_whole
from deepnets_utils.randomness import generator
from deepnets_utils.runs import Run


@dataclass
class Progress:
    """How far a run is: finished epochs, history, the order's generator, the last order, seconds so far."""

    generator: torch.Generator
    epoch: int = 0
    order: Tensor | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def start(cls, seed: int) -> "Progress":
        return cls(generator("order", seed))

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one epoch's numbers to the history; lists of numbers are not kept per epoch."""
        for name, value in metrics.items():
            if not isinstance(value, list):
                self.history.setdefault(name, []).append(value)


def save_checkpoint(
    path: Path, run: Run, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state of a run at the end of an epoch, whole: sha256 (32 bytes), then what torch.save writes."""
    state = {
        "digest": run.digest,
        "epoch": progress.epoch,
        "order": progress.order,
        "history": progress.history,
        "seconds": list(progress.seconds),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "order_generator": progress.generator.get_state(),
        "torch_generator": torch.get_rng_state(),
        "cuda_generators": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    content = io.BytesIO()
    torch.save(state, content)
    # torch.load takes a file with changed bytes for a good one: most of it are numbers.
    checksum = hashlib.sha256(content.getbuffer()).digest()
    write_whole(path, lambda file: file.writelines((checksum, content.getbuffer())))


def load_checkpoint(
    path: Path, run: Run, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer
) -> bool:
    """Put the state of `path` into the given objects and return True; False when there is none to use.

    A file that is damaged or of another run is moved aside with a warning. Nothing in it is executed.
    """
    if not path.exists():
        return False
    fresh = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its checksum does not match the content")
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        if state["digest"] != run.digest:
            raise ValueError("it belongs to another run")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        progress.generator.set_state(state["order_generator"])
    except Exception as error:  # torch.load raises many kinds
        network.load_state_dict(fresh[0])  # one that does not fit was copied as far as it does
        optimizer.load_state_dict(fresh[1])
        warnings.warn(f"checkpoint {path.name} is not used: {error}; moved to {move_aside(path)}", stacklevel=2)
        return False
    progress.epoch, progress.order, progress.history = state["epoch"], state["order"], state["history"]
    progress.seconds = tuple(state["seconds"])
    torch.set_rng_state(state["torch_generator"])
    if state["cuda_generators"]:
        torch.cuda.set_rng_state_all(state["cuda_generators"])
    return True
