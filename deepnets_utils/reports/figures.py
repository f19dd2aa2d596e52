"""One theme for all figures, and the plots that several notebooks share."""

import base64
import html
import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import HTML
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from torch import nn

warnings.filterwarnings("ignore", "The figure layout has changed to tight")  # seaborn's grids lay themselves out
sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
plt.rcParams |= {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 120,
    "svg.fonttype": "none",  # text stays text: smaller, and quicker to write
    "svg.hashsalt": "deepnets",  # equal figures give equal files
    "axes.titlesize": "medium",
    "axes.formatter.min_exponent": 3,  # of a logarithmic axis: 0.02 and 50 without a power of ten
    "axes.titley": 1.0,  # else each drawing looks for ticks above the axes, which takes a third of its time
}


def has_data(axes: plt.Axes) -> bool:
    """Return whether texts, pictures or finite numbers are drawn; a line across the axes (axhline) is none."""

    def placed(artist: Artist) -> bool:
        return all(artist.get_transform().contains_branch_seperately(axes.transData))

    return bool(
        axes.texts
        or axes.images
        or any(
            np.isfinite(collection.get_datalim(axes.transData).get_points()).all() for collection in axes.collections
        )
        or any(placed(line) and np.isfinite(line.get_xydata()).all(1).any() for line in axes.lines)
        or any(placed(patch) and np.isfinite(patch.get_extents().get_points()).all() for patch in axes.patches)
    )


def rendered(figure: Figure, ending: str) -> bytes:
    """Return the figure as the bytes of a "png" or "svg" file; its layout is computed the first time."""
    stream = io.BytesIO()
    figure.savefig(stream, format=ending)
    figure.set_layout_engine("none")
    return stream.getvalue()


def embedded(png: bytes, title: str, alt: str) -> HTML:
    """Return a picture as HTML that stands alone, with caption and alternative text."""
    image = base64.b64encode(png).decode()
    return HTML(
        f'<figure><img src="data:image/png;base64,{image}" alt="{html.escape(alt)}" style="max-width: 100%">'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def relplot(data: pd.DataFrame, *, title: str = "{col_name}", **look: Any) -> Figure:
    """Return seaborn's `relplot` as a figure; without numbers an empty one, which seaborn cannot draw.

    title: of each panel, with its {col_name} and {row_name}. An empty panel beside others says so.
    """
    if data[look["y"]].isna().all():
        return plt.figure()
    grid = sns.relplot(data, **look)
    if "col" in look or "row" in look:
        grid.set_titles(title)
    empty = [axes for axes in grid.axes.flat if not has_data(axes)]
    for axes in empty if len(empty) < grid.axes.size else []:
        axes.text(0.5, 0.5, "nothing to draw", color="0.4", ha="center", va="center", transform=axes.transAxes)
    return grid.figure


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Return a figure of images, grey [H, W] or in colours [H, W, 3], six a row, with a title each."""
    columns = 6
    rows, (height, width) = -(-len(images) // columns), images[0].shape[:2]
    size = 1.5 * columns, (1.5 * height / width + 0.3) * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place in axes.flat:
        place.axis("off")
        place.set(xticks=[], yticks=[])  # even unseen they cost most of the drawing's time
    for place, image, title in zip(axes.flat, images, titles, strict=False):
        place.imshow(image, cmap="gray")
        place.set_title(title, fontsize="small")
    return figure


def layers(network: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Return one text for each weight layer of a Sequential, with what follows it and the shape it gives.

    shape: of a float32 input, batch first; the network is run once on zeros, in evaluation mode.
    """
    texts: list[str] = []
    network.eval()
    features = torch.zeros(shape)
    with torch.no_grad():
        for layer in network:
            features = layer(features)
            size = " x ".join(str(length) for length in features.shape[1:])
            weights = any(True for _ in layer.parameters()) and not isinstance(layer, nn.modules.batchnorm._BatchNorm)
            if weights or not texts:
                texts.append(f"{_layer_name(layer)}\n{size}")
            else:
                head = texts[-1].split("\n")[0]
                texts[-1] = f"{head}, {_layer_name(layer)}\n{size}"
    return texts


def _layer_name(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        return f"conv {layer.kernel_size[0]}x{layer.kernel_size[1]}"
    name = type(layer).__name__
    known = {"BatchNorm2d": "BN", "BatchNorm1d": "BN", "ReLU": "ReLU", "MaxPool2d": "max-pool"}
    return known.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("2d")).lower()


def draw_column(
    axes: plt.Axes, x: float, texts: Sequence[str], top: float, step: float, sources: Sequence[tuple[float, float]] = ()
) -> tuple[float, float]:
    """Draw layers as boxes below each other, joined by arrows, and return the place of the last one.

    x, top: centre of the first box; step: from box to box; sources: boxes whose arrows lead to the first one. All
    as shares of the axes, from 0 to 1 and from bottom to top.
    """
    axes.axis("off")
    places = [(x, top - number * step) for number in range(len(texts))]
    for place, text in zip(places, texts, strict=True):
        name, _, size = text.partition("\n")
        lines = "\n".join([*textwrap.wrap(name, 20), size])
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
        axes.text(*place, lines, ha="center", va="center", fontsize=7, bbox=box, transform=axes.transAxes, zorder=2)
    for start, end in [*((source, places[0]) for source in sources), *zip(places, places[1:], strict=False)]:
        line = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 13, "shrinkB": 15}
        axes.annotate("", xy=end, xytext=start, xycoords="axes fraction", arrowprops=line, zorder=1)
    return places[-1]
