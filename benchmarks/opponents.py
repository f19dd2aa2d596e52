"""How others train: PyTorch Lightning and the loop of PyTorch's tutorials, for the benchmark.

Both get the weights and the batches, in the order, that the package gives the same Run, so that the losses are the
package's but for rounding.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets import CIFAR10, FashionMNIST, VisionDataset
from torchvision.transforms import ToTensor, v2

from deepnets_utils.data import loading
from deepnets_utils.data.augment import FlipCrop, FlipRotateCropJitter, build_augmentation
from deepnets_utils.data.randomness import derived_seed, generator
from deepnets_utils.data.tasks import Split, build_task
from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run

CONDITIONS = (
    "A process of their own, in which this package sets nothing: PyTorch's default number of threads, the system's "
    "default allocator. DataLoader without worker processes, float32. Regression: torchvision's "
    "FashionMNIST with ToTensor, target computed from the image, Adam. Classes: torchvision's CIFAR10 with "
    "transforms.v2 of each picture. Lightning: default Trainer with its default logger, loss logged once an epoch, no "
    "progress bar, model summary or checkpoints"
)
Loss = Callable[[Any, Tensor], Tensor]


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


class Pictures(CIFAR10):
    """torchvision's data set with what transforms.v2 has for the run's augmentation, and its normalisation."""

    def __init__(self, run: Run, split: Split) -> None:
        size, changes = split.inputs.shape[-1], []
        match build_augmentation(run.augmentation) if run.augmentation else None:
            case FlipCrop(padding=padding):
                changes = [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=padding)]
            case FlipRotateCropJitter(rotation=angle, smallest_scale=scale, jitter=jitter):
                rotation = v2.RandomRotation(angle, interpolation=v2.InterpolationMode.BILINEAR)
                crop = v2.RandomResizedCrop(size, scale=(scale, 1))
                changes = [v2.RandomHorizontalFlip(), rotation, crop, v2.ColorJitter(jitter, jitter, jitter)]
        normalised = v2.Normalize(split.mean.flatten().tolist(), split.deviation.flatten().tolist())
        chain = [*changes, v2.PILToTensor(), v2.ToDtype(torch.get_default_dtype(), scale=True), normalised]
        VisionDataset.__init__(self, root="", transform=v2.Compose(chain))
        self.data = split.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = split.targets.tolist()


class Shuffled(Sampler[int]):
    """What `shuffle=True` does, in the order that the package would draw for a run with this seed."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.generator = length, generator("order", seed)

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self.length, generator=self.generator).tolist()

    def __len__(self) -> int:
        return self.length


def prepare(run: Run) -> tuple[nn.Module, torch.optim.Optimizer, DataLoader, Loss]:
    """Return the run's network with its initial weights, its optimiser, a loader of its batches, and its loss."""
    split = build_task(run.task).splits(loading.load(run.dataset), run.data_seed)["train"]
    if run.task.name == "pixel_statistic":
        images: VisionDataset = PixelMeans((255 * split.inputs[:, 0]).round().to(torch.uint8))
    else:
        images = Pictures(run, split)
    torch.manual_seed(derived_seed("weights", run.seed))
    network = build_model(run.model)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=run.learning_rate)
    if run.optimizer == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), lr=run.learning_rate, momentum=run.momentum)
    loader = DataLoader(images, batch_size=run.batch_size, sampler=Shuffled(len(images), run.seed))
    auxiliary = dict(run.task.options).get("auxiliary", 0.0)

    def loss(outputs: Any, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return F.mse_loss(outputs.squeeze(-1), y)
        logits, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        return F.cross_entropy(logits, y) + auxiliary * sum(F.cross_entropy(other, y) for other in others)

    return network, optimizer, loader, loss


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
    network, optimizer, loader, loss_of = prepare(run)

    class Trained(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            loss = loss_of(self.network(x), y)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    class Clock(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            ends.append(now(device))

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    silent = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # as the package: losses are compared
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), float32:
        warnings.simplefilter("ignore")  # among others its advice to use worker processes
        place = {"accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1, "default_root_dir": folder}
        Trainer(max_epochs=run.epochs, callbacks=[Clock()], **place, **silent).fit(Trained(), loader)
    return Timed(ends[-1] - ends[0], torch.stack(losses[-len(loader) :]).mean().item())


def by_plain_loop(run: Run, device: str = "cpu") -> Timed:
    """Train with a loop of a few lines on "cpu" or "cuda", as CONDITIONS say."""
    network, optimizer, loader, loss_of = prepare(run)
    network.to(device)
    ends = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32, as the package
        for _ in range(run.epochs):
            losses = []
            for x, y in loader:
                loss = loss_of(network(x.to(device)), y.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            ends.append(now(device))
    return Timed(ends[-1] - ends[0], statistics.mean(losses))
