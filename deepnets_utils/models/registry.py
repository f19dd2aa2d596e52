"""Models by name: `model("LeNet5", sharing=True)` is a value that `build_model` turns into a network."""

from collections.abc import Callable
from typing import Any

import torch

from deepnets_utils.runs.registry import Registry


def _on_meta(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build()


MODELS = Registry("model", try_out=_on_meta)
model = MODELS.spec
register_model = MODELS.register
build_model = MODELS.build
