"""Where tensors are: what a step on a GPU touches, told without one."""

from typing import Any

import pytest
import torch
from test_stack import MODELS_AND_RECIPES, TEN, classes, make_run, runs_of, splits_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.tasks import Split, build_task
from deepnets_utils.models import build_model
from deepnets_utils.runs.run import Run
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.loop import train_step
from deepnets_utils.training.optimizers import make_optimizer, set_rates
from deepnets_utils.training.stack import Stack, each, gradient_norms, joined, load_states, side_by_side, states

CUDA = torch.device("cuda")
AUGMENTED = [{}, *({"augmentation": augmentation(name)} for name in ("flip_crop", "flip_rotate_crop_jitter"))]


class NothingLeavesTheDevice(TorchDispatchMode):
    """Fails where a step would copy between host and device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        assert all(tensor.is_meta or tensor.dim() == 0 for tensor in tensors), function
        moved = {tensor.device.type for tensor in tensors} if "copy" in function.name() else set()
        assert len(moved) < 2, function
        return result


@pytest.mark.parametrize("case", MODELS_AND_RECIPES)
@pytest.mark.parametrize("stacked", [True, False])
def test_a_step_touches_nothing_but_its_device(case: str, stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Adam", "SGD"):  # on the meta device none is fused
        real = getattr(torch.optim, kind)
        monkeypatch.setattr(torch.optim, kind, lambda *a, real=real, **of: real(*a, **of | {"fused": False}))
    # The meta device has no numbers: what reads one, and so would wait for a GPU, fails there.
    runs = runs_of(MODELS_AND_RECIPES[case])[: None if stacked else 1]
    split, meta = splits_of(runs[0])["train"], torch.device("meta")
    network = (Stack([build_model(run.model) for run in runs]) if stacked else build_model(runs[0].model)).to(meta)
    optimizer = make_optimizer(runs[0], network, [1e-3] * len(runs))
    shape = (len(runs), 4) if stacked else (4,)
    x = torch.empty(*shape, *split.inputs.shape[1:], device=meta)
    y = torch.empty(*shape, *split.targets.shape[1:], dtype=split.targets.dtype, device=meta)
    learned = build_task(runs[0].task)
    with NothingLeavesTheDevice():
        train_step(runs[0], learned, network.train(), optimizer, x, y)
        gradient_norms(network)


def on_cuda(run: Run, stacked: bool, misplaced: str = "") -> None:
    """Pass a run's batches through networks on a CUDA device that is not there: shapes and places, no numbers.

    misplaced: "inputs" or "weights" are left on the CPU.
    """
    real = splits_of(run)["train"]
    with FakeTensorMode():
        places = [torch.device("cpu") if misplaced == part else CUDA for part in ("inputs", "weights")]
        with torch.device(places[1]):
            networks = [build_model(run.model) for _ in range(2)]
            network = Stack(networks) if stacked else networks[0]
        parts = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=places[0])
            for name, tensor in vars(real).items()
            if tensor is not None
        }
        split, orders = Split(**parts), [torch.randperm(len(real)) for _ in range(2 if stacked else 1)]
        if stacked:
            split = side_by_side([split, split], places[0])
        teacher = networks[1].eval() if run.teacher else None
        batches = Batches([run, run] if stacked else [run], teacher, stacked)
        for number, (x, y) in enumerate(batches.training(split, orders, 0)):
            assert x.device.type == y.device.type == "cuda", "inputs and targets of a batch"
            if number == 0:
                outputs = network(x)
                loss, learned = each(network, build_task(run.task).loss)(outputs, y), build_task(run.task)
                counted = [each(network, learned.hits)(outputs, y)] if hasattr(learned, "hits") else []
                assert all(part.device.type == "cuda" for part in (loss, *counted))
        network.eval()
        passed = [(network(x), y) for x, y in batches.in_order(split)]
        assert all(tensor.device.type == "cuda" for tensor in tree_leaves(passed))
        joined(network, [outputs for outputs, _ in passed])
        if stacked:
            optimizer = make_optimizer(run, network, [1e-3, 1e-2])
            set_rates(optimizer, [1e-2, 1e-3])
            assert optimizer.rates.device.type == "cuda"


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("case", MODELS_AND_RECIPES)
def test_all_of_a_batch_is_on_the_networks_device(case: str, stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda *_, **__: None)  # GoogLeNet's: it looks at numbers
    on_cuda(runs_of(MODELS_AND_RECIPES[case])[0], stacked)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("fields", AUGMENTED, ids=["plain", "flip_crop", "flip_rotate_crop_jitter"])
def test_augmentation_and_teacher_are_on_the_networks_device(fields: dict[str, Any], stacked: bool) -> None:
    taught = TEN | {"task": classes(40, distillation="kl"), "teacher": make_run(**TEN)}
    on_cuda(make_run(**taught | fields), stacked)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("misplaced", ["inputs", "weights"])
def test_a_tensor_on_the_wrong_device_is_found(misplaced: str, stacked: bool) -> None:
    with pytest.raises((AssertionError, RuntimeError), match="of a batch|device"):
        on_cuda(make_run(**TEN), stacked, misplaced)


def test_best_weights_of_a_checkpoint_are_put_beside_those_of_the_device() -> None:
    with FakeTensorMode(), CUDA:
        network = Stack([build_model(make_run(**TEN).model) for _ in range(2)])
        mixed = [{name: torch.empty_like(tensor, device="cpu") for name, tensor in states(network)[0].items()}]
        load_states(network, [*mixed, states(network)[1]])
        assert network.weights.device.type == "cuda"
