import numpy as np
import pytest
import torch
from torch import nn

from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.models import build_model, model
from deepnets_utils.models.residual import ResidualBlock
from deepnets_utils.models.siamese import PairLogits, Siamese
from deepnets_utils.models.vgg import Stage
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.training.train import train

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
# Source: go_deep, Figure 1 and Section 3.1 (widths 120 and 60 are those of the network that it cites as its base).
REGRESSORS = {
    model("ConvRegressor"): 32_449,
    model("ConvRegressor", extra_layers=1): 33_757,
    model("ConvRegressor", extra_layers=2): 35_065,
    model("ConvRegressor", extra_layers=3): 36_373,
    model("ConvRegressor", extra_layers=4): 37_681,
    model("ConvRegressor", extra_layers=5): 38_989,
    model("ConvRegressor", extra_layers=10): 45_529,
    model("MLPRegressor"): 101_521,
    model("MLPRegressor", hidden1=40, hidden2=25): 32_451,
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
    block = kinds(network, ResidualBlock)[0]
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


# -- regression of a pixel statistic --------------------------------------------------------------


def images(number: int = 6) -> torch.Tensor:
    return torch.rand(number, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", REGRESSORS, ids=str)
def test_parameter_counts_of_the_regressors(spec: Spec) -> None:
    assert count(build_model(spec)) == REGRESSORS[spec]


@pytest.mark.parametrize("spec", REGRESSORS, ids=str)
def test_regressors_forward_and_backward(spec: Spec) -> None:
    torch.manual_seed(0)
    network = build_model(spec)
    outputs = network(images())
    assert outputs.shape == (6, 1) and outputs.dtype == torch.float32
    build_task(task("pixel_statistic")).loss(outputs, images().mean((1, 2, 3))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_layers_of_the_regressors() -> None:
    network = build_model(model("ConvRegressor", extra_layers=2))
    layers = [(layer.weight.shape[:2], layer.kernel_size, layer.padding) for layer in kinds(network, nn.Conv2d)]
    extra = ((12, 12), (3, 3), (1, 1))
    assert layers == [((6, 1), (5, 5), (0, 0)), ((12, 6), (5, 5), (0, 0)), extra, extra]
    assert [tuple(layer.weight.shape) for layer in kinds(network, nn.Linear)] == [(120, 192), (60, 120), (1, 60)]
    assert len(kinds(network, nn.ReLU)) == 4 + 2 and type(network[-1]) is nn.Linear, "none after the last layer"
    mlp = build_model(model("MLPRegressor"))
    assert [tuple(layer.weight.shape) for layer in kinds(mlp, nn.Linear)] == [(120, 784), (60, 120), (1, 60)]
    assert len(kinds(mlp, nn.ReLU)) == 2 and not kinds(mlp, nn.Conv2d)


def test_pooling_before_the_relu_is_the_relu_before_pooling() -> None:
    torch.manual_seed(0)
    network = build_model(model("ConvRegressor", extra_layers=1))
    layers = list(network)
    assert [type(layer) for layer in layers[:6]] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU] * 2
    as_drawn = nn.Sequential(*(layers[place] for place in (0, 2, 1, 3, 5, 4)), *layers[6:])
    results = []
    for order in (network, as_drawn):
        order.zero_grad()
        outputs = order(images() - 0.5)
        outputs.square().sum().backward()
        results.append([outputs.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True)), "values and gradients, to the bit"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ConvRegressor", {"extra_layers": -1}, "'extra_layers' .* must be an integer from 0, not -1"),
        (
            "ConvRegressor",
            {"extra_layers": 1.5},
            "option 'extra_layers' of model 'ConvRegressor' must be an integer from 0, not 1.5",
        ),
        ("ConvRegressor", {"depth": 3}, "has no option 'depth'; its options are: extra_layers"),
        ("MLPRegressor", {"hidden1": 0}, "'hidden1' .* must be an integer from 1, not 0"),
        ("MLPRegressor", {"hidden2": -5}, "'hidden2' .* must be an integer from 1, not -5"),
        ("MLPRegressor", {"hidden": 5}, "has no option 'hidden'; its options are: hidden1, hidden2"),
    ],
)
def test_impossible_regressors(name: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(name, **options)


# -- shallow and narrow networks for one binary question -------------------------------------------

BINARY = {
    model("ShallowNet"): 95_297,
    model("NarrowVGG", depth=11): 1_759_841,
    model("NarrowVGG", depth=13): 1_771_409,
}


@pytest.mark.parametrize("spec", BINARY, ids=str)
def test_parameter_counts_of_the_binary_networks(spec: Spec) -> None:
    network = build_model(spec)
    assert count(network) == BINARY[spec]
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 1)


