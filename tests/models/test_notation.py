import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepnets_utils.data.tasks import task
from deepnets_utils.models import build_model, model
from deepnets_utils.models.cost import cost, multiply_adds, training_operations
from deepnets_utils.models.residual import ResidualBlock
from deepnets_utils.models.siamese import Net
from deepnets_utils.runs.run import Run
from deepnets_utils.training.train import train

TEACHER_1 = {
    "layers": "76c2-mp-126c2-mp-148c4-mp-1200fc2-10fc",
    "dropout": "mp1:0.2,mp2:0.3,mp3:0.37,fc2:0.42",
}
DEEP_RESNET = {"layers": "64c8-128c12-256c16-10fc", "residual": True}
SHALLOW_RESNET = {"layers": "128c2-512c4-10fc", "residual": True}
# Source: distillation, Tables 1, 2 and 6, which print 5M and 10M; parameters, then multiply-adds of one image.
NETWORKS = {
    "Teacher-1": (TEACHER_1, 5_346_142, 166_859_232),
    "Deep-ResNet": (DEEP_RESNET, 11_154_698, 1_289_619_968),
    "3-layer-1-CONV": ({"layers": "64c-mp-640fc-10fc"}, 10_496_010, 12_261_632),
    "4-layer-2-CONV": ({"layers": "64c2-mp-600fc-10fc"}, 9_877_186, 49_354_608),
    "3-layer-linear": ({"layers": "2048fc2-10fc"}, 10_518_538, 10_506_240),
    "4-layer-linear": ({"layers": "1200fc-2400fc-1800fc-10fc"}, 10_920_610, 10_904_400),
    "Shallow-ResNet": (SHALLOW_RESNET, 7_895_562, 2_134_643_712),
    "Deep-linear": ({"layers": "256fc8-512fc6-1024fc8-10fc"}, 10_601_482, 10_561_536),
}


def network_of(**options: object) -> nn.Sequential:
    return build_model(model("notation", **options))


def on_meta(**options: object) -> nn.Sequential:
    with torch.device("meta"):
        return network_of(**options)


def counted(network: nn.Module, shape: tuple[int, ...]) -> int:
    return multiply_adds(network.to("meta"), shape)


