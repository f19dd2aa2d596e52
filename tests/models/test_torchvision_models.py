"""GoogLeNet, VGG19 and ResNet18 against torchvision's own, and their variants."""

import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.models import build_model, model
from deepnets_utils.models.inception import ResidualInception
from deepnets_utils.runs.run import Run, Spec
from deepnets_utils.training.train import train

MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
VARIANTS = [
    model("GoogLeNet", kernel=kernel, residual=residual, auxiliary=auxiliary, stem=stem)
    for kernel, residual in itertools.product((3, 5), ("none", "identity", "projection"))
    for auxiliary, stem in ((True, "imagenet"), (False, "cifar"))
]
VARIANTS += [model(name, stem=stem) for name in ("VGG19", "ResNet18") for stem in ("imagenet", "cifar")]
VARIANTS += [
    model("VGG19", batch_norm=True, stem=stem, width=width) for stem, width in (("imagenet", 1), ("cifar", 0.25))
]


def on_meta(spec: Spec) -> nn.Module:
    with torch.device("meta"):
        return build_model(spec)


def images(number: int = 4, size: int = 32) -> Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def modules(network: nn.Module) -> dict[str, ResidualInception]:
    return {name: network.get_submodule(f"inception{name}") for name in MODULES}


def map_sizes(spec: Spec, watched: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Height and width of what comes out of some layers for a 32x32 image; name to the layer's place."""
    network, seen = on_meta(spec), {}
    for name, place in watched.items():
        layer = network.get_submodule(place)
        layer.register_forward_hook(lambda layer, inputs, out, name=name: seen.update({name: tuple(out.shape[2:])}))
    network(torch.empty(2, 3, 32, 32, device="meta"))
    return seen


# -- torchvision's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("auxiliary", [True, False])
def test_kernel_3_without_residual_is_torchvisions_googlenet(auxiliary: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.GoogLeNet(num_classes=10, aux_logits=auxiliary, init_weights=True)
    torch.manual_seed(0)
    ours = build_model(model("GoogLeNet", auxiliary=auxiliary))
    for (name, weight), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(weight, other), f"{name} starts alike"

    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    seen = []
    for network in (ours, theirs):
        torch.manual_seed(1)  # of the dropout
        outputs = network(images())
        outputs = list(outputs) if auxiliary else [outputs]
        sum(part.square().sum() for part in outputs).backward()
        outputs.append(network.eval()(images()))
        seen.append(outputs + [parameter.grad for parameter in network.parameters()])
    assert len(seen[0]) == (4 if auxiliary else 2) + len(list(ours.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_resnet18_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    torch.manual_seed(0)
    ours = build_model(model("ResNet18"))
    assert type(ours) is type(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_vgg19_is_torchvisions_without_batch_norm() -> None:
    network = on_meta(model("VGG19"))
    with torch.device("meta"):
        assert str(network) == str(torchvision.models.vgg19(num_classes=10))
        assert str(on_meta(model("VGG19", batch_norm=True))) == str(torchvision.models.vgg19_bn(num_classes=10))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


# -- the variants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (model("GoogLeNet"), 9_960_638),  # "~10M": googlenet, Section 2.1.2
        (model("GoogLeNet", auxiliary=False), 5_610_154),
        (model("GoogLeNet", residual="identity"), 9_960_638),
        (model("GoogLeNet", residual="projection"), 11_947_294),
        (model("GoogLeNet", kernel=5), 10_341_566),
        (model("GoogLeNet", kernel=5, residual="identity"), 10_341_566),
        (model("GoogLeNet", stem="cifar"), 9_960_638 - 64 * 3 * (7 * 7 - 3 * 3)),
        (model("ResNet18"), 11_181_642),  # "~11M": googlenet, Section 2.1.3
        (model("ResNet18", stem="cifar"), 11_181_642 - 64 * 3 * (7 * 7 - 3 * 3)),
        (model("VGG19"), 139_611_210),
        (model("VGG19", stem="cifar"), 139_611_210),
        # width 1/4: convolutions 3-16-16, 16-32-32, ..., 128-128; linear 6272-1024-1024-10
        (model("VGG19", width=0.25), 1_252_880 + 6_273 * 1024 + 1_025 * 1024 + 1_025 * 10),
    ],
    ids=str,
)
def test_parameter_counts(spec: Spec, expected: int) -> None:
    assert count(on_meta(spec)) == expected


def test_kernel_5_is_that_of_the_third_branch_alone() -> None:
    for name, module in modules(on_meta(model("GoogLeNet", kernel=5))).items():
        kernels = [layer.kernel_size for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        assert kernels == [(1, 1), (1, 1), (3, 3), (1, 1), (5, 5), (1, 1)], name
        assert module.branch3[1].conv.padding == (2, 2)


@pytest.mark.parametrize("kernel", [3, 5])
def test_places_of_the_residual_connections(kernel: int) -> None:
    kinds = {}
    for residual in ("none", "identity", "projection"):
        found = modules(on_meta(model("GoogLeNet", kernel=kernel, residual=residual)))
        kinds[residual] = {name: type(module.shortcut) for name, module in found.items()}
    assert kinds["none"] == dict.fromkeys(MODULES, type(None))
    same = dict.fromkeys(("4b", "4c", "5a"), nn.Identity)
    assert kinds["identity"] == kinds["none"] | same
    assert kinds["projection"] == dict.fromkeys(MODULES, nn.Sequential) | same


@pytest.mark.parametrize("residual", ["identity", "projection"])
def test_the_connection_is_added_after_the_concatenation(residual: str) -> None:
    torch.manual_seed(0)
    plain = ResidualInception(64, 16, 8, 16, 8, 16, 16, kernel=3, residual="none").eval()
    connected = ResidualInception(64, 16, 8, 16, 8, 16, 16, kernel=3, residual=residual).eval()
    connected.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(2, 64, 6, 6)
    assert torch.equal(connected(x), plain(x) + x)

    wider = ResidualInception(32, 16, 8, 16, 8, 16, 16, kernel=3, residual=residual).eval()
    x = torch.rand(2, 32, 6, 6)
    branches = torch.cat([branch(x) for branch in (wider.branch1, wider.branch2, wider.branch3, wider.branch4)], 1)
    if residual == "identity":
        assert torch.equal(wider(x), branches), "the input has another shape than the output"
    else:
        convolution, norm = wider.shortcut
        assert (convolution.kernel_size, convolution.bias, norm.num_features) == ((1, 1), None, 64)
        assert torch.equal(wider(x), branches + norm(convolution(x)))


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_every_variant_learns_from_a_batch(spec: Spec) -> None:
    torch.manual_seed(0)
    network = build_model(spec)
    auxiliary = spec.name == "GoogLeNet" and dict(spec.options).get("auxiliary", True)
    x, labels = images(2), torch.tensor([3, 7])
    outputs = network(x)
    parts = outputs if auxiliary else (outputs,)
    assert len(parts) == (3 if auxiliary else 1)
    assert all(part.shape == (2, 10) and part.dtype == torch.float32 for part in parts)
    build_task(task("image_classes", auxiliary=0.3 if auxiliary else 0.0)).loss(outputs, labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() == 1 or parameter.grad.any(), name
    with torch.no_grad():
        assert network.eval()(x[:1]).shape == (1, 10), "one tensor of logits in evaluation mode, of one image, too"


def test_the_cifar_stem_lets_the_layers_see_larger_maps() -> None:
    places = {name: f"inception{name}" for name in MODULES} | {"stem": "conv1"}
    sizes = {stem: map_sizes(model("GoogLeNet", stem=stem), places) for stem in ("imagenet", "cifar")}
    blocks = [("3a", "3b"), ("4a", "4b", "4c", "4d", "4e"), ("5a", "5b")]
    for stem, expected in (("imagenet", (4, 2, 1)), ("cifar", (32, 16, 8))):
        for block, size in zip(blocks, expected, strict=True):
            assert {sizes[stem][name] for name in block} == {(size, size)}
    places = {f"layer{k}": f"layer{k}" for k in range(1, 5)}
    sizes = {stem: [s[0] for s in map_sizes(model("ResNet18", stem=stem), places).values()] for stem in sizes}
    assert sizes == {"imagenet": [8, 4, 2, 1], "cifar": [32, 16, 8, 4]}
    sizes = {stem: map_sizes(model("VGG19", stem=stem), {"last": "features"})["last"] for stem in sizes}
    assert sizes == {"imagenet": (1, 1), "cifar": (2, 2)}


@pytest.mark.parametrize("name", ["GoogLeNet", "ResNet18"])
def test_the_cifar_stems_convolution_starts_as_the_others_do(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(model(name, stem="cifar"))
    first = network.conv1.conv if name == "GoogLeNet" else network.conv1
    assert first.weight.shape == (64, 3, 3, 3) and first.bias is None
    deviation = 0.01 if name == "GoogLeNet" else (2 / (64 * 3 * 3)) ** 0.5
    assert first.weight.std().item() == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GoogLeNet", {"kernel": 4}, "must be one of 3, 5, not 4"),
        ("GoogLeNet", {"residual": "all"}, "must be one of 'none', 'identity', 'projection', not 'all'"),
        ("GoogLeNet", {"stem": "small"}, "'stem' .* must be one of 'imagenet', 'cifar', not 'small'"),
        ("VGG19", {"stem": "small"}, "'stem' .* must be one of 'imagenet', 'cifar', not 'small'"),
        ("ResNet18", {"stem": "small"}, "'stem' .* must be one of 'imagenet', 'cifar', not 'small'"),
        ("ResNet18", {"kernel": 3}, "its options are: stem"),
        ("GoogleNet", {}, "no model is called 'GoogleNet'; there are: .*GoogLeNet"),
    ],
)
def test_unknown_variants(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(name, **options)


# -- batches that a network cannot take: errors before training -------------------------------------------


def digits_run(name: str, train_size: int, pad: int = 2, channels: int = 3) -> Run:
    seen = task("image_classes", train_size=train_size, validation_size=20, test_size=20, pad=pad, channels=channels)
    recipe = {"optimizer": "sgd", "learning_rate": 0.01, "epochs": 1, "batch_size": 8}
    return Run(dataset="digits_28", task=seen, model=model(name), **recipe)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (digits_run("VGG19", 16, pad=0), r"VGG19 cannot take .*\[8, 3, 28, 28\].*Output size is too small"),
        (digits_run("ResNet18", 16, channels=0), r"ResNet18 cannot take .*\[8, 1, 32, 32\]: .*channel"),
        (digits_run("ResNet18", 17), r"ResNet18 cannot take .*\[1, 3, 32, 32\].*more than 1 value per channel"),
        (digits_run("GoogLeNet", 17), r"GoogLeNet cannot take .*\[1, 3, 32, 32\].*more than 1 value per channel"),
    ],
    ids=["too small", "grey", "one image left for ResNet18", "one image left for GoogLeNet"],
)
def test_batches_that_a_network_cannot_take(monkeypatch: pytest.MonkeyPatch, run: Run, message: str) -> None:
    def no_network(*arguments: object) -> None:
        raise AssertionError("the error comes before a network is made")

    monkeypatch.setattr("deepnets_utils.training.train.make_network", no_network)
    with pytest.raises(ValueError, match=message):
        train(run)
