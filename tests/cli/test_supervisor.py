"""Laws of `--restarts`: a killed command resumes and ends with the same weights as an unkilled one.

A command that was asked to end, or that fails by itself, is not restarted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from cid_ray.cli.supervisor import without_restarts
from cid_ray.config import InputError
from cid_ray.train import main as train_main
from cid_ray.training import checkpoint
from cid_ray.tune import main as tune_main
from tests.helpers.tiny_run import TINY

CHANGES = {**TINY, "train.steps": 60, "train.checkpoint_steps": 5}
HANG_S = 280  # only turns a hang into a failure, also on a busy machine
OPTIONS = [f"--set={key}={value}" for key, value in CHANGES.items()]


def start(out: Path, table: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cid_ray.train", *OPTIONS, f"--set=data.table={table}"]
    return subprocess.Popen(
        [*command, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_child(process: subprocess.Popen[str], other_than: int = 0) -> int:
    """The process id of the child that trains, once there is one."""
    deadline = time.monotonic() + HANG_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        children = [child.pid for child in psutil.Process(process.pid).children()]
        if children and children[0] != other_than:
            return children[0]
        time.sleep(0.02)


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not (out / "checkpoints" / "train" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
def test_supervisor_child_killed_resumes_to_equal_weights(small_demo: Path, tmp_path: Path) -> None:
    whole = ["--out", str(tmp_path / "whole")]
    assert train_main([*OPTIONS, f"--set=data.table={small_demo}", *whole]) == 0
    process = start(tmp_path / "killed", small_demo, "--restarts", "1")
    wait_for_checkpoint(tmp_path / "killed", process)
    os.kill(wait_for_child(process), signal.SIGKILL)
    output = process.communicate(timeout=HANG_S)[0]
    assert process.returncode == 0, output
    assert "killed by SIGKILL; resuming, 1 restart(s) left" in output
    expected, found = (
        checkpoint.load_checkpoint(tmp_path / name / "checkpoints" / "train" / "last.pt")
        for name in ("whole", "killed")
    )
    for part in ("student", "teacher"):
        for name, value in expected[part].items():
            assert torch.equal(value, found[part][name])


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
def test_supervisor_killed_too_often_gives_up(small_demo: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", small_demo, "--restarts=1")
    first = wait_for_child(process)
    # Killed before it has a run folder: the second child starts from the beginning.
    os.kill(first, signal.SIGKILL)
    os.kill(wait_for_child(process, first), signal.SIGKILL)
    output = process.communicate(timeout=HANG_S)[0]
    assert process.returncode == 1 and "no restart is left" in output


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
def test_supervisor_asked_to_end_does_not_restart(small_demo: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", small_demo, "--restarts=5")
    wait_for_checkpoint(tmp_path / "run", process)
    process.terminate()
    assert "resuming" not in process.communicate(timeout=HANG_S)[0]
    assert process.returncode != 0


@pytest.mark.process
def test_supervisor_command_with_mistake_reports_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.train", "--set", "data.table=absent"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--restarts", "3"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    assert "resuming" not in done.stdout


@pytest.mark.parametrize("command", [train_main, tune_main])
def test_restarts_without_run_folder_or_negative_is_refused(
    command: Callable[[list[str]], int],
) -> None:
    with pytest.raises(InputError, match="name it with --out"):
        command(["--restarts", "3"])
    with pytest.raises(InputError, match="must not be negative"):
        command(["--restarts", "-3", "--out", "x"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--restarts 3 --out x", "--out x"),
        ("--out x --restart 3", "--out x"),  # argparse accepts abbreviations
        ("--out x --restarts=3 --set a=b", "--out x --set a=b"),
    ],
)
def test_without_restarts_any_spelling_is_removed(given: str, expected: str) -> None:
    assert without_restarts(given.split()) == expected.split()
