"""How many CPUs this process may use: the smaller of its affinity and its container's quota.

Docker, Kubernetes and Slurm limit a container's CPU time by a quota of its control group (cgroup).
Its processes still see all CPUs of the machine. More trials than the quota allows slow one another
down.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def available_cpus() -> int:
    """The number of whole CPUs that this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def describe_small_quota() -> str:
    """A line for a quota below one CPU, else ""."""
    quota = cpu_quota()
    if quota is None or quota >= 1:
        return ""
    return f"this container's quota is {quota:g} CPU; it counts as 1, and training is slower"


def cpu_quota(proc: Path = PROC) -> float | None:
    """The CPUs that the quota of this process's control group is worth; None without a quota.

    The smallest quota counts, of the process's own group and of all that hold it.

    Args:
        proc: a folder with the files `cgroup` and `mountinfo` of a process.

    Example:
        >>> quota = cpu_quota()
        >>> quota is None or quota > 0
        True
    """
    quotas: list[float] = []
    with suppress(OSError, ValueError):  # no Linux, or files of another form
        paths = _group_paths((proc / "cgroup").read_text(encoding="utf-8"))
        for mount in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
            # id, parent, device, root, mount point, ... - type, source, options (proc(5))
            fields, _, super_fields = mount.partition(" - ")
            root, mount_point = fields.split()[3:5]
            kind, _, options = super_fields.split()[:3]
            controller = "" if kind == "cgroup2" else "cpu"
            is_cpu = kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))
            if is_cpu and controller in paths:
                # In a container the mount may begin at the container's own group.
                path = paths[controller]
                below = path.removeprefix(root) if path.startswith(root) else ""
                quotas += _quotas(Path(mount_point), below.strip("/"))
    return min(quotas, default=None)


def _group_paths(text: str) -> dict[str, str]:
    """Controller -> path of the process's group; the controller of cgroup v2 is ""."""
    lines = [line.split(":", 2) for line in text.splitlines()]
    return {name: path for _, names, path in lines for name in names.split(",")}


def _quotas(mount_point: Path, below: str) -> list[float]:
    """The quotas of a group and of those that hold it."""
    folder = mount_point / below
    folders = [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount_point))]
    found = (_quota(each) for each in folders)
    return [quota for quota in found if quota is not None]


def _quota(folder: Path) -> float | None:
    """The quota of one group, in CPUs."""
    with suppress(OSError):
        allowed, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if allowed == "max" else int(allowed) / int(period)
    with suppress(OSError):
        allowed = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
        period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        return None if int(allowed) <= 0 else int(allowed) / int(period)
    return None
