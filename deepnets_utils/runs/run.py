"""Runs and Results: what to train and what came out, as plain values. Imports no torch.

pydantic in place of `allowed` and `coerce` was tried: where it is strict it refuses NumPy's integers, it has a message
for each branch of a union, which would have to be made one text, and its import is half as long as `deepnets --help`.
"""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from deepnets_utils.runs.datasets import CANONICAL

LOOP_VERSION = 1  # raised by hand when the training loop's numbers change
SCHEMA = 1  # of a stored record
SPECS = ("task", "model", "schedule", "augmentation")  # the fields of a Run that are Specs


@dataclass(frozen=True)
class Limits:
    """The finite numbers from `low` to `high`, `above` one or to `below` one: Annotated[float, Limits(0, below=1)]."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        limits = {"from": self.low, "above": self.above, "to": self.high, "to below": self.below}
        return "".join(f" {word} {limit}" for word, limit in limits.items() if math.isfinite(limit))


PositiveInt = Annotated[int, Limits(1)]
NonNegativeInt = Annotated[int, Limits(0)]
PositiveFloat = Annotated[float, Limits(above=0)]
NonNegativeFloat = Annotated[float, Limits(0)]

Allowed = list[tuple[type, Container | None, str]]
WORDS = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", type(None): "None"}


def allowed(annotation: Any) -> Allowed:
    """Return the types that an annotation allows, each with its values (None for all) and in words.

    annotation: a type, a Literal, a number's type with Limits, or a union of them. Floats are finite.
    """
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [kind for part in parts for kind in allowed(part)]
    if typing.get_origin(annotation) is Literal:
        return [(type(parts[0]), parts, f"one of {', '.join(map(repr, parts))}")]
    kind, values = parts if typing.get_origin(annotation) is Annotated else (annotation, None)
    if kind is float:
        values = values or Limits()
    return [(kind, values, f"{WORDS.get(kind, kind.__name__)}{values or ''}")]


def coerce(value: Any, kinds: Allowed, where: str) -> Any:
    """Return `value` as one of the `allowed` kinds: int to float, NumPy scalars to Python's; ValueError for others."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    for kind, values, _ in kinds:
        same = float(value) if kind is float and type(value) is int else value
        if type(same) is kind and (values is None or same in values):
            return same
    raise ValueError(f"{where} must be {' or '.join(words for *_, words in kinds)}, not {value!r}")


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

    task, model, schedule, augmentation (of the training images): from the functions of these names, with options.
    learning_rate: a number; "range_test" or "range_test_per_rate" for the one that a range test finds before the
    training (see training/range_test.py); None (with epochs and batch_size 0) for an estimator that is fitted.
    momentum: of SGD. weight_decay: factor of the L2 penalty's gradient. l1: factor of the sum of absolute weights in
    the loss. shuffle: "once" has the same batches in every epoch. evaluation_mode: with "train" batch statistics and
    dropout stay on while testing. watch_test: measure the test split after every epoch, too. keep_best: measure it also
    with the weights of the epoch with the lowest validation error. precision: "float32" (without TF32) or "bfloat16"
    (mixed, by autocast, in training; what is measured and a teacher's logits are float32). gradient_steps: steps from
    the first on whose gradients' norms are recorded. teacher: the Run of the network whose outputs the task learns
    from. seed: initial weights, batch order, augmentation, dropout. data_seed: split, pairs.
    Raises ValueError for an impossible value, with what is allowed. Fields equal to their defaults are not in the
    digest, so a field may be added, but a default never changes.
    """

    dataset: Literal[*CANONICAL]
    task: Spec
    model: Spec
    learning_rate: PositiveFloat | Literal["range_test", "range_test_per_rate"] | None = None
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    momentum: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    l1: NonNegativeFloat = 0.0
    epochs: NonNegativeInt = 0
    batch_size: NonNegativeInt = 0
    schedule: Spec | None = None
    shuffle: Literal["every_epoch", "once"] = "every_epoch"
    augmentation: Spec | None = None
    evaluation_mode: Literal["eval", "train"] = "eval"
    watch_test: bool = False
    keep_best: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_steps: NonNegativeInt = 0
    teacher: "Run | None" = None
    seed: NonNegativeInt = 0
    data_seed: NonNegativeInt = 0
    loop_version: int = LOOP_VERSION

    def __post_init__(self) -> None:
        for name, kinds in _fields().items():
            value = getattr(self, name)
            if value is not getattr(Run, name, kinds):  # most are the defaults, and thousands of records are read
                object.__setattr__(self, name, coerce(value, kinds, f"Run's {name}"))
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"Run's momentum is of the optimizer sgd; {self.optimizer} has none here")
        if self.teacher and (self.teacher.dataset, self.teacher.data_seed) != (self.dataset, self.data_seed):
            raise ValueError("a Run and its teacher need the same dataset and data_seed, so that they share the split")
        if len({self.learning_rate is None, self.epochs == 0, self.batch_size == 0}) > 1:
            needed = "a learning_rate, epochs >= 1 and batch_size >= 1, or (of an estimator) none of them"
            raise ValueError(f"a Run needs {needed}, not {self.learning_rate}, {self.epochs} and {self.batch_size}")

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
        """Return the Run that `to_json` wrote; raises ValueError, TypeError or KeyError when it is not one."""
        kinds = dict.fromkeys(SPECS, Spec) | {"teacher": Run}
        return cls(**data | {key: kind.from_json(data[key]) for key, kind in kinds.items() if key in data})

    @property
    def local(self) -> bool:
        """True when a part of it is defined outside the package, so that worker processes do not know it."""
        return any(part.local for name in (*SPECS, "teacher") if (part := getattr(self, name)) is not None)

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
def _fields() -> dict[str, Allowed]:
    return {name: allowed(kind) for name, kind in typing.get_type_hints(Run, include_extras=True).items()}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one Run gave, and where it comes from.

    status: "finished", or "diverged" (the loss was not finite at step `diverged_at_step`, counted from 0; or what is
    measured before that step, after an epoch, was not). metrics: name to number or list of numbers at the end; of a
    run that diverged only what a range test found (learning_rate, and range_test_losses, one a step). history: name to
    one number an epoch. provenance: see `training.machine.provenance`; older records lack device_kind, processor and
    cpu_capability.
    """

    run: Run
    status: str
    metrics: dict[str, Any]
    history: dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    diverged_at_step: int | None = None

    @property
    def device_kind(self) -> str:
        """The kind of device that it was trained on, "cpu" or "cuda"; records that do not name it are of CPUs."""
        return self.provenance.get("device_kind", "cpu")

    def to_json(self) -> dict[str, Any]:
        """Return the record: plain data with NaN as null, the schema and the digest."""
        return {
            "schema": SCHEMA,
            "digest": self.run.digest,
            "run": self.run.to_json(),
            "status": self.status,
            "diverged_at_step": self.diverged_at_step,
            "metrics": nan_to_null(self.metrics),
            "history": nan_to_null(self.history),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Result":
        """Return the Result of a record; raises ValueError when it is of another schema."""
        if record["schema"] != SCHEMA:
            raise ValueError("not a record of this schema")
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


def joint_digest(runs: Iterable[Run]) -> str:
    """Return the digest of runs that train as one network, in whatever order; of a single one another than its own."""
    digests = ",".join(sorted(run.digest for run in runs))
    return f"stack-{hashlib.sha256(digests.encode()).hexdigest()[:16]}"


def nan_to_null(value: Any) -> Any:
    """Return data as JSON has them, with null for what is not finite; TypeError for what JSON cannot hold."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _null_to_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_to_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_to_nan(item) if type(item) is not float else item for item in value]
    return math.nan if value is None else value
