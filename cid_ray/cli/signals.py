"""Ctrl-C and SIGTERM of a long command, from its first line to its last.

A thread acts on them. Python calls a handler between two bytecodes of the main thread, which stays
in C++ for seconds while Ray starts or stops, and a KeyboardInterrupt half way through `ray.init`
ends in a segmentation fault. Python's wakeup file descriptor wakes the thread immediately.

Imports nothing heavy: a command calls `exit_on_signals` before its own imports.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cid_ray.cli.streams import tolerate_lost_streams

INTERRUPTED = 130  # the exit code
GRACE_S = 9.0  # from the first Ctrl-C, for trials to stop and for the report
SAME_KEY_S = 0.3  # `--restarts` forwards a Ctrl-C that a terminal has sent to its child too
CHECK_INTERVAL_S = 0.02
KILL_TIMEOUT_S = 1.0
LOG_TIMEOUT_S = 0.5  # the main thread may hold the log's lock
PENDING_TIMEOUT_S = 1.0
END, PENDING_DONE = b"\x00", b"\xff"  # to the thread, between the numbers of signals
STOP_NUMBERS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it

Handler = Callable[[int, FrameType | None], Any]
Log = Callable[[str, bool], None]  # the second argument says that a line is important


def exit_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM end this process immediately, and the Ray that it started."""
    global _listener
    if _listener is None:
        tolerate_lost_streams()  # first: else a socket gets the number of a closed stream
        _listener = Listener()
        atexit.register(_listener.ignore)  # called last, as registered before Ray's


def is_listening() -> bool:
    """Whether `exit_on_signals` was called."""
    return _listener is not None


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """SIGTERM is a Ctrl-C in this block: for a command that removes what it has half written."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextlib.contextmanager
def stop_signals(
    resume: str, log: Log, interrupt: Callable[[], None] | None = None
) -> Iterator[None]:
    """Ctrl-C stops gracefully within GRACE_S, a second one exits immediately, as SIGTERM does.

    Batch systems and `ray job stop` kill soon after SIGTERM, and a resume needs no clean-up.

    Args:
        resume: the command that continues after SIGTERM.
        log: prints a line.
        interrupt: called at the first Ctrl-C, in a thread of its own. None: the main thread gets a
            KeyboardInterrupt.
    """

    def act(number: int) -> None:
        if number == signal.SIGTERM:
            exit_now(f"received SIGTERM; resume with: {resume}", log)
        seconds_left = listener.deadline - time.monotonic()
        if seconds_left < math.inf:
            if seconds_left < GRACE_S - SAME_KEY_S:
                exit_now()
            return
        late = f"not stopped after {GRACE_S:g} s: exits now; resume with: {resume}"
        listener.set_deadline(GRACE_S, lambda: exit_now(late, log))
        if interrupt is not None:
            threading.Thread(target=stop, args=(interrupt,), daemon=True).start()

    def stop(interrupt: Callable[[], None]) -> None:
        interrupt()
        log("Ctrl-C again exits immediately", True)

    handler: Handler = signal.default_int_handler
    if interrupt is not None:
        handler = _ignore
    with handle_signals(act, handler) as listener:
        yield


@contextlib.contextmanager
def handle_signals(
    act: Callable[[int], None], sigint_handler: Handler | None = None
) -> Iterator[Listener]:
    """Call `act` with the number of each SIGINT and SIGTERM, in another thread.

    Args:
        act: called in place of what was to be done before.
        sigint_handler: called in the main thread; None: nothing is.
    """
    listener = _listener or Listener()
    former, listener.act = listener.act, act
    listener.set_handlers(sigint_handler or _ignore)
    try:
        yield listener
    finally:
        listener.finish_pending()  # else `former` would act on a signal of this block
        listener.act = former
        listener.set_handlers(_ignore)
        if listener is not _listener:
            listener.close()


def exit_now(text: str = "interrupted", log: Log | None = None) -> NoReturn:
    """Print a line, kill the Ray that this process started, and exit, whatever other threads do.

    Args:
        text: the line.
        log: prints it; None: on standard error.
    """
    if log is None:
        _write(2, f"{text}\n".encode() if text else b"")
    else:
        thread = threading.Thread(target=log, args=(text, True), daemon=True)
        thread.start()
        thread.join(LOG_TIMEOUT_S)
    if os.isatty(1):
        _write(1, SHOW_CURSOR)
    kill_children()
    os._exit(INTERRUPTED)


class Listener:
    """The thread that hears of signals.

    Attributes:
        act: called with a signal's number.
        deadline: when the process ends at the latest, by `time.monotonic()`.
    """

    def __init__(self) -> None:
        self.act: Callable[[int], None] = lambda _: exit_now()
        self.deadline = math.inf
        self._at_deadline: Callable[[], None] = exit_now
        self._pending_done = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._former = {number: signal.signal(number, _ignore) for number in STOP_NUMBERS}
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._c_handlers = {number: _c_handler(number) for number in STOP_NUMBERS}
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def ignore(self) -> None:
        """Ignore signals from now on: Python kills by one that arrives while it ends."""
        self._writer.send(END)
        self._thread.join()
        for number in STOP_NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Restore the former handlers."""
        self._writer.send(END)
        self._thread.join()
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def set_handlers(self, sigint_handler: Handler) -> None:
        """Set what Python calls in the main thread besides."""
        signal.signal(signal.SIGINT, sigint_handler)
        signal.signal(signal.SIGTERM, _ignore)  # `ray.init` has set another one

    def finish_pending(self) -> None:
        """Wait until the signals that have arrived are acted on."""
        self._pending_done.clear()
        self._writer.send(PENDING_DONE)
        self._pending_done.wait(PENDING_TIMEOUT_S)

    def set_deadline(self, seconds: float, at_deadline: Callable[[], None]) -> None:
        self.deadline = time.monotonic() + seconds
        self._at_deadline = at_deadline

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._reader], [], [], CHECK_INTERVAL_S)
            numbers = self._reader.recv(16) if ready else b""
            for number in numbers:
                if number in STOP_NUMBERS:
                    self.act(number)
            if PENDING_DONE[0] in numbers:
                self._pending_done.set()
            if END[0] in numbers:
                return
            if time.monotonic() >= self.deadline:
                self._at_deadline()
            self._take_back()

    def _take_back(self) -> None:
        """Replace the handler that `ray.init` sets in C++: it prints a trace and aborts."""
        for number, handler in self._c_handlers.items():
            if _c_handler(number) != handler:
                ctypes.pythonapi.PyOS_setsig(number, ctypes.c_void_p(handler))


