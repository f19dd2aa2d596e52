import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepnets_utils.data.augment import AUGMENTATIONS, augmentation
from deepnets_utils.data.tasks import TASKS, task
from deepnets_utils.models import MODELS, model
from deepnets_utils.runs.paths import RECORDS
from deepnets_utils.runs.registry import _options
from deepnets_utils.runs.run import LOOP_VERSION, Result, Run, Spec, canonical
from deepnets_utils.runs.store import read_records
from deepnets_utils.training.schedules import SCHEDULES, schedule

PAIRS = {"dataset": "mnist", "epochs": 30, "batch_size": 100}
PIXELS = {"dataset": "fashion_mnist"}
CLASSES = {"dataset": "cifar10", "batch_size": 128, "keep_best": True}
TEACHER = Run(
    task=task("image_classes"),
    model=model(
        "notation", layers="76c2-mp-126c2-mp-148c4-mp-1200fc2-10fc", dropout="mp1:0.2,mp2:0.3,mp3:0.37,fc2:0.42"
    ),
    augmentation=augmentation("flip_crop"),
    schedule=schedule("plateau", patience=10),
    learning_rate=1e-3,
    epochs=100,
    seed=1,
    **CLASSES,
)

# What was stored under a digest must be found under it in ten years: never change one of these, add new ones.
DIGESTS = {
    "Net": Run(task=task("digit_pairs"), model=model("Net"), learning_rate=3e-2, **PAIRS),
    "Net_as_coded": Run(
        task=task("digit_pairs", auxiliary=1.0, test_inputs="raw"),
        model=model("Net", head_batch_norm=True),
        learning_rate=3e-2,
        shuffle="once",
        evaluation_mode="train",
        seed=1,
        **PAIRS,
    ),
    "Net_unshared": Run(task=task("digit_pairs"), model=model("Net", sharing=False), learning_rate=3e-2, **PAIRS),
    "LeNet5": Run(task=task("digit_pairs", auxiliary=1.0), model=model("LeNet5"), learning_rate=5e-3, seed=10, **PAIRS),
    "LeNet5_table2": Run(
        task=task("digit_pairs", auxiliary=1.0),
        model=model("LeNet5", sharing=False, batch_norm=False, dropout=0.25),
        learning_rate=5e-3,
        **PAIRS,
    ),
    "LeNet5_weight_decay": Run(
        task=task("digit_pairs"), model=model("LeNet5"), learning_rate=5e-3, weight_decay=1e-4, **PAIRS
    ),
    "LeNet5_l1": Run(task=task("digit_pairs"), model=model("LeNet5"), learning_rate=5e-3, l1=1e-5, **PAIRS),
    "LeNet5_sgd": Run(task=task("digit_pairs"), model=model("LeNet5"), learning_rate=0.1, optimizer="sgd", **PAIRS),
    "LeNet5_once": Run(task=task("digit_pairs"), model=model("LeNet5"), learning_rate=5e-3, shuffle="once", **PAIRS),
    "LeNet5_train_mode": Run(
        task=task("digit_pairs"), model=model("LeNet5"), learning_rate=5e-3, evaluation_mode="train", **PAIRS
    ),
    "LeNet5_other_pairs": Run(
        task=task("digit_pairs"), model=model("LeNet5"), learning_rate=5e-3, data_seed=7, **PAIRS
    ),
    "LeNet5_small": Run(
        dataset="digits_28",
        task=task("digit_pairs", auxiliary=0.3, train_size=200, test_size=150),
        model=model("LeNet5"),
        learning_rate=5e-3,
        epochs=2,
        batch_size=50,
    ),
    "FullyConv": Run(task=task("digit_pairs"), model=model("LeNet5_FullyConv"), learning_rate=5e-2, **PAIRS),
    "FullyConv_unshared": Run(
        task=task("digit_pairs"), model=model("LeNet5_FullyConv", sharing=False), learning_rate=5e-2, **PAIRS
    ),
    "ResNet": Run(task=task("digit_pairs"), model=model("ResNet"), learning_rate=5e-3, **PAIRS),
    "ResNet_unshared": Run(task=task("digit_pairs"), model=model("ResNet", sharing=False), learning_rate=5e-3, **PAIRS),
    "constant": Run(task=task("pixel_statistic"), model=model("constant"), **PIXELS),
    "constant_zero": Run(
        task=task("pixel_statistic", statistic="median"),
        model=model("constant", statistic="zero", fit_on="test"),
        **PIXELS,
    ),
    "linear": Run(
        task=task("pixel_statistic", statistic="std", train_size=1000, validation_size=0),
        model=model("linear_regression"),
        data_seed=42,
        **PIXELS,
    ),
    "neighbours": Run(task=task("pixel_statistic"), model=model("nearest_neighbours", neighbours=3), **PIXELS),
    "boosting": Run(task=task("pixel_statistic"), model=model("gradient_boosting", trees=20), **PIXELS),
    "conv_range_test": Run(
        task=task("pixel_statistic"),
        model=model("ConvRegressor", extra_layers=10),
        learning_rate="range_test",
        epochs=30,
        batch_size=64,
        seed=42,
        data_seed=42,
        **PIXELS,
    ),
    "mlp_range_test_per_rate": Run(
        task=task("pixel_statistic", statistic="std"),
        model=model("MLPRegressor"),
        learning_rate="range_test_per_rate",
        optimizer="sgd",
        epochs=30,
        batch_size=64,
        **PIXELS,
    ),
    "teacher": TEACHER,
    "student": Run(
        task=task("image_classes", distillation="kl", temperature=3.0),
        model=model("notation", layers="64c-mp-640fc-10fc", width=0.5),
        learning_rate=1e-3,
        epochs=80,
        teacher=TEACHER,
        **CLASSES,
    ),
    "GoogLeNet": Run(
        task=task("image_classes", pad=2, channels=3, auxiliary=0.3, validation_size=5000),
        model=model("GoogLeNet", kernel=5, residual="projection"),
        augmentation=augmentation("flip_rotate_crop_jitter", rotation=15.0),
        schedule=schedule("steps", every=4),
        optimizer="sgd",
        momentum=0.9,
        learning_rate=0.01,
        epochs=20,
        watch_test=True,
        **CLASSES | {"dataset": "mnist", "keep_best": False},
    ),
    "NarrowVGG": Run(
        task=task("image_classes", classes="3,5", inputs="raw"),
        model=model("NarrowVGG", depth=13, variant="residual"),
        optimizer="rmsprop",
        learning_rate=1e-4,
        epochs=50,
        gradient_steps=200,
        precision="bfloat16",
        **CLASSES,
    ),
    "logistic": Run(task=task("image_classes", classes="3,5"), model=model("logistic_regression"), dataset="cifar10"),
}
EXPECTED = {
    "Net": "fb68860e157cbbf4",
    "Net_as_coded": "d28a3990ee15f191",
    "Net_unshared": "969101c8c7d6a31f",
    "LeNet5": "dd307497503f5247",
    "LeNet5_table2": "b7a9e6d824cd0ddc",
    "LeNet5_weight_decay": "1bd418249c239c49",
    "LeNet5_l1": "a173e3e95c876f84",
    "LeNet5_sgd": "f246e6e3afdeed8e",
    "LeNet5_once": "dccb07448c6ee79f",
    "LeNet5_train_mode": "48da3a25a680f0c1",
    "LeNet5_other_pairs": "fa22ac5434a0807a",
    "LeNet5_small": "b53f063d55eaea3f",
    "FullyConv": "cd925226852aee58",
    "FullyConv_unshared": "a3ee45e84987f668",
    "ResNet": "26ed7eab1a9b0817",
    "ResNet_unshared": "2580c2c41e37d876",
    "constant": "0b94a2a7348d174a",
    "constant_zero": "a5ee46eb5da3604b",
    "linear": "d48c46730b2b714c",
    "neighbours": "ec8e53ff13642a65",
    "boosting": "db2c52114d1f05f8",
    "conv_range_test": "149603a6a5b29f9f",
    "mlp_range_test_per_rate": "795572e3bd19c07e",
    "teacher": "d0a9bfc9bc122b3c",
    "student": "3bbd6ec8de016e24",
    "GoogLeNet": "54fc34769ac3e8b0",
    "NarrowVGG": "2e01dd3a086c899f",
    "logistic": "5a46a71b373d1138",
}

