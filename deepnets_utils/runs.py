"""Runs and Results: what to train and what came out, as plain values. Imports no torch."""

import dataclasses
import functools
import hashlib
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any

from deepnets_utils.datasets import CANONICAL

LOOP_VERSION = 1  # raised by hand when the training loop's numbers change
SCHEMA = 1  # of a stored record

OPTIMIZERS = ("adam", "sgd", "rmsprop")
SHUFFLES = ("every_epoch", "once")
EVALUATION_MODES = ("eval", "train")
RANGE_TESTS = ("range_test", "range_test_per_rate")
PRECISIONS = ("float32", "bfloat16")
SPECS = ("task", "model", "schedule", "augmentation")  # the fields of a Run that are Specs


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """Return `value` as the annotated type: int to float, NumPy scalars to Python's; anything else must match.

    Raises ValueError with the expected and the given type.
    """
    if type(value) is annotation is not float:
        return value
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    allowed = typing.get_args(annotation) or (annotation,)
    if value is None and type(None) in allowed:
        return None
    for kind in allowed:
        if kind is float and type(value) in (int, float):
            if not math.isfinite(value):
                raise ValueError(f"{where} must be a finite number, not {value}")
            return float(value)
        if type(value) is kind:
            return value
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
    raise ValueError(f"{where} must be {names}, not {value!r} ({type(value).__name__})")


