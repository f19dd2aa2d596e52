"""One run watched: its curve grows in JupyterLab while it trains there."""

from typing import TYPE_CHECKING, Any

from IPython.display import HTML

from deepnets_utils.runs.progress import watched
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep

if TYPE_CHECKING:
    from deepnets_utils.reports.figures import LiveCurve

_curves: dict[str, "LiveCurve"] = {}  # of the runs that are watched now, by digest


def train_live(run: Run, **options: Any) -> Result:
    """Train a run as `training.train` does and draw its curve after each epoch; a sweep's trainer."""

    from deepnets_utils.training.train import train

    return train(run, on_epoch=_curves.get(run.digest), **options)


def watch(run: Run, metric: str, store: Store, *, train: str, **options: Any) -> tuple[Any, bool]:
    """Return the figure of a run's curve (None where it was drawn live), and whether the run was trained for it.

    metric: of the history. train and options (device, yes, workers or executor): as `sweep` takes them; a run that is
    watched trains in this process.
    """
    from deepnets_utils.reports.figures import LiveCurve

    result = store.get(run)
    trains = result is None and train == "missing"
    live = trains and watched()
    curve = LiveCurve(run, metric, live=live)
    if live:
        _curves[run.digest] = curve
        options |= {"workers": 1, "executor": None, "trainer": f"{__name__}:train_live"}
    if trains:
        try:
            [result] = sweep([run], store=store, title=f"{metric} of one run", **options)
        finally:
            _curves.pop(run.digest, None)
    if result is None:
        return HTML('<p>This run is not stored; with train = "missing" it is trained here.</p>'), False
    if live:
        curve(run.epochs, result.history)
        return None, True
    return curve.draw(result.history), trains