RUN = DIGESTS["Net_as_coded"]


def changed(**fields: object) -> Run:
    return dataclasses.replace(RUN, **fields)


def test_digests_never_change() -> None:
    assert {name: run.digest for name, run in DIGESTS.items()} == EXPECTED


def test_digest_is_that_of_the_canonical_json() -> None:
    text = (
        '{"batch_size":100,"dataset":"mnist","epochs":30,"evaluation_mode":"train","learning_rate":0.03,'
        '"loop_version":1,"model":{"name":"Net","options":{"head_batch_norm":true},"version":1},"seed":1,'
        '"shuffle":"once","task":{"name":"digit_pairs","options":{"auxiliary":1.0,"test_inputs":"raw"},"version":1}}'
    )
    assert canonical(RUN.to_json()) == text


def test_defaults_are_left_out() -> None:
    assert model("LeNet5", sharing=True, dropout=0.0, batch_norm=True) == model("LeNet5")
    assert task("digit_pairs", auxiliary=0, train_size=1000) == task("digit_pairs")
    plain = {"dataset": "fashion_mnist", "task": task("pixel_statistic"), "model": model("constant")}
    said = Run(optimizer="adam", weight_decay=0, l1=-0.0, shuffle="every_epoch", seed=0, loop_version=1, **plain)
    assert said.digest == Run(**plain).digest
    assert set(said.to_json()) == {"dataset", "task", "model", "loop_version"}


