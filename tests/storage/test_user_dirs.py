"""Laws of a user without a usable home folder: every command works, and says once where files go.

The user is one with a random id and without an entry in /etc/passwd, as `docker run --user 12345`
makes it: here by a user namespace.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.storage import user_dirs
from cid_ray.storage.user_dirs import cache_dir, ensure_home, private_temp_dir
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.services import require_service, succeeds

AS_STRANGER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
# HOME of the user -> what is said about it. None: it is not set.
HOMES = {
    None: "HOME is not set",
    "/proc/version/home": "the home folder /proc/version/home does not exist",
    "/proc": "the home folder /proc cannot be written (",
}
ASKED_BY_LIBRARIES = (
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CACHE_HOME",
    "MPLCONFIGDIR",
    "HF_HOME",
    "TRITON_HOME",
)
SHORT_SEARCH = (
    "--set=search.trials=1",
    "--set=search.ratios=[1/8]",
    "--set=search.baselines=[supervised]",
    "--set=train.steps=2",
    "--set=train.num_sample_images=1",
)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, in which nothing is cached yet."""
    for name in (*ASKED_BY_LIBRARIES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # Set first, so that what `ensure_home` sets is undone too.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    # Not below `tmp_path`: Ray's sockets need a short name.
    with tempfile.TemporaryDirectory(prefix="h-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def start(home: str | None, *command: str) -> subprocess.Popen[str]:
    """A command of the stranger."""
    require_service("user namespace", succeeds(*AS_STRANGER, "true"))
    env = {**os.environ, "RAY_ADDRESS": "local"}
    if home is not None:
        env["HOME"] = home
    return subprocess.Popen(
        [*AS_STRANGER, sys.executable, "-m", *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: str | None, *command: str) -> str:
    """What a command of the stranger writes to standard error; it must succeed."""
    process = start(home, *command)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in error, out + error
    return error


@pytest.mark.process
@pytest.mark.parametrize("home", HOMES)
def test_prepare_makes_demo_table_and_says_once_where(
    home: str | None, tmp_path: Path, temporary_folder: Path
) -> None:
    error = run(home, "cid_ray.prepare", "split", "demo", "--out", str(tmp_path / "split"))
    own = temporary_folder / "cid_ray-12345"
    assert error.startswith(f"warning: {HOMES[home]}")
    assert error.endswith(f"; caches of this user go to {own}\n") and error.count("\n") == 1
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert list(own.rglob("demo-*/table.parquet"))


@pytest.mark.process
def test_report_draws_figures_with_a_home_that_cannot_be_written(
    tmp_path: Path, temporary_folder: Path
) -> None:
    error = run("/proc", "cid_ray.report", str(KEPT_RUN), "--out", str(tmp_path / "page"))
    assert error.count("\n") == 1, "matplotlib has a folder too, and does not complain"
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000
    assert (temporary_folder / "cid_ray-12345" / "matplotlib").is_dir()


@pytest.mark.process
def test_dashboard_without_home_serves(tmp_path: Path) -> None:
    process = start(None, "cid_ray.dashboard", str(KEPT_RUN), "--no-optuna", "--port", "0")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("dashboard http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert error.startswith("warning: HOME is not set") and "Traceback" not in error


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("home", [None, "/proc"])
def test_tune_without_usable_home_starts_ray_and_searches(home: str | None, tmp_path: Path) -> None:
    error = run(home, "cid_ray.tune", *SHORT_SEARCH, "--out", str(tmp_path / "run"))
    assert error.startswith(f"warning: {HOMES[home]}")
    assert (tmp_path / "run" / "report" / "index.html").is_file()


# ---- in this process ----


def test_usable_home_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    assert ensure_home() == ""
    assert os.environ == before and list(tmp_path.iterdir()) == []
    assert cache_dir() == tmp_path / ".cache" / "cid_ray"


def test_read_only_home_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials, Ray's token and downloaded weights in it are still found."""
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(user_dirs, "home_problem", lambda home: "it cannot be written")
    assert ensure_home() == f"it cannot be written; caches of this user go to {private_temp_dir()}"
    assert os.environ["HOME"] == str(tmp_path)
    assert os.environ["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert cache_dir() == private_temp_dir() / "cid_ray"


def test_token_for_ray_is_made_once_and_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")
    tokens = set()
    for _ in range(2):
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        assert ensure_home()
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        tokens.add(token.read_text())
    assert len(tokens) == 1 and len(tokens.pop()) == 64


def test_cache_dir_prefers_xdg_cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine" / "cid_ray"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/mine")
    monkeypatch.setenv("HOME", "/proc/version/home")
    assert cache_dir() == private_temp_dir() / "cid_ray"


def test_no_folder_for_caches_is_one_message(
    monkeypatch: pytest.MonkeyPatch, temporary_folder: Path
) -> None:
    (temporary_folder / f"cid_ray-{os.getuid()}").touch()
    monkeypatch.setenv("HOME", "/proc/version/home")
    with pytest.raises(InputError, match=r"no folder for cached files \(XDG_CACHE_HOME is not set"):
        cache_dir()
    assert "nothing can be written instead of it" in ensure_home()