def images(number: int = 8) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def kinds(network: nn.Module, kind: type | tuple) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(layer.weight.shape) for layer in kinds(network, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_multiply_adds_of_the_document(name: str) -> None:
    options, parameters, cost = NETWORKS[name]
    network = on_meta(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert multiply_adds(network, (3, 32, 32)) == cost


def test_a_residual_network_that_does_not_shrink_costs_nine_times_more() -> None:
    network = on_meta(**DEEP_RESNET, stride=1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_154_698
    assert multiply_adds(network, (3, 32, 32)) == 11_406_281_216


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    network = network_of(**NETWORKS[name][0], width=0.06)
    outputs = network(images())
    assert outputs.shape == (8, 10) and outputs.dtype == torch.float32
    F.cross_entropy(outputs, torch.arange(8)).backward()
    for place, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), place
        # A bias in front of batch norm is subtracted again: its gradient is zero but for rounding.
        assert parameter.dim() == 1 or parameter.grad.abs().sum() > 0, place


def test_the_layers_in_order() -> None:
    network = network_of(layers="4c2-mp-6c-mp-5fc2-3fc")
    convolution = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    pooled = [nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in network] == [
        *convolution, *pooled, *pooled, nn.Flatten, *hidden, *hidden, nn.Linear
    ]  # fmt: skip
    assert shapes(network) == [(4, 3, 3, 3), (4, 4, 3, 3), (6, 4, 3, 3), (5, 6 * 8 * 8), (5, 5), (3, 5)]
    assert {(layer.padding, layer.stride) for layer in kinds(network, nn.Conv2d)} == {((1, 1), (1, 1))}
    assert all(layer.bias is not None for layer in kinds(network, (nn.Conv2d, nn.Linear)))


def test_pooling_in_front_of_the_relu_is_the_same_function() -> None:
    torch.manual_seed(0)
    network = network_of(layers="4c-mp-10fc")
    convolution, norm, pool, relu, *rest = network
    outputs = network(images())
    outputs.square().sum().backward()
    gradient = convolution.weight.grad.clone()
    convolution.weight.grad = None
    other = nn.Sequential(convolution, norm, relu, pool, *rest)(images())
    other.square().sum().backward()
    assert torch.equal(outputs, other) and torch.equal(gradient, convolution.weight.grad)


@pytest.mark.parametrize("layers", ["mp-10fc", "mp-4c-10fc", "4c-mp-mp-mp-mp-mp-10fc", "4c-5fc-10fc"])
def test_shapes_of_unusual_networks(layers: str) -> None:
    assert network_of(layers=layers)(images()).shape == (8, 10)


def test_the_default_is_a_linear_classifier() -> None:
    assert shapes(network_of()) == [(10, 3 * 32 * 32)]
    assert [type(layer) for layer in network_of()] == [nn.Flatten, nn.Linear]


def test_dropout_of_teacher_1() -> None:
    layers = list(on_meta(**TEACHER_1))
    places = {}
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Dropout):
            before = layers[:number]
            pools, linears = (sum(isinstance(one, kind) for one in before) for kind in (nn.MaxPool2d, nn.Linear))
            places[layer.p] = (pools, linears, type(before[-2]), type(before[-1]))
    assert places == {
        0.2: (1, 0, nn.MaxPool2d, nn.ReLU),
        0.3: (2, 0, nn.MaxPool2d, nn.ReLU),
        0.37: (3, 0, nn.MaxPool2d, nn.ReLU),
        0.42: (3, 2, nn.BatchNorm1d, nn.ReLU),
    }
    assert not kinds(on_meta(layers=TEACHER_1["layers"]), nn.Dropout)


def test_dropout_of_a_residual_network() -> None:
    network = network_of(layers="4c2-mp-5fc-10fc", residual=True, dropout="fc1:0.5,mp1:0.05")
    assert [(number, layer.p) for number, layer in enumerate(network) if isinstance(layer, nn.Dropout)] == [
        (2, 0.05),
        (8, 0.5),
    ]


@pytest.mark.parametrize(
    ("width", "widths"),
    [(1.0, [76, 76, 126, 1200]), (0.25, [19, 19, 32, 300]), (2.0, [152, 152, 252, 2400]), (0.001, [1, 1, 1, 1])],
)
def test_width_multiplies_every_layer_but_the_classes(width: float, widths: list[int]) -> None:
    network = on_meta(layers="76c2-mp-126c-1200fc-10fc", width=width)
    assert [shape[0] for shape in shapes(network)] == [*widths, 10]


def test_width_of_a_residual_network() -> None:
    network = network_of(**DEEP_RESNET, width=0.001)
    assert {shape[:2] for shape in shapes(network)} == {(1, 3), (1, 1), (10, 1)}
    strides = [pair.layers[0].stride for pair in kinds(network, ResidualBlock)]
    assert strides.count((2, 2)) == 2, "where the written width changes, whatever the multiplier makes of it"
    assert network(images()).shape == (8, 10)


@pytest.mark.parametrize(("stride", "sizes"), [(2, (32, 16, 8)), (1, (32, 32, 32))])
def test_pairs_of_the_deep_residual_network(stride: int, sizes: tuple[int, ...]) -> None:
    network = on_meta(**DEEP_RESNET, stride=stride)
    pairs = kinds(network, ResidualBlock)
    assert [type(layer) for layer in network] == [ResidualBlock] * 18 + [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    widths = [64] * 4 + [128] * 6 + [256] * 8
    assert [pair.layers[3].out_channels for pair in pairs] == widths
    assert [number for number, pair in enumerate(pairs) if kinds(pair.skip, nn.Conv2d)] == [0, 4, 10]
    features = torch.empty(1, 3, 32, 32, device="meta")
    for number, pair in enumerate(pairs):
        features = pair(features)
        size = sizes[(64, 128, 256).index(widths[number])]
        assert features.shape == (1, widths[number], size, size)
    assert all(layer.bias is None for layer in kinds(network, nn.Conv2d))
    assert network[-1].bias is not None


def test_a_skip_passes_over_two_convolutions() -> None:
    torch.manual_seed(0)
    changed, same = kinds(network_of(layers="6c4-10fc", residual=True), ResidualBlock)
    for pair in (changed, same):
        pair.eval()
        nn.init.zeros_(pair.layers[-1].weight)
        nn.init.zeros_(pair.layers[-1].bias)
    features = changed(images())
    projection, norm = changed.skip
    assert projection.kernel_size == (1, 1) and projection.weight.shape[:2] == (6, 3)
    assert torch.equal(features, norm(projection(images())).relu()) and (features == 0).any()
    assert torch.equal(same(features), features)


@pytest.mark.parametrize("inputs", [3, 7, 8])
def test_a_narrow_skip_takes_the_pixels_that_a_strided_convolution_takes(inputs: int) -> None:
    torch.manual_seed(0)
    skip = ResidualBlock(inputs, 12, 2).skip.to(memory_format=torch.channels_last)
    projection = kinds(skip, nn.Conv2d)[0]
    features = torch.randn(32, inputs, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    skip(features).pow(3).mean().backward()  # a crash here would end the process
    assert projection.weight.grad.norm() > 1e-3
    strided = skip[-1](nn.functional.conv2d(features, projection.weight, stride=2))
    torch.testing.assert_close(skip(features), strided)


def test_a_pair_is_relu_after_the_addition() -> None:
    torch.manual_seed(0)
    pair = ResidualBlock(3, 6, 2)
    first, first_norm, _, second, second_norm = pair.layers
    expected = second_norm(second(first_norm(first(images())).relu())) + pair.skip(images())
    torch.testing.assert_close(pair(images()), expected.relu())


@pytest.mark.parametrize(
    ("options", "piece", "message"),
    [
        ({"layers": "76c2-mpp-10fc"}, "mpp", "'mpp' is not one of Nc, NcK, mp, Nfc, NfcK"),
        ({"layers": "76c2--10fc"}, "", "'' is not one of"),
        ({"layers": "10fc-"}, "", "'' is not one of"),
        ({"layers": ""}, "", "'' is not one of"),
        ({"layers": "0c-10fc"}, "0c", "N and K from 1"),
        ({"layers": "64c0-10fc"}, "64c0", "N and K from 1"),
        ({"layers": "64c^2-10fc"}, "64c^2", "is not one of"),
        ({"layers": "64c²-10fc"}, "64c²", "is not one of"),
        ({"layers": "64c2 - 10fc"}, "64c2 ", "is not one of"),
        ({"layers": "64c2-mp2-10fc"}, "mp2", "is not one of"),
        ({"layers": "c2-10fc"}, "c2", "is not one of"),
        ({"layers": "64C-10fc"}, "64C", "is not one of"),
        ({"layers": "64c,10fc"}, "64c,10fc", "is not one of"),
        ({"layers": "64c8-128c12"}, "128c12", "must not be the last piece; that is Nfc"),
        ({"layers": "64c-10fc-mp"}, "mp", "stands after a fully connected layer"),
        ({"layers": "100fc-64c-10fc"}, "64c", "stands after a fully connected layer"),
        ({"layers": "100fc-10fc2"}, "10fc2", "must not be the last piece; that is Nfc"),
        ({"layers": "64c2-64c3-10fc", "residual": True}, "64c3", "needs an even K"),
        ({"layers": "64fc-10fc", "residual": True}, "64fc-10fc", "it has no convolutions"),
        ({"layers": "64c-mp-10fc", "dropout": "mp1:1.0"}, "mp1:1.0", "above 0 and below 1"),
        ({"layers": "64c-mp-10fc", "dropout": "mp1:0.0"}, "mp1:0.0", "above 0 and below 1"),
        ({"layers": "64c-mp-10fc", "dropout": "mp:0.2"}, "mp:0.2", "is not like mp1:0.2"),
        ({"layers": "64c-mp-10fc", "dropout": "c1:0.2"}, "c1:0.2", "is not like mp1:0.2"),
        ({"layers": "64c-mp-10fc", "dropout": "mp1:0.2,"}, "", "is not like mp1:0.2"),
        ({"layers": "4c-mp-mp-5fc2-10fc", "dropout": "mp1:0.2,fc3:0.2"}, "fc3:0.2", "one of mp1, mp2, fc1, fc2, each"),
        ({"layers": "64c-10fc", "dropout": "mp1:0.2"}, "mp1:0.2", "one of none"),
        ({"layers": "64c-mp-10fc", "dropout": "mp1:0.2,mp1:0.3"}, "mp1:0.3", "each once"),
    ],
    ids=str,
)
def test_a_bad_string_is_shown_with_the_bad_piece(options: dict, piece: str, message: str) -> None:
    with pytest.raises(ValueError, match="model 'notation' cannot be made with") as raised:
        model("notation", **options)
    assert all(text in str(raised.value) for text in (repr(options), repr(piece), message))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "'width' .* must be a finite number above 0, not 0.0"),
        ({"width": -1.0}, "must be a finite number above 0"),
        ({"stride": 3}, "'stride' .* must be one of 1, 2, not 3"),
        ({"layers": "4c-mp-mp-mp-mp-mp-mp-10fc"}, "mp6 has only one pixel left to pool"),
        ({"layers": "4c-10fc", "stride": 1}, "stride is an option of residual networks"),
        ({"depth": 3}, "its options are: layers, dropout, width, residual, stride"),
    ],
)
def test_impossible_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model("notation", **options)