@dataclass(frozen=True)
class Spec:
    """A registered name with the options that differ from its defaults; made by `model()` and `task()`.

    `version` is an int for what the package defines and a hash of the source for what a notebook defines.
    """

    name: str
    version: int | str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def local(self) -> bool:
        """True when it is defined outside the package, so that worker processes do not know it."""
        return isinstance(self.version, str)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "options": dict(self.options)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Spec":
        return cls(data["name"], data["version"], tuple(sorted(data["options"].items())))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, as a value: equal Runs give equal numbers on one machine, and are trained once.

    dataset: a name of `datasets.CANONICAL`. task, model: from `task(name, **options)` and `model(name, **options)`.
    learning_rate: above 0; "range_test" or "range_test_per_rate" for the one that a range test finds before the
    training (see learning_rates.py); None (with epochs and batch_size 0) for an estimator that is fitted.
    optimizer: "adam", "sgd" or "rmsprop". momentum: of SGD, from 0. weight_decay: factor of the L2 penalty's
    gradient, from 0. l1: factor of the sum of absolute weights in the loss, from 0. epochs, batch_size: from 1.
    schedule: from `schedule(name, **options)`: how the learning rate changes. shuffle: "every_epoch" or "once" (the
    same batches in every epoch). augmentation: from `augmentation(name, **options)`, of the training images.
    evaluation_mode: "eval", or "train" (batch statistics and dropout stay on while testing).
    watch_test: measure the test split after every epoch, too. keep_best: measure it also with the weights of the
    epoch with the lowest validation error. precision: "float32" (without TF32) or "bfloat16" (mixed, by autocast).
    gradient_steps: steps from the first on whose gradients' norms are recorded, from 0.
    teacher: the Run of the network whose outputs the task learns from.
    seed: initial weights, batch order, augmentation, dropout. data_seed: split, pairs.
    Raises ValueError for an impossible value, with what is allowed. Fields equal to their defaults are not in
    the digest, so a field may be added, but a default never changes.
    """

    dataset: str
    task: Spec
    model: Spec
    learning_rate: float | str | None = None
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    l1: float = 0.0
    epochs: int = 0
    batch_size: int = 0
    schedule: Spec | None = None
    shuffle: str = "every_epoch"
    augmentation: Spec | None = None
    evaluation_mode: str = "eval"
    watch_test: bool = False
    keep_best: bool = False
    precision: str = "float32"
    gradient_steps: int = 0
    teacher: "Run | None" = None
    seed: int = 0
    data_seed: int = 0
    loop_version: int = LOOP_VERSION

    def __post_init__(self) -> None:
        for name, annotation in _annotations().items():
            object.__setattr__(self, name, coerce(getattr(self, name), annotation, f"Run's {name}"))
        choices = {
            "dataset": tuple(CANONICAL),
            "optimizer": OPTIMIZERS,
            "shuffle": SHUFFLES,
            "evaluation_mode": EVALUATION_MODES,
            "precision": PRECISIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Run's {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("momentum", "weight_decay", "l1", "epochs", "batch_size", "gradient_steps", "seed", "data_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"Run's {name} must not be below 0, it is {getattr(self, name)}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"Run's momentum is of the optimizer sgd; {self.optimizer} has none here")
        if self.teacher is not None and (self.teacher.dataset, self.teacher.data_seed) != (
            self.dataset,
            self.data_seed,
        ):
            raise ValueError("a Run and its teacher need the same dataset and data_seed, so that they share the split")
        fitted = self.learning_rate is None
        if fitted and (self.epochs or self.batch_size):
            raise ValueError("a Run with epochs or batch_size needs a learning_rate above 0")
        found = isinstance(self.learning_rate, str)
        if found and self.learning_rate not in RANGE_TESTS:
            raise ValueError(
                f"Run's learning_rate must be a number or one of {', '.join(RANGE_TESTS)}, not {self.learning_rate!r}"
            )
        if not fitted and not ((found or self.learning_rate > 0) and self.epochs and self.batch_size):
            raise ValueError(
                "a Run with a learning_rate needs learning_rate > 0, epochs >= 1 and batch_size >= 1, not "
                f"{self.learning_rate}, {self.epochs} and {self.batch_size}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, and the loop's version, as plain data."""
        data = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "loop_version" or value != item.default:
                data[item.name] = value.to_json() if isinstance(value, (Spec, Run)) else value
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Run":
        """Return the Run that `to_json` wrote; raises ValueError or KeyError when it is not one."""
        data = dict(data)
        unknown = set(data) - {item.name for item in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"no field of a Run: {', '.join(sorted(unknown))}")
        specs = {key: Spec.from_json(data[key]) for key in SPECS if key in data}
        teacher = {"teacher": Run.from_json(data["teacher"])} if "teacher" in data else {}
        return cls(**data | specs | teacher)

    @property
    def local(self) -> bool:
        """True when a part of it is defined outside the package, so that worker processes do not know it."""
        specs = (getattr(self, name) for name in SPECS)
        return any(spec is not None and spec.local for spec in specs) or (
            self.teacher is not None and self.teacher.local
        )

    @functools.cached_property  # asked for again and again: half of the time of a sweep that finds all stored
    def digest(self) -> str:
        """The Run's name in the store: 16 hexadecimal digits."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        fields = self.to_json()
        parts = [f"{self.model.name}({', '.join(f'{k}={v}' for k, v in self.model.options)}) on {self.dataset}"]
        parts += [f"{k}={v}" for k, v in self.task.options]
        parts += [f"{key}={getattr(self, key).name}" for key in ("schedule", "augmentation") if key in fields]
        parts += [f"teacher={self.teacher.model.name}"] if self.teacher else []
        skipped = ("dataset", "loop_version", "teacher", *SPECS)
        return ", ".join(parts + [f"{k}={v}" for k, v in fields.items() if k not in skipped])


@functools.cache
def _annotations() -> dict[str, Any]:
    return typing.get_type_hints(Run)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one Run gave, and where it comes from.

    status: "finished", or "diverged" (the loss was not finite at step `diverged_at_step`, counted from 0).
    metrics: name to number or list of numbers at the end; of a run that diverged only what a range test found
    (learning_rate, and range_test_losses, one a step).
    history: name to one number an epoch. provenance: wall_seconds, cpu_seconds, device, threads, path,
    versions, data_fingerprint, finished_at.
    """

    run: Run
    status: str
    metrics: dict[str, Any]
    history: dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    diverged_at_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record: plain data with NaN as null, the schema, the digest and a checksum of all that."""
        record = {
            "schema": SCHEMA,
            "digest": self.run.digest,
            "run": self.run.to_json(),
            "status": self.status,
            "diverged_at_step": self.diverged_at_step,
            "metrics": _nan_to_null(self.metrics),
            "history": _nan_to_null(self.history),
            "provenance": self.provenance,
        }
        return record | {"checksum": checksum(record)}

    @classmethod
    def from_json(cls, record: dict[str, Any], whole: bool = False) -> "Result":
        """Return the Result of a record; raises ValueError when it is damaged or of another schema.

        whole: its checksum was looked at.
        """
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise ValueError("not a record of this schema")
        body = {key: value for key, value in record.items() if key != "checksum"}
        if not whole and checksum(body) != record.get("checksum"):
            raise ValueError("the checksum does not match the content")
        run = Run.from_json(record["run"])
        if run.digest != record["digest"]:
            raise ValueError("the digest does not match the run")
        return cls(
            run=run,
            status=record["status"],
            metrics=_null_to_nan(record["metrics"]),
            history=_null_to_nan(record["history"]),
            provenance=record["provenance"],
            diverged_at_step=record["diverged_at_step"],
        )


def canonical(data: Any) -> str:
    """Return the one JSON text of plain data: keys sorted, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()[:16]


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _null_to_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_to_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_to_nan(item) if type(item) is not float else item for item in value]
    return math.nan if value is None else value
