"""A process beside this one that ends with it, however it ends, kill -9 included.

Its standard input is a pipe that this process alone holds open: at its end the other one leaves. It stands in a session
of its own, so a Ctrl-C that is typed reaches this process only.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from cid_ray.places import Name

GRACE_SECONDS = 5.0  # for a browser to hear the last news
FOLLOW = """
import os, runpy, signal, sys, threading, time

def leave_with_the_other(grace=float(sys.argv.pop(1))):
    sys.stdin.buffer.read()
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGTERM)  # so that it can put away what it has made
    time.sleep(5)
    os._exit(0)

threading.Thread(target=leave_with_the_other, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(module: str, *args: str, grace: float = 0.0, quiet: bool = False) -> subprocess.Popen[str]:
    """`python -m module args` as such a process; what it says goes to `.stdout`, or nowhere when `quiet`."""
    out = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, str(grace), module, *args],
        stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def add_option(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--dashboard", metavar="PORT", type=int, nargs="?", const=0,
        help="show the search on a live page while it works (python -m cid_ray.dashboard)",
    )  # fmt: skip


@contextlib.contextmanager
def dashboard(port: int | None, out: Name, say: Callable[[str], None]) -> Iterator[None]:
    """The live page of a run while the block works; None: no page. Whatever becomes of it, the block goes on."""
    if port is None:
        yield
        return
    process = start("cid_ray.dashboard", str(out), *(["--port", str(port)] if port else []), grace=GRACE_SECONDS)
    threading.Thread(target=hand_on, args=(process.stdout, say), daemon=True).start()
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()


def hand_on(lines: IO[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line.rstrip())
