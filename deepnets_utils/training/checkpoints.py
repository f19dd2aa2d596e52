"""Checkpoints: everything a run needs to go on to the bit, in one file that is whole or not there."""

import copy
import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepnets_utils.data.randomness import generator
from deepnets_utils.runs.files import move_aside, warn, write_whole
from deepnets_utils.training.machine import Clock
from deepnets_utils.training.optimizers import Optimizer
from deepnets_utils.training.signals import TERMINATED, Terminated, terminated


@dataclass
class Progress:
    """How far a run is: finished epochs, history, the order's generator, the last order.

    diverged_at: the step, counted from 0, at which it diverged, None where it has not; it stands still from then on.
    gradients: the norm of each layer's gradient, a list a step. best: of a run with keep_best, the weights of the
    epoch (from 1) with the lowest validation error so far.
    """

    generator: torch.Generator
    epoch: int = 0
    order: Tensor | None = None
    diverged_at: int | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    gradients: list[list[float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, seed: int) -> "Progress":
        return cls(generator("order", seed))

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one epoch's numbers to the history; lists of numbers are not kept per epoch."""
        for name, value in metrics.items():
            if not isinstance(value, list):
                self.history.setdefault(name, []).append(value)

    def keep_best(self, weights: dict[str, Tensor]) -> None:
        """Keep a copy of the weights where the last epoch has the lowest validation error."""
        error = self.history["validation_error"][-1]
        if not self.best or error < self.best["error"]:
            own = {name: tensor.clone() for name, tensor in weights.items()}  # a deep copy would be of all replicas'
            self.best = {"epoch": self.epoch, "error": error, "network": own}

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and plain data."""
        return vars(self) | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned; raises KeyError where something is missing."""
        self.generator.set_state(state["generator"])
        for name in vars(self).keys() - {"generator"}:
            setattr(self, name, state[name])


class Saving:
    """Writes a training's checkpoint at ends of epochs that lie `seconds` apart, and takes an interrupted one up again.

    After SIGTERM it writes one at the next end of an epoch, and raises Terminated. file: None for no checkpoints.
    clock: whose seconds go into the checkpoint. identity: of the runs and what they learn from.
    """

    def __init__(self, file: Path | None, seconds: float, clock: Clock, identity: str) -> None:
        self.file, self.seconds, self.clock, self.identity = file, seconds, clock, identity
        self._saved_at = time.monotonic()

    def load(self, progress: Sequence[Progress], network: nn.Module, optimizer: Optimizer) -> None:
        """Put a checkpoint's state into the given objects, where there is one to use.

        A file that is damaged, of another identity, kind of device or version of torch is moved aside with a warning:
        what goes on there gives other numbers than either place. Another processor goes on; the record names the last.
        """
        if self.file is None or not self.file.exists():
            return
        parts = [*progress, network, optimizer]
        fresh = copy.deepcopy([part.state_dict() for part in parts])
        try:
            state, _ = load_state(self.file, self.identity)
            there, here = state.get("place"), _place(network)
            if there != here:
                raise ValueError(f"it was begun on {there}, this is {here}, so that the run starts again")
            random_states, seconds = (state["torch_generator"], state["cuda_generator"]), state["seconds"]
            for part, saved in zip(parts, state["parts"], strict=True):
                part.load_state_dict(saved)
        except OSError:  # the file may be good when it can be read again
            raise
        except Exception as error:  # torch.load raises many kinds
            for part, untouched in zip(parts, fresh, strict=True):
                part.load_state_dict(untouched)  # one that does not fit was copied as far as it does
            warn(f"checkpoint {self.file.name} is not used: {error}; {move_aside(self.file)}")
            return
        torch.set_rng_state(random_states[0])
        if random_states[1] is not None:
            torch.cuda.set_rng_state(random_states[1])
        self.clock.add(seconds)

    def save(self, progress: Sequence[Progress], network: nn.Module, optimizer: Optimizer) -> None:
        """Write a checkpoint, where it is time for one."""
        ends = terminated.is_set()
        if self.file is not None and (ends or time.monotonic() - self._saved_at >= self.seconds):
            state = {
                "digest": self.identity,
                "place": _place(network),
                "seconds": self.clock.seconds(),
                "parts": [part.state_dict() for part in (*progress, network, optimizer)],
                "torch_generator": torch.get_rng_state(),
                "cuda_generator": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            }
            try:
                save_state(self.file, state)
            except OSError as error:  # no room for weights may well be enough for a record
                warn(f"the training goes on without a checkpoint: {error}")
            self._saved_at = time.monotonic()
        if ends:
            raise Terminated(TERMINATED)


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
