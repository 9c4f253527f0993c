"""Law: whatever a check does, it becomes one line within its limit, and ends with the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from cid_ray.config import InputError
from cid_ray.diagnostics.runner import Check, Limited, Result, run_checks
from tests.helpers.ports import wait_until


def good() -> str:
    print("noise")
    return "fine"


def limited() -> str:
    raise Limited("slow; do this")


def bad() -> str:
    raise InputError("broken; do that")


def broken() -> str:
    raise KeyError("x")


def crashes() -> str:
    os.kill(os.getpid(), signal.SIGVTALRM)
    return "unreachable"


def killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def exits() -> str:
    os._exit(3)


def hangs() -> str:
    time.sleep(1000)
    return "unreachable"


@pytest.mark.process
def test_results_come_in_order_and_each_fault_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    functions = (good, limited, bad, broken, crashes, killed, exits)
    checks = [Check(run.__name__, run) for run in functions]
    checks.insert(0, Check("hangs", hangs, 0.5, "mend it"))
    assert [str(result) for result in run_checks(checks)] == [
        "FAIL hangs: did not end within 0.5 s: mend it",
        "OK   good: fine",
        "WARN limited: slow; do this",
        "FAIL bad: broken; do that",
        "FAIL broken: KeyError: 'x'",
        "FAIL crashes: a library ended the check with SIGVTALRM; install it again",
        "FAIL killed: the check was killed (SIGKILL), perhaps for memory; end other programs",
        "FAIL exits: a library ended the check with exit code 3",
    ]
    assert capfd.readouterr() == ("", ""), "what a check or a library prints is not shown"


@pytest.mark.process
def test_check_that_hangs_takes_its_children_along() -> None:
    reader, writer = os.pipe()

    def starts_a_child() -> str:
        # Both keep the writing end open until they end.
        subprocess.run(["sleep", "1000"], pass_fds=[writer], check=False)
        return "unreachable"

    (result,) = run_checks([Check("child", starts_a_child, 1)])
    assert result.status == "FAIL"
    os.close(writer)
    os.set_blocking(reader, False)
    wait_until(lambda: at_end(reader))
    os.close(reader)


def at_end(reader: int) -> bool:
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


def test_control_characters_in_a_line_are_escaped() -> None:
    assert str(Result("GPU", "OK", "a\x1b[31m\nb\u202e")) == "OK   GPU: a\\x1b[31m b\\u202e"
