"""Law: Ctrl-C and SIGTERM end a command with exit code 130 in time, whatever its main thread does,
and no process that it started stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import cid_ray
from cid_ray.cli import signals
from cid_ray.cli.signals import STOP_NUMBERS, stop_signals
from tests.helpers.ports import wait_until

# The main thread waits in C for a lock that it holds itself. No signal ends that.
BLOCK_IN_C = """
import ctypes
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex)
"""
GRACEFUL = """
import time
from cid_ray.cli import signals
signals.GRACE_S = {grace}
def say(text, important=True): print(text, flush=True)
with signals.stop_signals("the command", say, lambda: say("stopping")):
    say("ready")
    time.sleep({seconds})
say("done")
"""


@contextlib.contextmanager
def script(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


EXIT = "from cid_ray.cli.signals import exit_on_signals\nexit_on_signals()\n"


@pytest.mark.process
@pytest.mark.parametrize("number", STOP_NUMBERS)
def test_signal_ends_a_process_whose_main_thread_is_in_c(number: signal.Signals) -> None:
    with script(EXIT + BLOCK_IN_C) as process:
        process.send_signal(number)
        assert process.communicate(timeout=60)[0] == "interrupted\n"
        assert process.returncode == 130


@pytest.mark.process
@pytest.mark.parametrize("number", STOP_NUMBERS)
def test_signal_while_python_ends_leaves_the_exit_code(number: signal.Signals) -> None:
    """Python restores the default handlers before it frees what modules hold."""
    late = (
        "import os, signal\n"
        "class Late:\n"
        f"    def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, {int(number)})\n"
        "late = Late()\n"
        "print('ready', flush=True)\n"
        "raise SystemExit(7)\n"
    )
    with script(EXIT + late) as process:
        assert process.communicate(timeout=60)[0] == ""
        assert process.returncode == 7


@pytest.mark.process
def test_handler_that_c_code_replaces_is_taken_back() -> None:
    """As `ray.init` does: its SIGTERM prints a C++ trace and aborts."""
    replace = "import ctypes, time\nctypes.CDLL(None).signal(15, None)\ntime.sleep(1)\n"
    with script(EXIT + replace + BLOCK_IN_C) as process:
        process.terminate()
        assert process.communicate(timeout=60)[0] == "interrupted\n"
        assert process.returncode == 130


@pytest.mark.process
def test_processes_below_are_killed_but_those_with_a_session_of_their_own() -> None:
    start = (
        "import subprocess\n"
        "subprocess.Popen(['sh', '-c', 'sleep 600 & sleep 600'])\n"
        "subprocess.Popen(['sleep', '601'], start_new_session=True, stdout=subprocess.DEVNULL)\n"
    )
    with script(EXIT + start + BLOCK_IN_C) as process:
        parent = psutil.Process(process.pid)
        wait_until(lambda: len(parent.children(recursive=True)) == 4)
        below = parent.children(recursive=True)
        process.terminate()
        assert process.wait(60) == 130
        left = [each for each in below if each.is_running() and each.status() != "zombie"]
        assert [each.cmdline() for each in left] == [["sleep", "601"]]
        left[0].kill()


@pytest.mark.process
def test_first_ctrl_c_stops_gracefully() -> None:
    with script(GRACEFUL.format(grace=60, seconds=2)) as process:
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert shown.splitlines() == ["stopping", "Ctrl-C again exits immediately", "done"]
    assert process.returncode == 0


@pytest.mark.process
def test_second_ctrl_c_exits_but_one_that_arrives_twice_counts_once() -> None:
    with script(GRACEFUL.format(grace=60, seconds=600)) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout and process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)  # a supervisor forwards what the terminal sent too
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.process
def test_command_that_does_not_stop_in_time_is_ended() -> None:
    with script(GRACEFUL.format(grace=0.5, seconds=600)) as process:
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "not stopped after 0.5 s: exits now; resume with: the command" in shown


@pytest.mark.process
def test_sigterm_names_the_command_that_resumes() -> None:
    with script(GRACEFUL.format(grace=60, seconds=600)) as process:
        process.terminate()
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == "received SIGTERM; resume with: the command\n"


@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_without_interrupt_the_main_thread_gets_a_keyboard_interrupt(
    monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    """Also when the main thread leaves the block before the listening thread reads the signal."""
    read, set_handlers = signals.Listener._run, signals.Listener.set_handlers

    def read_late(listener: signals.Listener) -> None:
        time.sleep(delay_s)
        read(listener)

    def set_handlers_slowly(listener: signals.Listener, handler: Any) -> None:
        set_handlers(listener, handler)
        if handler is signals._ignore:  # at the end of the block
            time.sleep(2 * delay_s)

    monkeypatch.setattr(signals.Listener, "_run", read_late)
    monkeypatch.setattr(signals.Listener, "set_handlers", set_handlers_slowly)

    def wait() -> None:
        with stop_signals("the command", lambda text, important: None):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        wait()


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in STOP_NUMBERS]
    with stop_signals("the command", lambda text, important: None, lambda: None):
        assert [signal.getsignal(number) for number in STOP_NUMBERS] != before
    assert [signal.getsignal(number) for number in STOP_NUMBERS] == before
    former = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(former)
    assert former == -1
