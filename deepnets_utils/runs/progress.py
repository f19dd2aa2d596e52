"""Progress of long work: a bar where somebody watches, sparse lines where a log is written."""

import os
import sys
import time

LINE_SECONDS = 30.0


def in_jupyter() -> bool:
    """Return True in a kernel of JupyterLab, False in one that a report started, be it from JupyterLab."""
    return bool(os.environ.get("JPY_SESSION_NAME"))


def watched() -> bool:
    """Return True in JupyterLab and at a terminal, False under papermill and in logs."""
    return in_jupyter() or sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Return seconds (from 0; NaN for unknown) as a text in one unit."""
    if seconds != seconds:
        return "time unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    if hours < 100:
        return f"{hours:.1f} h"
    return f"{hours / 24:.0f} days" if hours < 8_766 else f"{hours / 8_766:.1f} years"


class Reporter:
    """Counts what is done out of `total`: one bar, or a line at the start, every 30 s and at the end.

    title: begins these lines, for several notebooks may write into one log. plan: what the first of them says.
    unit: what is counted.
    """

    def __init__(self, total: float, title: str, plan: str, unit: str = "runs") -> None:
        from tqdm.auto import tqdm  # late: help needs none

        self.total, self.title, self.unit, self.done = total, title, unit, 0
        self._started = self._spoken = time.monotonic()
        self.say(f"{title}: {plan}")
        self._bar = tqdm(total=total, unit=f" {unit}", unit_scale=unit == "MB", disable=not watched())

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self.say(f"{self._amount()} stored after {duration(time.monotonic() - self._started)}")

    def say(self, text: str) -> None:
        """Print one line."""
        # JupyterLab shows stderr in red, as if something had gone wrong.
        print(text, file=sys.stdout if in_jupyter() else sys.stderr, flush=True)

    def _amount(self) -> str:
        return f"{self.title}: {round(self.done, 1)} of {round(self.total, 1)} {self.unit}"

    def advance(self, amount: float = 1) -> None:
        """Count one finished run, or another amount."""
        self.done += amount
        self._bar.update(amount)
        now = time.monotonic()
        if self._bar.disable and now - self._spoken >= LINE_SECONDS and self.done < self.total:
            self._spoken = now
            left = (now - self._started) / self.done * (self.total - self.done)
            self.say(f"{self._amount()}, about {duration(left)} left")
