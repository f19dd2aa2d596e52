"""How many images a run sees, from its own values. Imports no torch."""

from deepnets_utils.runs.run import Run

TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits_28": 1_397, "digits_32": 1_397}
# A task's train_size and validation_size where its options, which hold only what differs, do not name them.
DEFAULT_SIZES = {"digit_pairs": (1_000, 0), "image_classes": (0, 10_000), "pixel_statistic": (0, 5_000)}


CHANNELS = {"cifar10": 3, "digits_32": 3}  # the others have one
EDGE = {"cifar10": 32, "digits_32": 32}  # in pixels; the others have 28


def input_shape(run: Run) -> tuple[int, int, int]:
    """Return channels, height and width of what a run's network gets; of a task of a notebook, those of the images."""
    options, channels, edge = dict(run.task.options), CHANNELS.get(run.dataset, 1), EDGE.get(run.dataset, 28)
    if run.task.name == "digit_pairs":
        return 2, edge // 2, edge // 2
    edge += 2 * options.get("pad", 0)
    return options.get("channels") or channels, edge, edge


def images_seen(run: Run) -> int:
    """Return how many training images a run sees; of a task that only a notebook knows, all of the data set's."""
    train, validation = DEFAULT_SIZES.get(run.task.name, (0, 0))
    options = dict(run.task.options)
    classes = options.get("classes")
    tenths = classes.count(",") + 1 if classes and isinstance(classes, str) else 10  # a class is a tenth of the images
    left = TRAINING_IMAGES[run.dataset] * tenths // 10 - options.get("validation_size", validation)
    copies = 2 if options.get("extended") else 1
    return max(1, run.epochs) * copies * (options.get("train_size", train) or max(1, left))
