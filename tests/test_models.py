import pytest
import torch
from torch import nn

from deepnets_utils.models import build_model, model
from deepnets_utils.models.siamese import PairLogits, Siamese
from deepnets_utils.runs import Spec
from deepnets_utils.tasks import build_task, task

# Source: siamese, Section II and Table I, and the authors' code (Net with batch norm in the head).
PARAMETERS = {
    ("LeNet5", True): 62_520,
    ("LeNet5_FullyConv", True): 63_092,
    ("Net", True): 15_460,
    ("ResNet", True): 58_244,
    ("LeNet5", False): 123_382,
    ("LeNet5_FullyConv", False): 124_382,
    ("Net", False): 29_262,
    ("ResNet", False): 114_830,
}
VARIANTS = [model(name, sharing=sharing) for name, sharing in PARAMETERS] + [
    model("Net", head_batch_norm=True),
    model("LeNet5", batch_norm=False, dropout=0.25),
]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def kinds(network: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


def pairs(number: int = 6) -> torch.Tensor:
    return torch.randn(number, 2, 14, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "sharing"), PARAMETERS)
def test_published_parameter_counts(name: str, sharing: bool) -> None:
    assert count(build_model(model(name, sharing=sharing))) == PARAMETERS[name, sharing]


def test_parameter_counts_of_the_variants() -> None:
    assert count(build_model(model("Net", head_batch_norm=True))) == 15_604
    assert count(build_model(model("Net", head_batch_norm=True, sharing=False))) == 29_406
    assert count(build_model(model("LeNet5", dropout=0.25))) == 62_520, "dropout has no parameters"
    assert count(build_model(model("LeNet5", batch_norm=False))) == 62_520 - 2 * (32 + 64)


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_shapes(spec: Spec) -> None:
    outputs = build_model(spec)(pairs())
    assert isinstance(outputs, PairLogits)
    assert outputs.comparison.shape == (6, 2) and outputs.digits.shape == (6, 2, 10)
    assert outputs.comparison.dtype == outputs.digits.dtype == torch.float32


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_every_parameter_has_a_finite_gradient(spec: Spec) -> None:
    torch.manual_seed(0)
    network = build_model(spec)
    targets = torch.tensor([[1, 2, 3], [0, 9, 4], [1, 0, 0], [1, 5, 6], [0, 8, 7], [1, 1, 1]])
    build_task(task("digit_pairs", auxiliary=1.0)).loss(network(pairs()), targets).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias in front of batch norm is subtracted again: its gradient is zero but for rounding.
        assert parameter.dim() == 1 or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["Net", "LeNet5", "LeNet5_FullyConv", "ResNet"])
@pytest.mark.parametrize("sharing", [True, False])
def test_batch_norm_sees_each_digit_apart(name: str, sharing: bool) -> None:
    network = build_model(model(name, sharing=sharing))
    network(pairs())
    branches = kinds(network.branches, nn.BatchNorm2d)
    assert branches and {norm.num_batches_tracked.item() for norm in branches} == {2 if sharing else 1}
    head = kinds(network.head, nn.BatchNorm1d)
    assert [norm.num_batches_tracked.item() for norm in head] == [1] * (name == "LeNet5_FullyConv")


@pytest.mark.parametrize("name", ["Net", "LeNet5", "LeNet5_FullyConv", "ResNet"])
def test_a_shared_branch_reads_both_digits_alike(name: str) -> None:
    torch.manual_seed(0)
    shared, apart = (build_model(model(name, sharing=sharing)).eval() for sharing in (True, False))
    swapped = pairs().flip(1)
    torch.testing.assert_close(shared(swapped).digits, shared(pairs()).digits.flip(1))
    assert not torch.allclose(apart(swapped).digits, apart(pairs()).digits.flip(1))
    first_changed = pairs()
    first_changed[:, 0] += 1
    digits, before = shared(first_changed).digits, shared(pairs()).digits
    assert torch.equal(digits[:, 1], before[:, 1]) and not torch.allclose(digits[:, 0], before[:, 0])


def test_the_first_digit_is_the_first_logits() -> None:
    class Sum(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.sum((1, 2, 3))[:, None].expand(-1, 10)

    images = torch.zeros(1, 2, 14, 14)
    images[0, 0], images[0, 1] = 1, 2
    outputs = Siamese(Sum, nn.Identity(), sharing=True)(images)
    assert outputs.digits[0, :, 0].tolist() == [196, 392]
    assert outputs.comparison[0].tolist() == [196] * 10 + [392] * 10


def test_layers_of_lenet5() -> None:
    network = build_model(model("LeNet5", dropout=0.25))
    assert [layer.p for layer in kinds(network, nn.Dropout)] == [0.25] * 2, "one object in the branch, one in the head"
    assert sum(isinstance(layer, nn.Dropout) for layer in network.branches[0]) == 2
    shapes = [tuple(layer.weight.shape) for layer in kinds(network, nn.Linear)]
    assert shapes == [(120, 256), (84, 120), (10, 84), (72, 20), (2, 72)]
    assert not kinds(build_model(model("LeNet5", batch_norm=False)), (nn.BatchNorm1d, nn.BatchNorm2d))
    assert not kinds(build_model(model("LeNet5")), nn.Dropout)


def test_net_has_batch_norm_after_the_heads_relu() -> None:
    head = build_model(model("Net", head_batch_norm=True)).head
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Linear]


def test_the_residual_block_is_an_identity_when_its_layers_are_silent() -> None:
    network = build_model(model("ResNet")).eval()
    block = next(module for module in network.modules() if type(module).__name__ == "ResidualBlock")
    nn.init.zeros_(block.layers[-1].weight)
    nn.init.zeros_(block.layers[-1].bias)
    features = torch.rand(2, 32, 14, 14)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize("name", ["Net", "LeNet5", "LeNet5_FullyConv", "ResNet"])
def test_the_memory_format_does_not_change_what_is_computed(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(model(name)).eval()
    plain = network(pairs())
    fast = network.to(memory_format=torch.channels_last)(pairs().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast.comparison, plain.comparison, rtol=1e-4, atol=1e-5)
