"""Networks from a table's own notation, like `76c2-mp-126c2-mp-148c4-mp-1200fc2-10fc`.

The pieces, joined by "-" (source: distillation, Section 4 and Tables 1 and 2):
Nc, NcK: one or K convolutions 3x3 with N channels, padding 1, stride 1, each followed by batch norm and ReLU.
mp: max-pooling of 2x2 pixels.
Nfc, NfcK: one or K fully connected layers with N outputs, each followed by batch norm and ReLU. The last piece is Nfc
and has neither: its N outputs are the classes' logits.
"""

import math
import re
from collections import Counter
from typing import Literal, NamedTuple

from torch import nn

from deepnets_utils.models.registry import register_model
from deepnets_utils.models.residual import ResidualBlock
from deepnets_utils.runs.run import PositiveFloat

CHANNELS, SIZE = 3, 32  # of the images
PIECE = re.compile(r"mp|([1-9][0-9]*)(c|fc)([1-9][0-9]*)?")
DROPOUT = re.compile(r"([a-z]+[1-9][0-9]*):(0\.0*[1-9][0-9]*)")


class Layer(NamedTuple):
    """kind: "c", "pair" (two "c" under one skip), "mp" or "fc". width: N, 0 of mp. place: kind and number, "fc2"."""

    kind: str
    width: int
    place: str


@register_model(version=1)
def notation(
    *,
    layers: str = "10fc",
    dropout: str = "",
    width: PositiveFloat = 1.0,
    residual: bool = False,
    stride: Literal[1, 2] = 2,
) -> nn.Sequential:
    """Return the network that `layers` describes.

    dropout: after which max-pools and hidden fully connected layers, counted from 1, and with which probability; the
    document's Teacher-1 has "mp1:0.2,mp2:0.3,mp3:0.37,fc2:0.42". width: above 0, multiplies every N but the number
    of classes (rounded, at least 1). residual: a skip over every two convolutions, no stem, global average pooling
    before the fully connected layers. stride: 1 or 2, of a residual network's first convolution of each width but
    the first; the document does not say where its images shrink.
    Input: float [N, 3, 32, 32], in training N from 2 (batch norm); output: logits, float [N, classes]. PyTorch's
    default initialisation. The default `layers` are a linear classifier of the pixels.
    Each layer of a plain network has biases, in front of batch norm too; a residual network has them in its fully
    connected layers alone, as in He et al. (2016): 5,346,142 parameters of Teacher-1, 11,154,698 of Deep-ResNet.
    Raises ValueError for an impossible option, with the piece that is wrong.
    """
    if stride == 1 and not residual:
        raise ValueError("stride is an option of residual networks; others shrink their images with mp alone")
    found = parse(layers, residual)
    *hidden, classes = found
    probabilities = _parse_dropout(dropout, [layer.place for layer in hidden if layer.kind in ("mp", "fc")])
    network: list[nn.Module] = []
    channels, size, written = CHANNELS, SIZE, 0
    for layer in found:
        outputs = layer.width if layer is classes else max(1, round(width * layer.width))
        match layer.kind:
            case "c":
                network += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            case "pair":
                step = stride if written not in (0, layer.width) else 1
                network.append(ResidualBlock(channels, outputs, step))
                channels, size, written = outputs, math.ceil(size / step), layer.width
            case "mp":
                if size == 1:
                    raise ValueError(f"{layer.place} has only one pixel left to pool")
                # A maximum and a ReLU give the same in either order, and after pooling there is less to rectify.
                behind = 1 if network and isinstance(network[-1], nn.ReLU) else 0
                network.insert(len(network) - behind, nn.MaxPool2d(2))
                size //= 2
            case "fc":
                if layer.place == "fc1":
                    network += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if residual else [nn.Flatten()]
                    channels *= 1 if residual else size * size
                network.append(nn.Linear(channels, outputs))
                network += [] if layer is classes else [nn.BatchNorm1d(outputs), nn.ReLU()]
                channels = outputs
        if layer.place in probabilities:
            network.append(nn.Dropout(probabilities[layer.place]))
    return nn.Sequential(*network)


def parse(layers: str, residual: bool = False) -> list[Layer]:
    """Return the layers of the notation in order, the convolutions of a residual network in pairs.

    Raises ValueError for any other string, with the bad piece.
    """
    found: list[Layer] = []
    numbers = Counter[str]()
    for piece in layers.split("-"):
        match = PIECE.fullmatch(piece)
        if match is None:
            raise ValueError(f"{piece!r} is not one of Nc, NcK, mp, Nfc, NfcK, with N and K from 1, joined by -")
        kind, count = match[2] or "mp", int(match[3] or 1)
        if kind != "fc" and numbers["fc"]:
            raise ValueError(f"{piece!r} stands after a fully connected layer, where only Nfc or NfcK can")
        if kind == "c" and residual:
            if count % 2:
                raise ValueError(f"{piece!r} of a residual network needs an even K: a skip is over two")
            kind, count = "pair", count // 2
        for _ in range(count):
            numbers[kind] += 1
            found.append(Layer(kind, int(match[1] or 0), f"{kind}{numbers[kind]}"))
    if kind != "fc" or count > 1:
        raise ValueError(f"{piece!r} must not be the last piece; that is Nfc with N classes, like 10fc")
    if residual and not numbers["pair"]:
        raise ValueError(f"{layers!r} is not residual: it has no convolutions")
    return found


def _parse_dropout(dropout: str, places: list[str]) -> dict[str, float]:
    """Return the probability at each place of "mp1:0.2,fc2:0.42" ("" for none)."""
    found: dict[str, float] = {}
    for piece in dropout.split(",") if dropout else ():
        match = DROPOUT.fullmatch(piece)
        if match is None or match[1] not in places or match[1] in found:
            allowed = f"one of {', '.join(places) or 'none'}, each once, and a probability above 0 and below 1"
            raise ValueError(f"dropout {piece!r} is not like mp1:0.2: {allowed}")
        found[match[1]] = float(match[2])
    return found
