"""What does not fit together in a run, found before anything is trained."""

import functools

import torch
from torch import nn

from deepnets_utils.data.tasks import MAY_DIFFER, Split, Task
from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.training.schedules import build_schedule


def watched_splits(run: Run, splits: dict[str, Split]) -> list[str]:
    """Return the splits that are measured after each epoch."""
    return [name for name in splits if name == "validation" or (name == "test" and run.watch_test)]


def check_parts(run: Run, task: Task, splits: dict[str, Split]) -> None:
    """Raise ValueError where a run's parts do not fit together, before anything is trained.

    Of a batch the network is tried without numbers, on the meta device: images that are too small, other channels, one
    image left for batch norm.
    """
    _check_teacher(run, task)
    if run.keep_best and ("validation" not in splits or "error" not in task.measures):
        raise ValueError("keep_best needs a task with a validation split and an error")
    if run.augmentation and splits["train"].inputs.dtype != torch.uint8:
        raise ValueError(f"an augmentation changes images, and the inputs of {run.task.name} are numbers made of them")
    on = build_schedule(run.schedule).on if run.schedule else ""
    measured = [f"{name}_{measure}" for name in watched_splits(run, splits) for measure in task.measures]
    if on and on not in measured:
        raise ValueError(f"the schedule looks at {on}, and of each epoch this run measures {measured}")
    for name, split in splits.items():
        training = name == "train" or run.evaluation_mode == "train"
        for size in {min(run.batch_size, len(split)), len(split) % run.batch_size or run.batch_size}:
            try:
                _take(run.model, (size, *split.inputs.shape[1:]), training)
            except NotImplementedError:
                pass  # a network that looks at its numbers
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{run.model.name} cannot take {len(split)} inputs of {name} in batches of {run.batch_size}, "
                    f"one of which is {[size, *split.inputs.shape[1:]]}: {error}"
                ) from error


def _check_teacher(run: Run, task: Task) -> None:
    distillation = getattr(task, "distillation", None)
    if distillation is not None and bool(distillation) != (run.teacher is not None):
        has = f"distillation {distillation!r} and {'a' if run.teacher else 'no'} teacher"
        raise ValueError(
            f"a student needs a teacher and its task a distillation, other runs have neither; this has {has}"
        )
    if run.teacher is None:
        return
    own, theirs = (
        (of.task.name, {name: value for name, value in of.task.options if name not in MAY_DIFFER})
        for of in (run, run.teacher)
    )
    if own != theirs:
        raise ValueError(f"a student and its teacher need the same inputs and classes, not {own} and {theirs}")
    if run.teacher.evaluation_mode != "eval":
        raise ValueError("a teacher needs evaluation_mode eval: else its batch norm has seen test images")


@functools.cache  # the runs of a sweep differ in little else than the seed
def _take(model: Spec, shape: tuple[int, ...], training: bool) -> None:
    with torch.device("meta"):
        network = build_model(model)
        if isinstance(network, nn.Module):
            network.train(training)(torch.empty(shape))