@pytest.mark.parametrize("depth", [11, 13])
def test_variants_of_a_narrow_vgg(depth: int) -> None:
    plain = count(build_model(model("NarrowVGG", depth=depth)))
    normed = build_model(model("NarrowVGG", depth=depth, variant="batch_norm"))
    widths = [layer.out_channels for layer in kinds(normed, nn.Conv2d)]
    assert len(widths) == depth - 3 and count(normed) - plain == 2 * sum(widths)
    residual = build_model(model("NarrowVGG", depth=depth, variant="residual"))
    projections = [layer for layer in kinds(residual, nn.Conv2d) if layer.kernel_size == (1, 1)]
    assert [(layer.in_channels, layer.out_channels) for layer in projections] == [
        (3, 16),
        (16, 32),
        (32, 64),
        (64, 128),
    ]
    assert count(residual) - plain == sum(count(layer) for layer in projections)


@pytest.mark.parametrize("inputs", [8, 4])
def test_a_residual_stage_adds_its_input_before_the_last_relu(inputs: int) -> None:
    torch.manual_seed(0)
    stage, x = Stage(inputs, 8, 2, "residual"), torch.randn(2, inputs, 6, 6)
    assert torch.equal(stage(x), (stage.layers(x) + stage.skip(x)).relu())
    assert not torch.equal(stage(x), stage.layers(x).relu())


def test_he_draws_weights_of_variance_two_over_inputs() -> None:
    torch.manual_seed(0)
    for name in ("ShallowNet", "NarrowVGG"):
        for layer in kinds(build_model(model(name, initialisation="he")), (nn.Conv2d, nn.Linear)):
            if layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)
            assert not layer.bias.any()


# -- the linear classifier ------------------------------------------------------------------------


def test_logistic_regression_gives_logits_and_shrinks_with_its_penalty() -> None:
    draw = np.random.default_rng(0)
    inputs = draw.random((200, 12), dtype=np.float32)
    targets = (inputs[:, 3] > 0.5).astype(float)
    sizes = []
    for penalty in (0.01, 100.0):
        estimator = build_model(model("logistic_regression", penalty=penalty))
        logits = estimator.fit(inputs, targets).predict(inputs)
        assert logits.shape == (200, 1) and estimator.fit_on == "train"
        assert ((logits[:, 0] > 0) == targets).mean() > 0.85
        sizes.append(np.abs(logits).mean())
    assert sizes[1] < 0.2 * sizes[0]
    three = estimator.fit(inputs, np.arange(200) % 3.0).predict(inputs)
    assert three.shape == (200, 3)


def test_logistic_regression_is_a_run_measured_on_all_splits() -> None:
    digits = task("image_classes", classes="3,5", train_size=200, validation_size=60, test_size=60)
    result = train(Run(dataset="digits_32", task=digits, model=model("logistic_regression", penalty=100.0)))
    accuracies = {name: result.metrics[f"{name}_accuracy"] for name in ("train", "validation", "test")}
    assert accuracies["train"] > 95 and min(accuracies.values()) > 85, accuracies
    assert result.metrics["test_error"] == pytest.approx(100 - accuracies["test"])
    assert result.metrics["test_loss"] < 0.5 and result.provenance["path"] == "estimator"


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_impossible_penalties(penalty: float) -> None:
    with pytest.raises(ValueError, match="'penalty' .* must be a finite number above 0"):
        model("logistic_regression", penalty=penalty)
