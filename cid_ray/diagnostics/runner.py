"""Runs checks, each in a process of its own with a time limit.

A library that crashes, a file system that hangs and an import that never ends become one line. The
processes are forked, so this module and what it imports must not start threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cid_ray.config import InputError, error_summary
from cid_ray.config.plain_text import printable

OK = "OK"
WARNING = "WARN"  # it works, but slowly or not for everything
FAILED = "FAIL"
LIMIT_S = 10.0


class Limited(Exception):
    """What is checked works in part. The message says what does not, and the remedy."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: the first words of its line.
        run: returns what is good. Raises Limited or InputError with the problem and its remedy.
            Any other exception is a failure too.
        limit_s: after so many seconds it has failed.
        at_limit: the remedy for a check that does not end.
    """

    name: str
    run: Callable[[], str]
    limit_s: float = LIMIT_S
    at_limit: str = "the disk or the network does not answer"


@dataclass(frozen=True)
class Result:
    name: str
    status: str  # OK, WARNING or FAILED
    text: str

    def __str__(self) -> str:
        return printable(f"{self.status:4} {self.name}: {' '.join(self.text.split())}")


def run_checks(checks: Sequence[Check]) -> Iterator[Result]:
    """Run all checks concurrently; yields their results in the order of the checks."""
    running = [_Running(check) for check in checks]
    try:
        for each in running:
            yield each.result()
    finally:
        for each in running:
            each.stop()


class _Running:
    """A check in its process."""

    def __init__(self, check: Check):
        self.check = check
        self.deadline = time.monotonic() + check.limit_s
        context = multiprocessing.get_context("fork")
        self.reader, writer = context.Pipe(duplex=False)
        self.process: Any = context.Process(target=_work, args=(check, writer))
        self.process.start()
        writer.close()  # so that the reader sees the end of the process

    def result(self) -> Result:
        """Wait for the end of the check, or for its limit."""
        check = self.check
        if not self.reader.poll(max(0.0, self.deadline - time.monotonic())):
            limit = f"did not end within {check.limit_s:g} s"
            return Result(check.name, FAILED, f"{limit}: {check.at_limit}")
        try:
            status, text = self.reader.recv()
        except EOFError:
            self.process.join()
            status, text = FAILED, _describe_exit(self.process.exitcode)
        return Result(check.name, status, text)

    def stop(self) -> None:
        """End its process and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def _describe_exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the check was killed (SIGKILL), perhaps for memory; end other programs"
    if code < 0:
        return f"a library ended the check with {signal.Signals(-code).name}; install it again"
    return f"a library ended the check with exit code {code}"


def _work(check: Check, writer: Connection) -> None:
    """In the process of a check: run it silently, and send its status and text."""
    os.setsid()  # `stop` ends what the check has started too
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(devnull, number)
    sys.stdout = sys.stderr = open(devnull, "w", encoding="utf-8")  # noqa: SIM115  # to its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    writer.send(outcome(check))


def outcome(check: Check) -> tuple[str, str]:
    """Run a check in this process: its status and its text."""
    try:
        return OK, check.run()
    except Limited as error:
        return WARNING, str(error)
    except InputError as error:
        return FAILED, str(error)
    except Exception as error:
        return FAILED, error_summary(error, with_type=True)
