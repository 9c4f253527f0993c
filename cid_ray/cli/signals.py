"""Ctrl-C and SIGTERM of a long command."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from cid_ray.cli.parser import INTERRUPTED


@contextlib.contextmanager
def stop_signals(
    interrupt: Callable[[], None], resume: str, log: Callable[[str, bool], None]
) -> Iterator[None]:
    """Ctrl-C stops gracefully, a second one exits immediately, as SIGTERM does.

    Batch systems and `ray job stop` kill soon after SIGTERM, and a resume needs no clean-up. Ray
    installs handlers of its own, so enter this after Ray has started.

    Args:
        interrupt: called at the first Ctrl-C.
        resume: the command that continues after SIGTERM.
        log: prints a line; the second argument says that it is important.
    """
    interrupts = 0

    def on_interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            os._exit(INTERRUPTED)
        interrupt()
        log("Ctrl-C again exits immediately", True)

    def on_terminate(*_: object) -> None:
        log(f"received SIGTERM; resume with: {resume}", True)
        os._exit(INTERRUPTED)

    former = {signal.SIGINT: signal.signal(signal.SIGINT, on_interrupt)}
    former[signal.SIGTERM] = signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
