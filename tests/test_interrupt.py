"""Law: Ctrl-C and SIGTERM end `tune` and `train` with exit code 130, whatever the moment: within
two seconds before trials run, within ten afterwards. No process of Ray stays. No traceback.

The commands start a Ray of their own, as users' do.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.helpers.ports import wait_until
from tests.helpers.small_search import space_file

pytestmark = [pytest.mark.process, pytest.mark.ray]
START_LIMIT_S = 2.0
RUN_LIMIT_S = 10.0
LEFT_LIMIT_S = 5.0
MOMENTS = 20
LONG = ["--set=train.steps=100000", "--set=train.rungs=[0.0001, 1.0]"]
TWO_WORKERS = ["--set=distributed.num_workers=2", *LONG]


class Command:
    """A command with a Ray of its own; its processes carry a mark in their environment."""

    def __init__(self, folder: Path, table: Path, name: str, *options: str):
        self.mark = uuid.uuid4().hex
        self.out = folder / self.mark
        config = space_file(folder, table, trials=4, ratios=["1/4"])
        env = {**os.environ, "CID_RAY_TEST_MARK": self.mark}
        env.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"cid_ray.{name}", "--config", str(config)),
                *(f"--out={self.out}", *options),
            ],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def left(self) -> list[str]:
        """The command lines of its processes that are alive."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CID_RAY_TEST_MARK") == self.mark:
                    found.append(" ".join(process.cmdline()))
        return found

    def wait_for_child(self, name: str) -> None:
        """Wait until a process of Ray such as gcs_server has started."""
        self.wait_until(lambda: any(name in words for words in self.left()))

    def wait_for_log(self, text: str) -> None:
        log = self.out / "log.txt"
        self.wait_until(lambda: log.is_file() and text in log.read_text())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        try:
            wait_until(condition, 100)
        except BaseException:
            self.process.terminate()  # with all that it has started
            self.process.communicate()
            raise

    def end(self, number: signal.Signals) -> tuple[str, float]:
        """Send a signal; returns what the command has printed, and its seconds to the exit."""
        sent = time.monotonic()
        self.process.send_signal(number)
        # Its end first: a process of Ray that stays would keep the pipe open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        seconds = time.monotonic() - sent
        # Python's helper processes of Ray's dashboard end by themselves when it has died.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left(), LEFT_LIMIT_S)
        left = self.left()
        self.process.kill()
        shown, _ = self.process.communicate()
        assert not left, left
        assert "Traceback" not in shown, shown
        return shown, seconds


@pytest.mark.parametrize(
    ("name", "options", "child", "number"),
    [
        ("tune", [], "gcs_server", signal.SIGINT),
        ("train", TWO_WORKERS, "raylet", signal.SIGTERM),
    ],
)
def test_signal_while_ray_starts(
    small_demo: Path,
    tmp_path: Path,
    name: str,
    options: list[str],
    child: str,
    number: signal.Signals,
) -> None:
    command = Command(tmp_path, small_demo, name, *options)
    command.wait_for_child(f"/{child}")
    shown, seconds = command.end(number)
    assert command.process.returncode == 130 and shown == "interrupted\n"
    assert seconds < START_LIMIT_S


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [LONG, TWO_WORKERS])
def test_signal_while_it_trains_says_how_to_continue(
    small_demo: Path, tmp_path: Path, options: list[str], number: signal.Signals
) -> None:
    command = Command(tmp_path, small_demo, "train", *options)
    command.wait_for_log("step ")
    shown, seconds = command.end(number)
    assert command.process.returncode == 130
    assert f"python -m cid_ray.train --resume {command.out}" in shown.splitlines()[-1]
    assert seconds < RUN_LIMIT_S


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_at_random_moments_of_a_search(
    small_demo: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    whole = Command(tmp_path, small_demo, "tune")
    assert whole.process.communicate(timeout=300) and whole.process.returncode == 0
    duration = time.monotonic() - started
    moments = random.Random(17)
    for _ in range(MOMENTS):
        moment = moments.uniform(0.2, duration)
        command = Command(tmp_path, small_demo, "tune")
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(moment)
        shown, seconds = command.end(number)
        code = command.process.returncode
        with capsys.disabled():
            last = shown.splitlines()[-1][:60]
            print(f"{number.name} at {moment:5.2f} s: {code} after {seconds:.2f} s: {last}")
        # A signal in the last moments may find the work done.
        assert code == 130 or (code == 0 and "7 of 7 trials finished" in shown), shown
        assert seconds < (RUN_LIMIT_S if ": started" in shown else START_LIMIT_S), shown
        if number == signal.SIGINT and "writing the report" in shown and code == 130:
            assert (command.out / "report" / "index.html").is_file()
