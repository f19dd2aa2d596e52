"""GoogLeNet, VGG19 and ResNet18 as torchvision has them, for ten classes, and GoogLeNet's variants.

Input: float32 [N, 3, H, W], 32x32 in googlenet; output: logits, float32 [N, 10]. The initial weights are torchvision's.
stem: "imagenet" is torchvision's; "cifar" keeps small images large: the first convolution is 3x3 with stride 1, and
nothing is pooled before the first block. Source: googlenet, Sections 2.1 and 3.2.
"""

import functools
from typing import Literal

from torch import nn

from deepnets_utils.models.registry import register_model
from deepnets_utils.runs.run import PositiveFloat

CLASSES = 10
Stem = Literal["imagenet", "cifar"]

# torchvision is imported where a network is made: it takes seconds, and most processes make none of these.


@register_model(version=1)
def GoogLeNet(
    *,
    kernel: Literal[3, 5] = 3,
    residual: Literal["none", "identity", "projection"] = "none",
    auxiliary: bool = True,
    stem: Stem = "imagenet",
) -> nn.Module:
    """Return GoogLeNet: nine Inception modules, batch norm after each convolution (9,960,638 parameters).

    kernel: 3 as in torchvision, or 5, the GoogLeNet paper's, in each module's third branch. residual: "none",
    "identity" (added to what a module concatenates on 4b, 4c and 5a, whose input and output have one shape) or
    "projection" (on the other six, too, by a 1x1 convolution with batch norm). auxiliary: two more classifiers; in
    training mode the output is a tuple of three logits, the last layer's first (5,610,154 parameters without).
    Weights from a normal distribution with deviation 0.01, as torchvision's default of about 2020 but for the
    cut at two deviations that it had.
    """
    from torchvision.models import GoogLeNet
    from torchvision.models.googlenet import BasicConv2d, InceptionAux

    from deepnets_utils.models.inception import ResidualInception

    blocks = [BasicConv2d, functools.partial(ResidualInception, kernel=kernel, residual=residual), InceptionAux]
    network = GoogLeNet(CLASSES, aux_logits=auxiliary, init_weights=True, blocks=blocks)
    if stem == "cifar":
        network.conv1 = BasicConv2d(3, 64, kernel_size=3, padding=1)
        nn.init.trunc_normal_(network.conv1.conv.weight, std=0.01)
        network.maxpool1, network.maxpool2 = nn.Identity(), nn.Identity()
    return network


@register_model(version=1)
def VGG19(*, batch_norm: bool = False, stem: Stem = "imagenet", width: PositiveFloat = 1.0) -> nn.Module:
    """Return VGG19 with its three linear layers and their dropout (139,611,210 parameters).

    batch_norm: after every convolution (11,008 parameters more); the document does not say. Its first convolution is a
    small one in any case. Images from 32x32; from 16x16 without the first of its five poolings (stem "cifar").
    width: factor of all hidden layers' widths; with another than 1 the linear layers' initial weights have a deviation
    of 0.01 / sqrt(width), so that their outputs keep the size that torchvision's 0.01 gives at full width.
    """
    from torchvision.models.vgg import VGG, cfgs, make_layers

    widths = [size if size == "M" else max(1, round(width * size)) for size in cfgs["E"]]
    network = VGG(make_layers(widths, batch_norm), CLASSES)
    if width != 1:
        hidden = max(1, round(width * 4096))
        for place, sizes in {0: (widths[-2] * 7 * 7, hidden), 3: (hidden, hidden), 6: (hidden, CLASSES)}.items():
            network.classifier[place] = nn.Linear(*sizes)
            nn.init.normal_(network.classifier[place].weight, 0, 0.01 / width**0.5)
            nn.init.zeros_(network.classifier[place].bias)
    if stem == "cifar":
        first = next(k for k, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d))
        network.features[first] = nn.Identity()
    return network


@register_model(version=1)
def ResNet18(*, stem: Stem = "imagenet") -> nn.Module:
    """Return ResNet18 (11,181,642 parameters)."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=CLASSES)
    if stem == "cifar":
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network
