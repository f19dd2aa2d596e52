"""Studies of made-up runs: what tests of Study begin with."""

from deepnets_utils.data.tasks import task
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.study import Study

NAME = "05_siamese_ablation"
PROVENANCE = {"wall_seconds": 30.0, "cpu_seconds": 20.0, "device": "x", "data_fingerprint": CANONICAL["digits_28"]}


def study(**values) -> Study:
    return Study(NAME, {"workers": 1, "device": "cpu"} | values)


def digits_run(seed: int) -> Run:
    return Run(dataset="digits_28", task=task("pixel_statistic"), model=Spec("fake", 1), seed=seed)
