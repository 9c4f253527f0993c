"""Checks of the machine: what is too small or cannot be written is named with its remedy."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.diagnostics import machine
from cid_ray.diagnostics.runner import Check, Limited, outcome, run_checks


def test_missing_and_read_only_home_name_the_folder_that_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    with pytest.raises(Limited, match=r"gone does not exist; caches .* go to .*/cid_ray-\d+/"):
        machine.check_home()
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(Limited, match=r"/proc cannot be written .*; caches of this user go to"):
        machine.check_home()
    (tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert machine.check_home().startswith(f"{tmp_path}/me, caches in {tmp_path}/me/.cache")


def test_home_that_a_command_had_to_make_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(machine.instead_of_home()))
    with pytest.raises(Limited, match="there was none"):
        machine.check_home()


def test_temporary_folder_on_a_small_disk_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(Limited, match=r"has only 0.0 GiB free of 0.0 GiB; name another disk in"):
        machine.check_temporary_folder()


def test_small_or_absent_shared_memory_is_named(
    monkeypatch: pytest.MonkeyPatch, small_disk: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", small_disk)
    with pytest.raises(Limited, match=r"--shm-size=8g"):
        machine.check_shared_memory()
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path("/proc"))
    with pytest.raises(InputError, match=r"cannot be written .*chmod 1777 /proc"):
        machine.check_shared_memory()
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.check_shared_memory() == "not on this platform"


def test_limit_of_address_space_is_named() -> None:
    def check() -> str:
        resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
        return machine.check_memory()

    (result,) = run_checks([Check("memory", check)])
    assert result.status == "WARN" and "`ulimit -v` is 64.0 GiB" in result.text


def test_quota_below_one_cpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    with pytest.raises(Limited, match=r"the container's quota is 0.5: a trial gets less than"):
        machine.check_cpus()
    monkeypatch.setattr(machine, "cpu_quota", lambda: 4.0)
    assert machine.check_cpus().startswith(f"{len(os.sched_getaffinity(0))} usable of ")


def test_memory_limit_of_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 30)
    status, text = outcome(Check("memory", machine.check_memory))
    assert status == "WARN" and "the container's limit is 1.0 GiB: Ray ends trials" in text
