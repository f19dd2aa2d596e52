"""How others train: PyTorch Lightning and the loop of PyTorch's tutorials, for the benchmark.

Both get the weights and the batches, in the order, that the package gives the same Run, so that the losses are the
package's but for rounding.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets import FashionMNIST, VisionDataset
from torchvision.transforms import ToTensor

from deepnets_utils import data
from deepnets_utils.models import build_model
from deepnets_utils.randomness import derived_seed, generator
from deepnets_utils.runs import Run
from deepnets_utils.tasks import build_task

CONDITIONS = (
    "torchvision's FashionMNIST with ToTensor, target computed from the image, DataLoader without worker processes, "
    "Adam, PyTorch's default number of threads; Lightning: default Trainer with its default logger, loss logged once "
    "an epoch, no progress bar, model summary or checkpoints"
)


class Timed(NamedTuple):
    """seconds: of all epochs but the first, which warms up; a run's share where several train at once.

    loss: mean over the steps of the last epoch.
    """

    seconds: float
    loss: float


class PixelMeans(FashionMNIST):
    """torchvision's data set with the mean pixel as target. pixels: uint8 [N, 28, 28]."""

    def __init__(self, pixels: Tensor) -> None:
        VisionDataset.__init__(self, root="", transform=ToTensor())
        self.data, self.targets = pixels, torch.zeros(len(pixels), dtype=torch.int64)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, _ = super().__getitem__(index)
        return image, image.mean()


class Shuffled(Sampler[int]):
    """What `shuffle=True` does, in the order that the package would draw for a run with this seed."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.generator = length, generator("order", seed)

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self.length, generator=self.generator).tolist()

    def __len__(self) -> int:
        return self.length


def prepare(run: Run) -> tuple[nn.Module, DataLoader]:
    """Return the run's network with its initial weights, and a loader of its batches."""
    inputs = build_task(run.task).splits(data.load(run.dataset), run.data_seed)["train"].inputs
    images = PixelMeans((255 * inputs[:, 0]).round().to(torch.uint8))
    torch.manual_seed(derived_seed("weights", run.seed))
    loader = DataLoader(images, batch_size=run.batch_size, sampler=Shuffled(len(images), run.seed))
    return build_model(run.model), loader


def now(device: str = "cpu") -> float:
    """Return a clock's seconds, once the device has done what it was sent."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def by_lightning(run: Run, device: str = "cpu") -> Timed:
    """Train with PyTorch Lightning on "cpu" or "cuda", as CONDITIONS say. Raises ImportError without it."""
    from lightning import Callback, LightningModule, Trainer  # late: nothing else needs it

    ends: list[float] = []
    losses: list[Tensor] = []
    network, loader = prepare(run)

    class Regressor(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            loss = F.mse_loss(self.network(x).squeeze(-1), y)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=run.learning_rate)

    class Clock(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            ends.append(now(device))

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    silent = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # as the package: losses are compared
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), float32:
        warnings.simplefilter("ignore")  # among others its advice to use worker processes
        place = {"accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1, "default_root_dir": folder}
        Trainer(max_epochs=run.epochs, callbacks=[Clock()], **place, **silent).fit(Regressor(), loader)
    return Timed(ends[-1] - ends[0], torch.stack(losses[-len(loader) :]).mean().item())


def by_plain_loop(run: Run) -> Timed:
    """Train with a loop of a few lines on the CPU, as CONDITIONS say."""
    network, loader = prepare(run)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.learning_rate)
    ends = []
    for _ in range(run.epochs):
        losses = []
        for x, y in loader:
            loss = F.mse_loss(network(x).squeeze(-1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        ends.append(now())
    return Timed(ends[-1] - ends[0], statistics.mean(losses))
