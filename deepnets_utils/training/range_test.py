"""Learning-rate range test: the rates, the smoothed curve and the rate that the curve suggests. Imports no torch.

Source: go_deep, Section 3.4: the finder of PyTorch Lightning, with its defaults of 2021 (our guess: the document names
no version).
"""

from collections.abc import Sequence

import numpy as np

STEPS = 100
LOWEST, HIGHEST = 1e-8, 1.0
SMOOTHING = 0.98
STOP = 4.0  # times the best smoothed loss
SKIP = slice(10, -1)  # what the suggestion looks at


def tested_rates() -> np.ndarray:
    """Return the rates of a range test, float [100], rising exponentially from 1e-8 to 1.

    The first step has the lowest rate, the one that follows is already the third of an even ladder: so the finder
    counts.
    """
    exponents = np.arange(1, STEPS + 1) / STEPS
    exponents[0] = 0
    return LOWEST * (HIGHEST / LOWEST) ** exponents


def smoothed(losses: Sequence[float] | np.ndarray, rule: str = "per_step") -> np.ndarray:
    """Return the exponential mean (0.98, bias corrected) of a range test's losses, cut where the test would stop.

    losses: the loss of each step before its update, float [steps]. The test stops at the first value that is above
    four times the best so far; that value is the last one returned. rule: "per_step" for the finder of 2021;
    "per_rate" for the one from 2.5.3 on, whose bias correction is one step ahead (since 1.6), so that its curve begins
    at about half the loss and its first value counts as the best.
    """
    ahead = 1 if rule == "per_step" else 2
    average, best, curve = 0.0, np.inf, []
    for step, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        curve.append(average / (1 - SMOOTHING ** (step + ahead)))
        if curve[-1] > STOP * best:
            break
        if step > 0 or rule == "per_rate":
            best = min(best, curve[-1])
    return np.array(curve)


def suggestion(losses: Sequence[float] | np.ndarray, rule: str = "per_step") -> float:
    """Return the rate at which the smoothed loss falls most steeply, NaN where fewer than two points are left.

    losses: the loss of each step before its update, float [steps]. The first ten and the last point of the
    smoothed curve and those that are not finite are left out. rule: "per_step" takes the gradient per step, that
    is per factor of the rate (Lightning of 2021); "per_rate" divides by the rates' distances
    (Lightning from 2.5.3 on). Raises ValueError for another rule.
    """
    if rule not in ("per_step", "per_rate"):
        raise ValueError(f"rule must be one of per_step, per_rate, not {rule!r}")
    curve = smoothed(losses, rule)
    rates = tested_rates()[: len(curve)][SKIP]
    curve = curve[SKIP]
    rates, curve = rates[np.isfinite(curve)], curve[np.isfinite(curve)]
    if len(curve) < 2:
        return float("nan")
    gradient = np.gradient(curve) if rule == "per_step" else np.gradient(curve, rates)
    return float(rates[gradient.argmin()])
