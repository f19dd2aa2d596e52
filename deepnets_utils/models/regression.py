"""Networks that read one number off an image: convolutional ones of varying depth, and a fully connected one.

Source: go_deep, Section 3.1 and Figure 1. The widths 120 and 60 are not in its text; they are those of the tutorial
network that it cites as its base. PyTorch's default initialisation. Input: float32 [N, 1, 28, 28]; output:
float32 [N, 1].
"""

from torch import nn

from deepnets_utils.models.registry import register_model
from deepnets_utils.runs.run import NonNegativeInt, PositiveInt


@register_model(version=1)
def ConvRegressor(*, extra_layers: NonNegativeInt = 0) -> nn.Sequential:
    """Return two convolutions with pooling, `extra_layers` (from 0) more that keep the size, and three linear layers.

    extra_layers 0 is the document's "Base" (32,449 parameters), 10 has 45,529. Pooling comes before the ReLU: the
    maximum of four and a ReLU give the same in either order, and so there are four times fewer values to rectify.
    """
    layers = [nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 12, 5), nn.MaxPool2d(2), nn.ReLU()]
    for _ in range(extra_layers):
        layers += [nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *_linear(192, 120, 60))


@register_model(version=1)
def MLPRegressor(*, hidden1: PositiveInt = 120, hidden2: PositiveInt = 60) -> nn.Sequential:
    """Return the three linear layers alone, on the 784 pixels: the document's "None" (101,521 parameters).

    hidden1, hidden2: widths, from 1; 40 and 25 give 32,451 parameters, two more than "Base" has.
    """
    return nn.Sequential(nn.Flatten(), *_linear(784, hidden1, hidden2))


def _linear(inputs: int, hidden1: int, hidden2: int) -> list[nn.Module]:
    hidden = [nn.Linear(inputs, hidden1), nn.ReLU(), nn.Linear(hidden1, hidden2), nn.ReLU()]
    return [*hidden, nn.Linear(hidden2, 1)]
