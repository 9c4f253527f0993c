"""Ports of this machine: a free one, whether one answers, and waiting for either."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from benchmarks.harness.ports import free_port

__all__ = ["free_port", "reachable", "wait_until"]


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def wait_until(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    """Poll until the condition is true. The timeout only turns a hang into a failure."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s:g} s"
        time.sleep(0.1)