def test_a_range_test_is_a_learning_rate_of_its_own() -> None:
    runs = [changed(learning_rate=rate) for rate in (0.03, "range_test", "range_test_per_rate")]
    assert len({run.digest for run in runs}) == 3
    assert runs[1].to_json()["learning_rate"] == "range_test" and "learning_rate=range_test," in str(runs[1])
    again = Run.from_json(json.loads(json.dumps(runs[1].to_json())))
    assert again == runs[1] and again.digest == runs[1].digest
    with pytest.raises(
        ValueError, match="number above 0 or one of 'range_test', 'range_test_per_rate' or None, not 'rangetest'"
    ):
        changed(learning_rate="rangetest")
    with pytest.raises(ValueError, match="epochs >= 1 and batch_size >= 1, .* not range_test, 0 and 100"):
        changed(learning_rate="range_test", epochs=0)


def test_the_order_of_options_does_not_matter() -> None:
    assert model("LeNet5", dropout=0.5, sharing=False) == model("LeNet5", sharing=False, dropout=0.5)


@pytest.mark.parametrize("one", [1, 1.0, np.float64(1.0), np.float32(1.0), np.int64(1)])
def test_equal_numbers_give_equal_digests(one: object) -> None:
    spec = task("digit_pairs", auxiliary=one, test_inputs="raw")
    assert changed(task=spec, weight_decay=one).digest == changed(weight_decay=1.0).digest


def test_numpy_scalars_become_plain_values() -> None:
    run = changed(seed=np.int64(1), epochs=np.int32(30), learning_rate=np.float64(0.03))
    assert run == RUN and run.digest == RUN.digest
    assert type(run.seed) is int and type(run.learning_rate) is float
    assert model("Net", head_batch_norm=np.bool_(True)) == RUN.model


def test_every_field_is_part_of_the_digest() -> None:
    others = [
        changed(dataset="digits_28"),
        changed(task=task("digit_pairs")),
        changed(model=model("Net")),
        changed(learning_rate=0.3),
        changed(optimizer="sgd"),
        changed(weight_decay=0.1),
        changed(l1=0.1),
        changed(epochs=29),
        changed(batch_size=99),
        changed(shuffle="every_epoch"),
        changed(evaluation_mode="eval"),
        changed(seed=2),
        changed(data_seed=1),
        changed(loop_version=2),
        changed(optimizer="sgd", momentum=0.9),
        changed(schedule=schedule("plateau")),
        changed(augmentation=augmentation("flip_crop")),
        changed(watch_test=True),
        changed(keep_best=True),
        changed(precision="bfloat16"),
        changed(gradient_steps=1),
        changed(teacher=changed(seed=9)),
    ]
    assert len(others) == len(dataclasses.fields(Run))
    assert len({run.digest for run in [RUN, *others]}) == 1 + len(others)


