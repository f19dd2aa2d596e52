"""Ctrl-C and SIGTERM: who handles them, and what SIGTERM ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
TERMINATED = 128 + signal.SIGTERM  # the exit code, as the shell has it

terminated = threading.Event()  # SIGTERM came: what trains in this process ends at its epoch's end


class Terminated(SystemExit):
    """SIGTERM has ended a report, or a training at the end of an epoch, with a checkpoint; its code is TERMINATED."""


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[[int, object], object]]) -> Iterator[None]:
    """Handle signals of DEFAULTS; those that do not what they do by default (ignored, not the main thread) stay so."""
    main = threading.current_thread() is threading.main_thread()
    changed = [number for number in handlers if main and signal.getsignal(number) is DEFAULTS[number]]
    for number in changed:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, DEFAULTS[number])
