"""What the benchmark trains: networks with their data, batches and recipes."""

from dataclasses import dataclass
from typing import Any

from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.tasks import task
from deepnets_utils.models import model
from deepnets_utils.runs.run import Run, Spec

EPOCHS = 3  # the first one warms up and is not timed


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and how it is trained.

    task: name and options. recipe: fields of the Run. fewer: times fewer steps an epoch than are asked for, as a step
    takes so much longer.
    """

    model: Spec
    dataset: str
    task: dict[str, Any]
    recipe: dict[str, Any]
    batch_size: int
    fewer: int = 1

    def steps(self, asked: int) -> int:
        """Return the steps of an epoch when the small networks make `asked`."""
        return max(1, asked // self.fewer)


MEANS = {
    "dataset": "fashion_mnist",
    "task": {"name": "pixel_statistic", "statistic": "mean"},
    "recipe": {"learning_rate": 1e-3},
    "batch_size": 64,
}
CLASSES = {"dataset": "cifar10", "fewer": 10, "batch_size": 32, "task": {"name": "image_classes"}}
CLASSES["task"] |= {"channels": 3, "test_size": 32}  # each training ends with a test, which is not timed
# A tenth of the rate in use: each way draws its own augmentation and dropout, and a larger one makes losses differ.
CLASSES |= {"recipe": {"learning_rate": 1e-4, "augmentation": augmentation("flip_crop")}}
CHANGED = {"augmentation": augmentation("flip_rotate_crop_jitter")}
VISION = {"dataset": "cifar10", "fewer": 100, "batch_size": 256, "task": CLASSES["task"]}
VISION |= {"recipe": {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, **CHANGED}}
NOTATIONS: dict[str, dict[str, Any]] = {
    "Teacher-1": {
        "layers": "76c2-mp-126c2-mp-148c4-mp-1200fc2-10fc",
        "dropout": "mp1:0.2,mp2:0.3,mp3:0.37,fc2:0.42",
    },
    "Deep-ResNet": {"layers": "64c8-128c12-256c16-10fc", "residual": True},
    "3-layer-1-CONV": {"layers": "64c-mp-640fc-10fc"},
    "4-layer-2-CONV": {"layers": "64c2-mp-600fc-10fc"},
    "3-layer-linear": {"layers": "2048fc2-10fc"},
    "4-layer-linear": {"layers": "1200fc-2400fc-1800fc-10fc"},
    "Shallow-ResNet": {"layers": "128c2-512c4-10fc", "residual": True},
    "Deep-linear": {"layers": "256fc8-512fc6-1024fc8-10fc"},
}
CASES = {  # the names are those of go_deep, distillation and googlenet
    "None": Case(model=model("MLPRegressor"), **MEANS),
    "Base": Case(model=model("ConvRegressor"), **MEANS),
    "10": Case(model=model("ConvRegressor", extra_layers=10), **MEANS),
    **{
        name: Case(model=model("notation", **options), **CLASSES | ({"fewer": 100} if "residual" in options else {}))
        for name, options in NOTATIONS.items()
    },
    "VGG19": Case(model=model("VGG19"), **VISION),
    "GoogLeNet": Case(model=model("GoogLeNet"), **VISION | {"task": CLASSES["task"] | {"auxiliary": 0.3}}),
    "ResNet18": Case(model=model("ResNet18"), **VISION),
}


def make_run(dataset: str, network: str, steps: int, seed: int) -> Run:
    """Return a training of EPOCHS epochs of `steps` steps."""
    case = CASES[network]
    learned = task(**case.task, train_size=steps * case.batch_size, validation_size=0)
    fields = case.recipe | {"epochs": EPOCHS, "batch_size": case.batch_size, "seed": seed}
    return Run(dataset=dataset, task=learned, model=case.model, **fields)
