"""What this process may use of its machine: the CPUs and the memory that its container allows.

Docker, Kubernetes and Slurm limit a container by its control group (cgroup). Its processes still
see all CPUs and all memory of the machine. More trials than the limits allow slow one another down,
or are killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")
# Ray's processes and torch map far more than they use: with 12 GB they fail at random places.
MIN_ADDRESS_SPACE = 20 << 30


def address_space_limit() -> int | None:
    """Bytes that a process may map (`ulimit -v`); None without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


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
    quotas = [_quota(folder) for folder in _group_folders("cpu", proc)]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(proc: Path = PROC) -> int | None:
    """The bytes that this process's control group may use; None without a limit.

    Args:
        proc: as for `cpu_quota`.
    """
    limits = [_memory(folder) for folder in _group_folders("memory", proc)]
    return min((limit for limit in limits if limit is not None), default=None)


def _group_folders(controller: str, proc: Path) -> Iterator[Path]:
    """The folders of the process's group and of those that hold it, of cgroup v1 and v2."""
    with suppress(OSError, ValueError):  # no Linux, or files of another form
        paths = _group_paths((proc / "cgroup").read_text(encoding="utf-8"))
        for mount in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
            # id, parent, device, root, mount point, ... - type, source, options (proc(5))
            fields, _, super_fields = mount.partition(" - ")
            root, mount_point = fields.split()[3:5]
            kind, _, options = super_fields.split()[:3]
            is_v2 = kind == "cgroup2"
            name = "" if is_v2 else controller
            if name in paths and (is_v2 or (kind == "cgroup" and name in options.split(","))):
                # In a container the mount may begin at the container's own group.
                path = paths[name]
                below = path.removeprefix(root) if path.startswith(root) else ""
                folder = Path(mount_point) / below.strip("/")
                yield folder
                yield from (p for p in folder.parents if p.is_relative_to(mount_point))


def _group_paths(text: str) -> dict[str, str]:
    """Controller -> path of the process's group; the controller of cgroup v2 is ""."""
    lines = [line.split(":", 2) for line in text.splitlines()]
    return {name: path for _, names, path in lines for name in names.split(",")}


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


def _memory(folder: Path) -> int | None:
    """The limit of one group, in bytes. Without a limit cgroup v1 has a huge number."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError):
            text = (folder / name).read_text(encoding="utf-8").strip()
            return None if text == "max" else int(text)
    return None
