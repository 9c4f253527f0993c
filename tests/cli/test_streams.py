"""A lost terminal does not end a command: closed, full, cut by `head`, or without UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cid_ray.results.records import read_records
from tests.helpers.tiny_run import TINY

pytestmark = pytest.mark.process


@pytest.fixture
def train(small_demo: Path, tmp_path: Path) -> str:
    """A command that trains for some steps into `tmp_path / "run"`."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], "table": str(small_demo)}}))
    return f"{sys.executable} -m cid_ray.train --config {config} --out {tmp_path / 'run'}"


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run it in bash; its exit code is that of the first command of a pipe."""
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=240, env=environment, check=False
    )


@pytest.mark.parametrize("end", [">&-", ">/dev/full", "| head -1", ">&- 2>&-"])
def test_train_without_a_terminal_to_write_to_finishes_and_logs(
    train: str, tmp_path: Path, end: str
) -> None:
    done = shell(f"{train} {end}")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert read_records(tmp_path / "run")[-1]["event"] == "final"
    assert "test mIoU" in (tmp_path / "run" / "log.txt").read_text()


def test_train_in_a_locale_without_utf8_finishes(train: str, tmp_path: Path) -> None:
    done = shell(train, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    assert read_records(tmp_path / "run")[-1]["event"] == "final"


@pytest.mark.parametrize("name", ["", "train --help", "nonsense"])
def test_list_of_commands_cut_by_head_has_no_traceback(name: str) -> None:
    done = shell(f"{sys.executable} -u -m cid_ray {name} | head -c 1")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_message_with_a_character_that_the_terminal_lacks_shows_a_question_mark() -> None:
    code = (
        "from cid_ray.cli.streams import tolerate_lost_streams\n"
        "tolerate_lost_streams(); print('34.1 \\u00b1 0.2')"
    )
    done = shell(
        f'{sys.executable} -c "{code}"', LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert done.stdout == b"34.1 ? 0.2\n" and not done.stderr
