"""Checkpoints: everything a run needs to go on to the bit, in one file that is whole or not there."""

import copy
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.data.randomness import generator
from deepnets_utils.runs.files import move_aside, warn, write_whole


@dataclass
class Progress:
    """How far a run is: finished epochs, history, the order's generator, the last order, seconds so far.

    gradients: the norm of each layer's gradient, a list a step. best: of a run with keep_best, the weights of the
    epoch (from 1) with the lowest validation error so far.
    """

    generator: torch.Generator
    epoch: int = 0
    order: Tensor | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    gradients: list[list[float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def start(cls, seed: int) -> "Progress":
        return cls(generator("order", seed))

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one epoch's numbers to the history; lists of numbers are not kept per epoch."""
        for name, value in metrics.items():
            if not isinstance(value, list):
                self.history.setdefault(name, []).append(value)

    def keep_best(self, network: nn.Module) -> None:
        """Keep a copy of the weights where the last epoch has the lowest validation error."""
        error = self.history["validation_error"][-1]
        if not self.best or error < self.best["error"]:
            self.best = {"epoch": self.epoch, "error": error, "network": copy.deepcopy(network.state_dict())}


def save_checkpoint(path: Path, identity: str, progress: Progress, *parts: Any) -> None:
    """Write the state of a training at the end of an epoch; parts: network, optimiser and scheduler, or None."""
    state = {
        "digest": identity,
        "place": _place(parts[0]),
        "epoch": progress.epoch,
        "order": progress.order,
        "history": progress.history,
        "gradients": progress.gradients,
        "best": progress.best,
        "seconds": list(progress.seconds),
        "parts": [part.state_dict() if part is not None else None for part in parts],
        "order_generator": progress.generator.get_state(),
        "torch_generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
    save_state(path, state)


def load_checkpoint(path: Path, identity: str, progress: Progress, *parts: Any) -> bool:
    """Put the state of `path` into the given objects and return True; False when there is none to use.

    A file that is damaged, of another identity, kind of device or version of torch is moved aside with a warning:
    what goes on elsewhere gives other numbers than either place, and its record would name the last. Nothing in it is
    executed.
    """
    if not path.exists():
        return False
    present = [part for part in parts if part is not None]
    fresh = copy.deepcopy([part.state_dict() for part in present])
    try:
        state, _ = load_state(path, identity)
        if (there := state.get("place")) != (here := _place(parts[0])):
            raise ValueError(f"it was begun on {there}, this is {here}, so that the run starts again")
        kept = {name: state[name] for name in ("epoch", "order", "history", "gradients", "best")}
        kept["seconds"], random_state = tuple(state["seconds"]), state["torch_generator"]
        for part, saved in zip(parts, state["parts"], strict=True):
            if part is not None:
                part.load_state_dict(saved)
        progress.generator.set_state(state["order_generator"])
    except Exception as error:  # torch.load raises many kinds
        for part, untouched in zip(present, fresh, strict=True):
            part.load_state_dict(untouched)  # one that does not fit was copied as far as it does
        warn(f"checkpoint {path.name} is not used: {error}; {move_aside(path)}")
        return False
    for name, value in kept.items():
        setattr(progress, name, value)
    torch.set_rng_state(random_state)
    if state.get("cuda_generator") is not None:
        torch.cuda.set_rng_state(state["cuda_generator"])
    return True


def _place(network: nn.Module) -> str:
    return f"{next(network.parameters()).device.type} with torch {torch.__version__}"


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write tensors and plain data, whole, and return the content's sha256 (hex), which is the file's head."""
    content = io.BytesIO()
    torch.save(state, content)
    # torch.load takes a file with changed bytes for a good one: most of it are numbers.
    checksum = hashlib.sha256(content.getbuffer())
    write_whole(path, lambda file: file.writelines((checksum.digest(), content.getbuffer())))
    return checksum.hexdigest()


def load_state(path: Path, digest: str) -> tuple[dict[str, Any], str]:
    """Return what `save_state` wrote under this digest, on the CPU, and its sha256; ValueError if it is not.

    Nothing in the file is executed.
    """
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("its checksum does not match the content")
    state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    if state["digest"] != digest:
        raise ValueError("it belongs to another training")
    return state, content[:32].hex()
