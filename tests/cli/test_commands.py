"""Laws of all commands, as a user's shell runs them: the list, the help, the exit codes.

A mistake ends with exit code 2 and one line, and leaves nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cid_ray
from cid_ray.__main__ import COMMANDS

pytestmark = pytest.mark.process
PACKAGE = Path(cid_ray.__file__).parent


def run_module(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`python -m ARGS` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("cid_ray.train --set loss.relation_wieght=1", "loss.relation_weight"),
        ("cid_ray.train --set loss.conf_thresh=95", "0.95"),
        ("cid_ray.train --config absent.yaml", "absent.yaml"),
        ("cid_ray.train --resume norun", "norun"),
        ("cid_ray.train --stepz 3", "--stepz"),
        ("cid_ray.train --set data.table=tables/absent", "tables/absent"),
        ("cid_ray.report norun", "norun"),
        ("cid_ray.report norun other", "norun"),
        ("cid_ray.report norun ./norun", "name each run once"),
        ("cid_ray.prepare split tables/absent --out here", "tables/absent"),
        ("cid_ray.prepare", "--help"),
        ("cid_ray tunee", "did you mean tune?"),
        ("cid_ray qqq", "commands are"),
    ],
)
def test_command_with_mistake_prints_one_line_and_exits_2(
    tmp_path: Path, args: str, named: str
) -> None:
    done = run_module(tmp_path, *args.split())
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert line.startswith("error: ") and named in line and "\n" not in line
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_package_without_command_lists_every_command(tmp_path: Path) -> None:
    done = run_module(tmp_path, "cid_ray")
    commands = {
        file.stem for file in PACKAGE.glob("*.py") if "run_command(main)" in file.read_text()
    }
    assert done.returncode == 0
    assert {"prepare", "train", "tune", "report"} <= commands == set(COMMANDS)
    for name in commands:
        assert f"python -m cid_ray.{name} " in done.stdout


def test_package_version_option_prints_version(tmp_path: Path) -> None:
    assert run_module(tmp_path, "cid_ray", "--version").stdout == f"cid_ray {cid_ray.__version__}\n"


def test_package_with_command_name_runs_command(tmp_path: Path) -> None:
    direct = run_module(tmp_path, "cid_ray.prepare", "--help")
    by_name = run_module(tmp_path, "cid_ray", "prepare", "--help")
    assert by_name.stdout == direct.stdout and by_name.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_has_examples_and_exit_codes(tmp_path: Path, name: str) -> None:
    done = run_module(tmp_path, f"cid_ray.{name}", "--help")
    assert done.returncode == 0 and not done.stderr
    assert "examples:" in done.stdout and "Exit codes" in done.stdout
    assert f"python -m cid_ray.{name}" in done.stdout
