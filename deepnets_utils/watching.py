"""One run watched: its curve grows in JupyterLab while it trains there."""

from typing import Any

from filelock import FileLock
from IPython.display import HTML

from deepnets_utils.estimates import estimate
from deepnets_utils.progress import watched
from deepnets_utils.runs import Run
from deepnets_utils.store import Store
from deepnets_utils.sweep import sweep, too_long


def watch(run: Run, metric: str, store: Store, *, train: str, device: str, yes: bool, **place: Any) -> tuple[Any, bool]:
    """Return the figure of a run's curve (None where it was drawn live), and whether the run was trained for it.

    metric: of the history. train, device, yes and place (workers or executor): as `sweep` takes them.
    """
    from deepnets_utils.figures import LiveCurve

    result = store.get(run)
    trains = result is None and train == "missing"
    claim = _claim(run, store, yes) if trains and watched() else None
    live = claim is not None
    curve = LiveCurve(run, metric, live=live)
    if live:
        from deepnets_utils import training

        files = {"checkpoint": store.checkpoint(run)} | ({"teacher": store.weights(run.teacher)} if run.teacher else {})
        try:
            store.put(training.train(run, device=device, on_epoch=curve, **files))
            store.release(claim)
        finally:
            claim.release()
        return None, True
    if trains:
        [result] = sweep([run], store=store, title=f"{metric} of one run", device=device, yes=yes, **place)
    if result is None:
        return HTML('<p>This run is not stored; with train = "missing" it is trained here.</p>'), False
    return curve.draw(result.history), trains


def _claim(run: Run, store: Store, yes: bool) -> FileLock | None:
    """Return the claim on a run, or None of one that is better left to a sweep.

    That trains the teacher first, asks about long trainings, and waits for who else trains this run.
    """
    taught = run.teacher is None or store.has_weights(run.teacher)
    return store.claim(run) if taught and (yes or not too_long([run], estimate([run], store.results()))) else None
