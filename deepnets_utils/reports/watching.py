"""One run watched: its curve grows in JupyterLab while it trains there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.display import HTML, display

from deepnets_utils.reports import figures
from deepnets_utils.runs.progress import watched
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training.train import train

_drawing: dict[str, Callable[[int, Mapping[str, Sequence[float]]], None]] = {}  # by digest, called after each epoch


def train_live(run: Run, **options: Any) -> Result:
    """Train a run as `training.train` does and draw its curve after each epoch; a sweep's trainer."""
    return train(run, on_epoch=_drawing.get(run.digest), **options)


def watch(run: Run, metric: str, store: Store, *, train: str, **options: Any) -> tuple[Any, bool]:
    """Return the figure of a run's curve (None where it was drawn live), and whether the run was trained for it.

    metric: of the history. train and options (device, yes, workers or executor): as `sweep` takes them; a run that is
    watched trains in this process.
    """
    result = store.get(run)
    trains = result is None and train == "missing"
    live = display(draw(run, metric, {}), display_id=True) if trains and watched() else None
    if live:
        _drawing[run.digest] = lambda epoch, history: live.update(draw(run, metric, history))
        options |= {"workers": 1, "executor": None, "trainer": f"{__name__}:train_live"}
    if trains:
        try:
            [result] = sweep([run], store=store, title=f"{metric} of one run", **options)
        finally:
            _drawing.pop(run.digest, None)
    if result is None:
        return HTML('<p>This run is not stored; with train = "missing" it is trained here.</p>'), False
    picture = draw(run, metric, result.history)
    if live:
        live.update(picture)
        return None, True
    return picture, trains


def draw(run: Run, metric: str, history: Mapping[str, Sequence[float]]) -> HTML:
    """Return the picture of one history of a run, as far as it is there."""
    figure, axes = figures.plt.subplots(figsize=(6, 3))
    values, name = history.get(metric, []), metric.replace("_", " ")
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3)
    axes.set(xlim=(0, run.epochs + 1), xlabel="epoch", ylabel=name)
    if min(values, default=0) > 0:
        axes.set_yscale("log")
    picture = figures.rendered(figure, "png")
    figures.plt.close(figure)
    said = f"{name} over {len(values)} of {run.epochs} epochs"
    return figures.embedded(
        picture, f"{said}: {run}", said + (f", from {values[0]:.3g} to {values[-1]:.3g}" if values else "")
    )
