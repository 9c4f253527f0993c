"""A process that runs next to this one and ends with it, even after kill -9: `--dashboard`.

Its standard input is a pipe that only this process holds open. The kernel closes the pipe when this
process ends, and the sidecar then exits. It has a session of its own, so a typed Ctrl-C reaches
this process only.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from cid_ray.storage.paths import PathOrUri

DASHBOARD_GRACE_S = 5.0  # time in which open browsers receive the last update
EXIT_WITH_PARENT = """
import os, runpy, signal, sys, threading, time

def exit_with_parent(grace_s=float(sys.argv.pop(1))):
    sys.stdin.buffer.read()
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGTERM)  # lets the module clean up
    time.sleep(5)
    os._exit(0)

threading.Thread(target=exit_with_parent, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start_process(
    module: str, *args: str, grace_s: float = 0.0, quiet: bool = False
) -> subprocess.Popen[str]:
    """Start `python -m module args` as a process that ends with this one.

    Args:
        module: the module to run.
        args: its arguments.
        grace_s: seconds that it keeps running after this process has ended.
        quiet: discard its output; otherwise the output is readable at `.stdout`.
    """
    return subprocess.Popen(
        [sys.executable, "-c", EXIT_WITH_PARENT, str(grace_s), module, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def add_dashboard_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dashboard",
        metavar="PORT",
        type=int,
        nargs="?",
        const=0,
        help="serve a live page of the search (python -m cid_ray.dashboard)",
    )


@contextlib.contextmanager
def live_dashboard(
    port: int | None, run_dir: PathOrUri, log: Callable[[str], None]
) -> Iterator[None]:
    """Serve the live page of a run until the block ends. An error of the page does not stop it.

    Args:
        port: the port to listen on; 0: 8266 or the next free one; None: no page.
        run_dir: the run folder.
        log: receives every line that the dashboard prints.
    """
    if port is None:
        yield
        return
    port_option = ["--port", str(port)] if port else []
    process = start_process(
        "cid_ray.dashboard", str(run_dir), *port_option, grace_s=DASHBOARD_GRACE_S
    )
    threading.Thread(target=_forward_lines, args=(process.stdout, log), daemon=True).start()
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()


def _forward_lines(lines: IO[str], log: Callable[[str], None]) -> None:
    for line in lines:
        log(line.rstrip())
