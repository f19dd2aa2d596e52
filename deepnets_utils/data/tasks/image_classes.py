"""Classification of images, from labels or from a teacher's outputs."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.data.augment import FlipCrop
from deepnets_utils.data.loading import Images
from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks.task import Split, divided, register_task
from deepnets_utils.runs.run import NonNegativeFloat, NonNegativeInt, PositiveFloat


@register_task(version=1, name="image_classes")
@dataclass(frozen=True, kw_only=True)
class ImageClasses:
    """Classes of images; the loss is cross-entropy (of one logit: binary), or a distance from a teacher's logits.

    classes: "" for all, else the numbers of at least two with commas between them ("3,5"), which become 0, 1, ...
    train_size: 0 for all that are left, test_size: 0 for all. validation_size: taken from the training images.
    extended: beside each training image a copy that is flipped and cropped by chance once, the same in every epoch and
    for every seed of one data_seed; twice as many images (distillation, Section 3, read word by word).
    pad: black pixels added on each side, from 0. channels: 0 for those of the images, 3 repeats grey ones.
    inputs: "standardised" with the training images' mean and deviation of each channel, "raw" for 0..255.
    auxiliary: weight of the loss of each auxiliary classifier of the network, from 0.
    distillation: "", or what a student minimises (its Run has a teacher): "softmax_mse", the mean square of the
    difference of the softmaxes (distillation, Section 2), "logit_mse" of the logits, "kl", Hinton's, with a
    temperature above 0: both logits divided by it, the divergence multiplied by its square.
    Inputs: uint8 [N, C, H, W]. Targets: int64 [N]; of a student float32 [N, 1 + classes], the label and the
    teacher's logits.
    """

    classes: str = ""
    train_size: NonNegativeInt = 0
    validation_size: NonNegativeInt = 10_000
    test_size: NonNegativeInt = 0
    extended: bool = False
    pad: NonNegativeInt = 0
    channels: Literal[0, 3] = 0
    inputs: Literal["standardised", "raw"] = "standardised"
    auxiliary: NonNegativeFloat = 0.0
    distillation: Literal["", "softmax_mse", "logit_mse", "kl"] = ""
    temperature: PositiveFloat = 4.0
    measures = ("loss", "accuracy", "error")

    def __post_init__(self) -> None:
        if self.classes:
            numbers = self.classes.split(",")
            if len(set(numbers)) != len(numbers) or len(numbers) < 2 or not set(numbers) <= set("0123456789"):
                raise ValueError(f"classes must be different numbers from 0 to 9 like '3,5', not {self.classes!r}")

    def splits(self, images: Images, data_seed: int) -> dict[str, Split]:
        pixels, labels = self._chosen(images.train_images, images.train_labels)
        test_pixels, test_labels = self._chosen(images.test_images, images.test_labels)
        if self.test_size > len(test_pixels):
            raise ValueError(f"test_size {self.test_size} does not fit into {len(test_pixels)} test images")
        indices = divided(len(pixels), self.train_size, self.validation_size, data_seed)
        parts = {name: (pixels[chosen], labels[chosen]) for name, chosen in indices.items()}
        parts["test"] = test_pixels[: self.test_size or None], test_labels[: self.test_size or None]
        seen, learned = parts["train"]
        mean, deviation = self._scale(seen)
        if self.extended:
            change = FlipCrop()
            drawn = change.draw(len(seen), generator("extension", data_seed))
            parts["train"] = torch.cat((seen, change.apply(seen, drawn))), learned.repeat(2)
        return {name: self._split(*part, mean, deviation) for name, part in parts.items()}

    def _split(self, pixels: Tensor, labels: Tensor, mean: Tensor, deviation: Tensor) -> Split:
        padded = F.pad(pixels, [self.pad] * 4) if self.pad else pixels
        return Split(padded.expand(-1, self.channels or -1, -1, -1), labels, mean, deviation)

    def _chosen(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.classes:
            return images, labels
        matches = labels[:, None] == torch.tensor([int(number) for number in self.classes.split(",")])
        kept = matches.any(1)
        return images[kept], matches[kept].int().argmax(1)

    def _scale(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.inputs == "raw":
            return torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1 / 255)
        # In integers, exact and without a float copy of the whole set.
        counts = torch.stack(
            [torch.bincount(channel.flatten(), minlength=256) for channel in pixels.unbind(1)]
        ).double()
        values = torch.arange(256).double() / 255
        mean = (counts @ values) / counts.sum(1)
        deviation = ((counts @ values.square()) / counts.sum(1) - mean.square()).sqrt()
        return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        logits, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self._loss(logits, targets)
        if self.auxiliary:
            loss = loss + self.auxiliary * sum(self._loss(other, targets) for other in others if other is not None)
        return loss

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.distillation:
            teacher, t = targets[:, 1:], self.temperature
            if self.distillation == "softmax_mse":
                return F.mse_loss(logits.softmax(1), teacher.softmax(1))
            if self.distillation == "logit_mse":
                return F.mse_loss(logits, teacher)
            student, aim = (logits / t).log_softmax(1), (teacher / t).log_softmax(1)
            return t * t * F.kl_div(student, aim, reduction="batchmean", log_target=True)
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits.squeeze(1), targets.to(logits.dtype))
        return F.cross_entropy(logits, targets)

    def hits(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return how many of a batch are classified right, a scalar on the device."""
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        labels = targets[:, 0].long() if targets.dim() == 2 else targets
        predicted = (logits.squeeze(1) > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        return (predicted == labels).sum()

    def metrics(self, outputs: Any, targets: Tensor) -> dict[str, Any]:
        """Return loss (the task's mean), accuracy and error, both in percent."""
        accuracy = 100 * self.hits(outputs, targets).item() / len(targets)
        return {"loss": self.loss(outputs, targets).item(), "accuracy": accuracy, "error": 100 - accuracy}