@pytest.mark.parametrize("name", DIGESTS)
def test_json_there_and_back(name: str) -> None:
    run = DIGESTS[name]
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again == run and again.digest == run.digest and hash(again) == hash(run)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"dataset": "minst"},
            "dataset must be one of 'mnist', 'fashion_mnist', 'cifar10', 'digits_28', 'digits_32', not 'minst'",
        ),
        ({"optimizer": "adamw"}, "optimizer must be one of 'adam', 'sgd', 'rmsprop', not 'adamw'"),
        ({"momentum": 0.9}, "momentum is of the optimizer sgd"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16'"),
        ({"schedule": "plateau"}, "schedule must be Spec or None"),
        ({"teacher": changed(dataset="digits_28")}, "share the split"),
        ({"shuffle": "never"}, "shuffle must be one of 'every_epoch', 'once'"),
        ({"evaluation_mode": "test"}, "evaluation_mode must be one of 'eval', 'train'"),
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number"),
        (
            {"learning_rate": "0.1"},
            "learning_rate must be a finite number above 0 or one of 'range_test', .*, not '0.1'",
        ),
        ({"learning_rate": None}, "needs a learning_rate"),
        ({"weight_decay": -1e-4}, "weight_decay must be a finite number from 0, not -0.0001"),
        ({"l1": -1e-4}, "l1 must be a finite number from 0"),
        ({"l1": True}, "l1 must be a finite number from 0, not True"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"epochs": -1}, "epochs must be an integer from 0, not -1"),
        ({"epochs": 2.0}, "epochs must be an integer"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"seed": "1"}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"data_seed": None}, "data_seed must be an integer"),
        ({"model": "Net"}, "model must be Spec"),
        ({"task": None}, "task must be Spec"),
    ],
)
def test_impossible_runs(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        changed(**fields)


def test_a_misspelt_field_is_no_run() -> None:
    with pytest.raises(TypeError, match="learning_rte"):
        changed(learning_rte=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        Run.from_json(RUN.to_json() | {"epoch": 3})


@pytest.mark.parametrize(
    ("registry", "name", "options", "words"),
    [
        (MODELS, "LeNet", {}, "no model is called 'LeNet'; there are: .*LeNet5, .*Net"),
        (MODELS, "LeNet5", {"drop": 0.5}, "has no option 'drop'; its options are: sharing, batch_norm, dropout"),
        (MODELS, "linear_regression", {"x": 1}, "its options are: none"),
        (MODELS, "LeNet5", {"dropout": "a"}, "option 'dropout' of model 'LeNet5' must be a finite number, not 'a'"),
        (MODELS, "LeNet5", {"dropout": 1.5}, "cannot be made with {'dropout': 1.5}"),
        (MODELS, "LeNet5", {"dropout": math.nan}, "must be a finite number"),
        (MODELS, "LeNet5", {"sharing": 1}, "must be True or False, not 1"),
        (
            MODELS,
            "constant",
            {"statistic": "mode"},
            "'statistic' of model 'constant' must be one of 'zero', 'mean', 'median', not 'mode'",
        ),
        (MODELS, "constant", {"fit_on": "validation"}, "must be one of 'train', 'test'"),
        (MODELS, "nearest_neighbours", {"neighbours": 0}, "must be an integer from 1, not 0"),
        (MODELS, "gradient_boosting", {"trees": 0}, "must be an integer from 1, not 0"),
        (TASKS, "pairs", {}, "no task is called 'pairs'; there are: digit_pairs, .*pixel_statistic"),
        (TASKS, "digit_pairs", {"aux": 1.0}, "its options are: auxiliary, train_size, test_size, test_inputs"),
        (TASKS, "digit_pairs", {"auxiliary": -1}, "must be a finite number from 0, not -1"),
        (TASKS, "digit_pairs", {"train_size": 0}, "must be an integer from 1, not 0"),
        (TASKS, "digit_pairs", {"train_size": 2.5}, "must be an integer"),
        (TASKS, "digit_pairs", {"test_inputs": "scaled"}, "must be one of 'standardised', 'raw', not 'scaled'"),
        (TASKS, "pixel_statistic", {"statistic": "mode"}, "must be one of 'mean', 'median', 'std', not 'mode'"),
        (TASKS, "pixel_statistic", {"train_size": -1}, "must be an integer from 0, not -1"),
    ],
)
def test_impossible_specs(registry: object, name: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry.spec(name, **options)


def test_a_run_in_words() -> None:
    assert str(RUN) == (
        "Net(head_batch_norm=True) on mnist, auxiliary=1.0, test_inputs=raw, learning_rate=0.03, epochs=30, "
        "batch_size=100, shuffle=once, evaluation_mode=train, seed=1"
    )


def test_local_specs() -> None:
    assert not RUN.model.local
    assert Spec("mine", "source-0123").local


def test_a_result_there_and_back_through_strict_json() -> None:
    metrics = {"test_error": math.nan, "by_distance": [1.0, math.nan], "nested": {"x": -math.inf}, "n": 3}
    result = Result(run=RUN, status="diverged", metrics=metrics, history={"loss": [0.5, math.nan]}, diverged_at_step=12)
    text = json.dumps(result.to_json(), allow_nan=False)
    again = Result.from_json(json.loads(text))
    assert math.isnan(again.metrics["test_error"]) and math.isnan(again.metrics["nested"]["x"])
    assert again.metrics["by_distance"][0] == 1.0 and math.isnan(again.metrics["by_distance"][1])
    assert again.metrics["n"] == 3 and again.history["loss"][0] == 0.5 and math.isnan(again.history["loss"][1])
    assert (again.run, again.status, again.diverged_at_step) == (RUN, "diverged", 12)
    assert again.to_json() == result.to_json()


def test_numbers_keep_their_bits_in_the_record() -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    record = json.loads(json.dumps(Result(run=RUN, status="finished", metrics={"x": values}).to_json()))
    assert [x.hex() for x in Result.from_json(record).metrics["x"]] == [x.hex() for x in values]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_needs_no_torch_imports_none() -> None:
    light = ["runs.store", "sweeps.sweep", "sweeps.workers", "reports.parameters", "results.statistics"]
    loaded = modules_after("; ".join(f"import deepnets_utils.{name}" for name in light))
    assert not loaded & {"torch", "torchvision", "matplotlib", "sklearn"}
    assert "filelock" in loaded, "the list of modules is a real one"


def test_the_package_alone_imports_nothing_large() -> None:
    loaded = modules_after("import deepnets_utils")
    assert not loaded & {"torch", "torchvision", "matplotlib", "numpy", "pandas", "scipy", "sklearn"}


def test_a_digest_is_the_same_in_any_process() -> None:
    code = (
        "from deepnets_utils.runs.run import Run; import json, sys; print(Run.from_json(json.load(sys.stdin)).digest)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(RUN.to_json()), capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == RUN.digest, done.stderr


def made_anew(run: Run) -> Run:
    """The run as a notebook would make it with the code as it is."""
    makers = {"task": task, "model": model, "schedule": schedule, "augmentation": augmentation}
    parts = {key: make(spec.name, **dict(spec.options)) for key, make in makers.items() if (spec := getattr(run, key))}
    teacher = run.teacher and made_anew(run.teacher)
    return dataclasses.replace(run, **parts, teacher=teacher, loop_version=LOOP_VERSION)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_run_made_anew_is_the_same(name: str) -> None:
    assert made_anew(DIGESTS[name]).digest == EXPECTED[name]


@pytest.mark.filterwarnings("error")
def test_published_records_are_whole_and_of_the_code_as_it_is() -> None:
    files = sorted(RECORDS.glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(files) >= 5 and len(records) > 1000
    for record in records:
        run = Run.from_json(record["run"])
        assert run.digest == made_anew(run).digest == record["digest"], "else the run counts as missing"
    assert sum(1 for file in files for _ in read_records(file)) == len(records), "no line is left out"


def test_defaults_and_versions_never_change() -> None:
    # No digest holds a default: with another one a record would stand for a training that was never done.
    found: dict = {f"Run's {item.name}": item.default for item in dataclasses.fields(Run)}
    for registry in (TASKS, MODELS, SCHEDULES, AUGMENTATIONS):
        own = {name: version for name, version in registry._versions.items() if isinstance(version, int)}
        for name, version in own.items():
            defaults = {option: default for option, (_, default) in _options(registry._factories[name]).items()}
            found[f"{registry.kind} {name}"] = {"version": version} | defaults
    found = {name: default for name, default in found.items() if default is not dataclasses.MISSING}
    expected = json.loads((Path(__file__).with_name("defaults.json")).read_text())
    assert found == expected, "add what is new to tests/runs/defaults.json; with another default raise the version"
