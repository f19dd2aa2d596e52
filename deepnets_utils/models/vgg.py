"""A shallow convolutional network and narrow VGGs for one binary question, plain, with batch norm or residual.

Source: shallow_vs_deep (a question and its answer). Input: float [N, 3, 32, 32]; output: one logit, float [N, 1].
"""

from typing import Annotated, Literal

from torch import Tensor, nn

from deepnets_utils.models.registry import register_model
from deepnets_utils.runs.run import Limits

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}  # convolutions before each of the five poolings
Initialisation = Literal["pytorch", "he"]
Dropout = Annotated[float, Limits(0, below=1)]


@register_model(version=1)
def ShallowNet(*, initialisation: Initialisation = "pytorch", dropout: Dropout = 0.5) -> nn.Sequential:
    """Return 32conv3x3-mp-32conv3x3-mp-64conv5x5-mp-fc32-fc32-1 with same padding (95,297 parameters).

    dropout: of both hidden linear layers, 0 to 1. initialisation: as of NarrowVGG.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((3, 32, 3), (32, 32, 3), (32, 64, 5)):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.MaxPool2d(2), nn.ReLU()]
    return _initialised(nn.Sequential(*layers, nn.Flatten(), *_head(1024, 32, dropout)), initialisation)


@register_model(version=1)
def NarrowVGG(
    *,
    depth: Literal[11, 13] = 11,
    variant: Literal["plain", "batch_norm", "residual"] = "plain",
    initialisation: Initialisation = "pytorch",
    dropout: Dropout = 0.5,
) -> nn.Sequential:
    """Return VGG-11 (1,759,841 parameters) or VGG-13 (1,771,409) with a quarter of the widths and a 1024-1024-1 head.

    depth: 11 or 13. variant: "plain"; "batch_norm" after each convolution; "residual", the input of each stage, by a
    1x1 convolution where the widths differ, added before the stage's last ReLU. initialisation: "pytorch", or "he":
    normal with variance 2 / inputs, biases 0. dropout: of both hidden linear layers, 0 to 1. No 7x7 pooling.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, count in zip((16, 32, 64, 128, 128), STAGES[depth], strict=True):
        layers += [Stage(inputs, outputs, count, variant), nn.MaxPool2d(2)]
        inputs = outputs
    return _initialised(nn.Sequential(*layers, nn.Flatten(), *_head(128, 1024, dropout)), initialisation)


class Stage(nn.Module):
    """`count` 3x3 convolutions with ReLU; float [N, inputs, H, W] to [N, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, count: int, variant: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, *[outputs] * (count - 1)):
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] if variant == "batch_norm" else []
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers[:-1])
        self.skip: nn.Module | None = None
        if variant == "residual":
            self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.layers(features)
        return (changed if self.skip is None else changed + self.skip(features)).relu()


def _head(inputs: int, width: int, dropout: float) -> list[nn.Module]:
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU()]
    return [*hidden, nn.Dropout(dropout), nn.Linear(width, 1)]


def _initialised(network: nn.Sequential, initialisation: str) -> nn.Sequential:
    for module in network.modules() if initialisation == "he" else ():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return network
