"""`--restarts`: a command that is killed goes on by itself and ends the same; one that was told to end does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cid_ray import train, tune
from cid_ray.config import InputError
from cid_ray.restarts import without_option
from cid_ray.run import state
from tests.support import TINY

SETTINGS = [f"--set={key}={value}" for key, value in {**TINY, "train.steps": 60, "train.checkpoint_steps": 5}.items()]


def start(out: Path, small_demo: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cid_ray.train", *SETTINGS, f"--set=data.table={small_demo}", "--out", str(out)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def child_of(process: subprocess.Popen[str], other_than: int = 0) -> int:
    """The process that works, once there is one."""
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        children = [child.pid for child in psutil.Process(process.pid).children()]
        if children and children[0] != other_than:
            return children[0]
        time.sleep(0.02)


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "train" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_command_goes_on_from_its_checkpoint_and_ends_the_same(small_demo: Path, tmp_path: Path) -> None:
    assert train.main([*SETTINGS, f"--set=data.table={small_demo}", "--out", str(tmp_path / "whole")]) == 0
    hit = start(tmp_path / "hit", small_demo, "--restarts", "1")
    wait_for_checkpoint(tmp_path / "hit", hit)
    os.kill(child_of(hit), signal.SIGKILL)
    told = hit.communicate(timeout=120)[0]
    assert hit.returncode == 0, told
    assert "killed by SIGKILL; going on, 1 restart(s) left" in told
    first, second = (state.load(tmp_path / n / "checkpoints" / "train" / "last.pt") for n in ("whole", "hit"))
    for part in ("student", "teacher"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())


@pytest.mark.slow
def test_it_is_not_restarted_more_often_than_asked_nor_when_it_was_told_to_end(
    small_demo: Path, tmp_path: Path
) -> None:
    hit = start(tmp_path / "hit", small_demo, "--restarts=1")
    first = child_of(hit)
    os.kill(first, signal.SIGKILL)  # before it has a folder: begun anew
    os.kill(child_of(hit, first), signal.SIGKILL)
    told = hit.communicate(timeout=120)[0]
    assert hit.returncode == 1 and "no restart is left" in told
    ended = start(tmp_path / "ended", small_demo, "--restarts=5")
    wait_for_checkpoint(tmp_path / "ended", ended)
    ended.terminate()
    assert "going on" not in ended.communicate(timeout=60)[0] and ended.returncode != 0


def test_a_mistake_is_told_once_with_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.train", "--set", "data.table=absent", "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--restarts", "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "going on" not in done.stdout


@pytest.mark.parametrize("command", [train, tune])
def test_what_cannot_go_on_is_refused(command: object) -> None:
    with pytest.raises(InputError, match="name it with --out"):
        command.main(["--restarts", "3"])  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="must not be negative"):
        command.main(["--restarts", "-3", "--out", "x"])  # type: ignore[attr-defined]


def test_its_own_option_is_not_handed_on() -> None:
    assert without_option(["--restarts", "3", "--out", "x"]) == ["--out", "x"]
    assert without_option(["--out", "x", "--restart", "3"]) == ["--out", "x"], "argparse takes abbreviations"
    assert without_option(["--out", "x", "--restarts=3", "--set", "a=b"]) == ["--out", "x", "--set", "a=b"]