def test_multiply_adds_by_hand() -> None:
    assert counted(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2, bias=False)), (5,)) == 35 + 14
    assert counted(nn.Conv2d(4, 6, 3), (4, 10, 8)) == 8 * 6 * 6 * (4 * 9), "8 x 6 pixels, 6 channels"
    assert counted(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 10, 8)) == 5 * 4 * 6 * (2 * 9)
    assert counted(nn.Sequential(nn.BatchNorm2d(4), nn.MaxPool2d(2)), (4, 10, 8)) == 0
    plain = 1024 * 2 * 27 + 256 * 3 * 18 + 3 * 256 * 5 + 5 * 10
    assert counted(network_of(layers="2c-mp-3c-5fc-10fc"), (3, 32, 32)) == plain
    first = 1024 * (2 * 27 + 2 * 18 + 2 * 3)
    second = 256 * (4 * 18 + 4 * 36 + 4 * 2)
    assert counted(network_of(layers="2c2-4c2-10fc", residual=True), (3, 32, 32)) == first + second + 40


def test_the_cost_of_a_model() -> None:
    small = network_of(layers="2048fc2-10fc")
    assert cost(model("notation", layers="2048fc2-10fc")) == (
        sum(weight.numel() for weight in small.parameters()),
        3072 * 2048 + 2048 * 2048 + 2048 * 10,
    )
    assert counted(build_model(model("MLPRegressor")), (1, 28, 28)) == 784 * 120 + 120 * 60 + 60


