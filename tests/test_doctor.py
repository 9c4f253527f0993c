"""Law of `doctor`: a line per check, exit code 1 when one has failed, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray.doctor import checks
from tests.helpers.ports import free_port

pytestmark = pytest.mark.process


def doctor(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cid_ray.doctor", *args],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Name of a check -> OK, WARN or FAIL."""
    assert not done.stderr, done.stderr
    lines = done.stdout.splitlines()[:-1]
    return {line[5:].partition(":")[0]: line[:4].strip() for line in lines}


@pytest.mark.ray
def test_doctor_of_this_machine_has_no_failure(tmp_path: Path) -> None:
    done = doctor("--out", str(tmp_path / "run"), RAY_ADDRESS="local")
    assert done.returncode == 0, done.stdout
    assert list(statuses(done)) == [check.name for check in checks("runs")]
    assert "FAIL" not in statuses(done).values() and done.stdout.endswith(", 0 FAIL\n")
    assert not (tmp_path / "run").exists()


def test_doctor_names_every_failure_and_checks_the_rest(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / ("x" * 90)
    long.mkdir()
    done = doctor(
        *("--out", str(tmp_path / "file")),
        RAY_ADDRESS=f"127.0.0.1:{free_port()}",
        RAY_TMPDIR=str(long),
    )
    failed = {name for name, status in statuses(done).items() if status == "FAIL"}
    assert failed == {"--out", "Ray here", "Ray cluster"}
    assert done.returncode == 1 and done.stdout.endswith(", 3 FAIL\n")
    assert statuses(done)["hub"] == "OK"