_listener: Listener | None = None  # from `exit_on_signals` to the end of this process


def _ignore(*_: object) -> None:
    """A handler for the main thread, for what the listener acts on."""


def _c_handler(number: int) -> int | None:
    get = ctypes.pythonapi.PyOS_getsig
    get.restype = ctypes.c_void_p
    address: int | None = get(number)
    return address


def _write(number: int, text: bytes) -> None:
    """Write to a file descriptor, or nothing where that would block or fail."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [number], [], 0)[1]:
            os.write(number, text)


# ---- the processes that this one started ----


def kill_children() -> None:
    """Kill all processes below this one, but those in a session of their own, like a sidecar.

    The children of Ray's raylet are not told of its death in time, and some never notice. All are
    stopped first, so that none starts another one meanwhile. Without /proc Ray's reaper does it.
    """
    found: set[int] = set()
    while new := descendants() - found:
        found |= new
        _signal_all(new, signal.SIGSTOP)
    _signal_all(found, signal.SIGKILL)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while any(map(_is_alive, found)) and time.monotonic() < deadline:
        time.sleep(CHECK_INTERVAL_S)


def descendants() -> set[int]:
    """The processes below this one in its session."""
    session = str(os.getsid(0))
    found = {os.getpid()}
    processes = {int(folder.name): _stat(folder) for folder in Path("/proc").glob("[0-9]*")}
    while (
        new := {
            pid
            for pid, (_state, parent, _group, in_session, *_) in processes.items()
            if int(parent) in found and in_session == session
        }
        - found
    ):
        found |= new
    return found - {os.getpid()}


def _is_alive(pid: int) -> bool:
    return _stat(Path(f"/proc/{pid}"))[0] not in "XZ"  # dead, or a zombie


def _stat(folder: Path) -> list[str]:
    """State, parent, group, session and so on of a process; of one that has ended as if dead."""
    with contextlib.suppress(OSError):
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()  # after the name in brackets
    return ["X", "0", "0", "0"]


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
