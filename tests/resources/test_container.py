"""Law: the container's limits count, not the CPUs and the memory that its machine shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cid_ray
from cid_ray.resources.container import (
    available_cpus,
    cpu_quota,
    describe_small_quota,
    memory_limit,
)
from tests.helpers.services import require_service

PRINT_COUNTS = """
import json
from cid_ray.resources.container import available_cpus, cpu_quota, describe_small_quota
print(json.dumps([cpu_quota(), available_cpus(), describe_small_quota()]))
"""
V1 = "34 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "29 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def write_group(folder: Path, quota: str, period: str = "100000", version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def write_proc(folder: Path, cgroup: str, mountinfo: str) -> Path:
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{mountinfo}\n")
    return folder


@pytest.mark.parametrize(("quota", "expected"), [("50000", 0.5), ("350000", 3.5), ("max", None)])
def test_quota_of_cgroup_v2(tmp_path: Path, quota: str, expected: float | None) -> None:
    mount = tmp_path / "cgroup"
    write_group(mount / "kubepods" / "pod1", quota)
    proc = write_proc(tmp_path / "proc", "0::/kubepods/pod1\n", V2.format(root="/", mount=mount))
    assert cpu_quota(proc) == expected


@pytest.mark.parametrize(("quota", "expected"), [("150000", 1.5), ("-1", None)])
def test_quota_of_cgroup_v1(tmp_path: Path, quota: str, expected: float | None) -> None:
    """Docker mounts the container's own group, and /proc names it from the machine's root."""
    mount = tmp_path / "cgroup"
    write_group(mount, quota, version=1)
    names = "5:memory:/docker/a1\n4:cpu,cpuacct:/docker/a1\n"
    proc = write_proc(tmp_path / "proc", names, V1.format(root="/docker/a1", mount=mount))
    assert cpu_quota(proc) == expected


def test_smallest_quota_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    write_group(mount / "slurm", "200000")
    write_group(mount / "slurm" / "job7", "max")
    write_group(mount / "slurm" / "job7" / "step0", "400000")
    names = "0::/slurm/job7/step0\n"
    proc = write_proc(tmp_path / "proc", names, V2.format(root="/", mount=mount))
    assert cpu_quota(proc) == 2.0


def test_group_outside_the_mount_falls_back_to_the_mounted_group(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    write_group(mount, "100000")
    proc = write_proc(tmp_path / "proc", "0::/../other\n", V2.format(root="/pod", mount=mount))
    assert cpu_quota(proc) == 1.0


@pytest.mark.parametrize("content", ["", "\n", "nonsense", "a:b\n"])
def test_machine_without_readable_groups_has_no_quota(tmp_path: Path, content: str) -> None:
    assert cpu_quota(tmp_path / "absent") is None
    assert cpu_quota(write_proc(tmp_path / "proc", content, content)) is None


@pytest.fixture
def half_cpu() -> Iterator[Path]:
    """A control group of this machine with a quota of half a CPU."""
    roots = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
    root = next((each for each in roots if (each / "cgroup.procs").exists()), None)
    group = (root or Path("/absent")) / f"cid_ray-test-{os.getpid()}"
    try:
        group.mkdir()
        file = next(name for name in ("cpu.max", "cpu.cfs_quota_us") if (group / name).exists())
        (group / file).write_text("50000 100000" if file == "cpu.max" else "50000")
    except (OSError, StopIteration):
        if group.is_dir():
            group.rmdir()
        require_service("cgroup", None)
    yield group
    group.rmdir()


@pytest.mark.process
def test_real_quota_of_half_a_cpu_counts_as_one_and_is_said(half_cpu: Path) -> None:
    program = 'echo $$ > "$1/cgroup.procs" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["sh", "-c", program, "sh", str(half_cpu), sys.executable, PRINT_COUNTS],
        env={**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    quota, count, message = json.loads(done.stdout)
    assert (quota, count) == (0.5, 1)
    assert message == "this container's quota is 0.5 CPU; it counts as 1, and training is slower"


def test_count_is_at_most_the_affinity() -> None:
    quota = cpu_quota()
    limits = [len(os.sched_getaffinity(0)), *([] if quota is None else [max(1, int(quota))])]
    assert available_cpus() == min(limits)
    assert bool(describe_small_quota()) == (quota is not None and quota < 1)


@pytest.mark.parametrize(("limit", "expected"), [("1073741824", 1 << 30), ("max", None)])
def test_memory_limit_of_cgroup_v2(tmp_path: Path, limit: str, expected: int | None) -> None:
    mount = tmp_path / "cgroup"
    (mount / "pod").mkdir(parents=True)
    (mount / "memory.max").write_text("4294967296\n" if expected else "max\n")
    (mount / "pod" / "memory.max").write_text(f"{limit}\n")
    proc = write_proc(tmp_path / "proc", "0::/pod\n", V2.format(root="/", mount=mount))
    assert memory_limit(proc) == expected


def test_memory_limit_of_cgroup_v1(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    mount.mkdir()
    (mount / "memory.limit_in_bytes").write_text("2048\n")
    line = V1.format(root="/docker/a1", mount=mount).replace("cpu,cpuacct", "memory")
    proc = write_proc(tmp_path / "proc", "5:memory:/docker/a1\n", line)
    assert memory_limit(proc) == 2048