def test_the_operations_of_a_training() -> None:
    images, small = task("image_classes", channels=3, train_size=200), model("notation", layers="8fc-10fc")
    recipe = {"learning_rate": 0.1, "epochs": 5, "batch_size": 10}
    run = Run(dataset="cifar10", task=images, model=small, **recipe)
    once = 3 * 32 * 32 * 8 + 8 * 10
    assert training_operations(run) == 3 * once * 200 * 5, "forwards once, backwards twice"
    distilled = task("image_classes", channels=3, train_size=200, distillation="kl")
    taught = dataclasses.replace(run, task=distilled, teacher=dataclasses.replace(run, epochs=9))
    assert training_operations(taught) == 4 * once * 200 * 5
    pixels = Run(dataset="fashion_mnist", task=task("pixel_statistic"), model=model("MLPRegressor"), **recipe)
    fitted = Run(dataset="cifar10", task=images, model=model("logistic_regression"))
    weights = 784 * 120 + 120 * 60 + 60
    assert training_operations(pixels) == 3 * weights * 55_000 * 5 and math.isnan(training_operations(fitted))


def test_multiply_adds_count_a_shared_branch_as_often_as_it_runs() -> None:
    shared, apart = (counted(Net(sharing=sharing), (2, 14, 14)) for sharing in (True, False))
    branch = 144 * 16 * 9 + 16 * 32 * 16 * 9 + 128 * 64 + 64 * 10
    assert shared == apart == 2 * branch + 20 * 72 + 72 * 2


@pytest.mark.parametrize("residual", [False, True])
def test_the_memory_format_does_not_change_what_is_computed(residual: bool) -> None:
    torch.manual_seed(0)
    network = network_of(layers="4c2-mp-6c2-10fc", residual=residual).eval()
    plain = network(images())
    fast = network.to(memory_format=torch.channels_last)(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_a_run_of_it_learns() -> None:
    run = Run(
        dataset="digits_32",
        task=task("image_classes", train_size=300, validation_size=0, test_size=100),
        model=model("notation", layers="8c-mp-20fc-10fc", dropout="fc1:0.2"),
        learning_rate=3e-3,
        epochs=3,
        batch_size=30,
    )
    result = train(run)
    losses = result.history["train_loss"]
    assert result.status == "finished" and losses[-1] < 0.7 * losses[0]
    assert result.metrics["test_accuracy"] > 50
