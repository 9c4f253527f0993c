"""A command in a process of its own on the session's Ray cluster, and waiting for its effects."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cid_ray.results.records import of_event, read_records
from tests.helpers.ports import wait_until


@contextlib.contextmanager
def driver(command: list[str], address: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m COMMAND` with its output piped. At the end of the block it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "RAY_ADDRESS": address, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_while_running(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Wait until the condition is true; fails when the process ends first."""

    def met() -> bool:
        has_ended = process.poll() is not None
        result = bool(condition())
        if has_ended and not result:
            output, _ = process.communicate()
            raise AssertionError(f"exit code {process.returncode}, too early:\n{output}")
        return result

    wait_until(met, 200)


def n_finished(out: Path) -> int:
    """How many trials have finished by the records of a run."""
    return len(of_event(read_records(out), "trial"))
