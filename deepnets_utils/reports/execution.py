"""One execution of a notebook by papermill, in a kernel of this Python."""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from deepnets_utils.runs import paths
from deepnets_utils.runs.files import write_text
from deepnets_utils.training.signals import DEFAULTS, TERMINATED, Terminated, handled

FINISH_SECONDS = 600.0  # for an interrupted kernel to end what is training; longer runs have a checkpoint
SOCKETS = "/tmp", "/var/tmp", "/dev/shm"  # systems allow about 100 bytes of a socket's path, and TMPDIR may be long


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the Python that runs this, whatever kernels the user's machine knows as python3."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        if os.name == "posix":
            # Two kernels that start at once can be given the same TCP ports; files have no such trouble.
            self.transport = "ipc"
            self.connection_file = str(Path(jupyter_runtime_dir()) / "kernel.json")

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel and its processes; once it has finished what trains (after Ctrl-C), or its epoch (SIGTERM)."""
        error = sys.exc_info()[1]
        if isinstance(error, (KeyboardInterrupt, Terminated)) and self.has_kernel:
            ctrl_c = isinstance(error, KeyboardInterrupt)
            await (self.interrupt_kernel() if ctrl_c else self.signal_kernel(signal.SIGTERM))
            client = self.client()
            client.start_channels()
            with contextlib.suppress(RuntimeError):  # it took too long, or is gone
                await client.wait_for_ready(timeout=FINISH_SECONDS)
            client.stop_channels()
        if now or not self.has_kernel:
            await super().shutdown_kernel(now=now, restart=restart)
            return
        # The base class interrupts the kernel first, and an idle one may log that as an error.
        await self.request_shutdown(restart=restart)
        await self.finish_shutdown(restart=restart)
        await self.cleanup_resources(restart=restart)


def execute(notebook: Path, partial: Path, given: Mapping[str, Any], token: str) -> str:
    """Run a notebook into `partial`; return "", or the error's first line. The kernel's log goes to stderr."""
    short = next((folder for folder in SOCKETS if os.access(folder, os.W_OK)), None)
    with TemporaryDirectory(prefix="deepnets-", dir=short) as runtime:
        settings = {
            "DEEPNETS_REPORT_TOKEN": token,
            "DEEPNETS_OUTPUT": str(paths.output_root()),  # a relative one would mean another folder there
            "DEEPNETS_DATA": str(paths.data_root()),
            "JUPYTER_RUNTIME_DIR": runtime,
            "JPY_SESSION_NAME": "",  # nobody watches this kernel, even where JupyterLab started the report
        }
        text = ""
        try:
            with patch.dict(os.environ, settings), _event_loop():
                papermill.execute_notebook(
                    notebook,
                    partial,
                    dict(given),
                    kernel_name="python3",
                    language="python",
                    kernel_manager_class=ThisPython,
                    cwd=paths.NOTEBOOKS,  # where JupyterLab runs it
                    progress_bar=False,
                    stderr_file=sys.stderr,
                )
        except PapermillExecutionError as error:
            text = f"{error.ename}: {error.evalue}"
        except (KeyboardInterrupt, Terminated):
            # The cell's task ends with the kernel, and nobody is left to ask for its error.
            logging.getLogger("asyncio").disabled = True
            raise
        except DeadKernelError:
            text = "the kernel died: the system ended it (out of memory?), or a library crashed"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return f"{lines[0]} (and {len(lines) - 1} more lines)" if len(lines) > 1 else "".join(lines)


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    """Give one execution its event loop; KeyboardInterrupt and Terminated come only between two of its callbacks.

    Python raises wherever it is; inside a callback from zmq's C code or a destructor that would be printed and lost.
    """
    loop = ensure_event_loop()
    # A loop that runs already, as in JupyterLab, waits for this; nbclient then takes one in another thread.
    if loop.is_running() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int) -> None:
        raise Terminated(TERMINATED) if number == signal.SIGTERM else KeyboardInterrupt

    came: set[int] = set()

    def soon(number: int, frame: object) -> None:
        if number == signal.SIGTERM and number in came:
            return  # a cluster may send it twice, and what ends is not to be cut short
        came.add(number)
        if loop.is_running():
            loop.call_soon_threadsafe(end, number)
        else:
            end(number)

    try:
        with handled(dict.fromkeys(DEFAULTS, soon)):
            yield
    finally:
        loop.close()  # the next execution makes its own: processes forked from this one would all share it


def keep_failed(partial: Path, target: Path, error: str) -> None:
    """Keep the executed part of a notebook, with the error at its top.

    papermill marks only the cells that raised; after a dead kernel it calls every cell completed.
    """
    try:
        executed = nbformat.read(partial, as_version=4)
    except ValueError:  # cut short, on a full disk
        os.replace(partial, target)
        return
    text = f"**This execution failed.** {escape(error)}"
    executed.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    write_text(target, nbformat.writes(executed))
