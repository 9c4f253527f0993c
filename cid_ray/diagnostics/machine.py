"""Home, temporary folders, shared memory, CPUs and memory of this machine or container."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.diagnostics.runner import Limited
from cid_ray.resources.container import (
    address_space_limit,
    available_cpus,
    cpu_quota,
    memory_limit,
)
from cid_ray.storage.user_dirs import cache_dir, check_writable, home_dir, home_problem
from cid_ray.storage.user_dirs import private_temp_dir as instead_of_home

GIB = 1 << 30
LITTLE_DISK = 2 * GIB
LITTLE_SHARED_MEMORY = GIB
LITTLE_MEMORY = 4 * GIB  # Ray takes about one, and each trial about one
RAY_FULL = 0.95  # of the disk: then Ray creates no objects
SHARED_MEMORY = Path("/dev/shm")


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


# ---- folders ----


def check_home() -> str:
    home = home_dir()
    if problem := home_problem(home):
        raise Limited(f"{problem}; caches of this user go to {cache_dir()}")
    if home == instead_of_home():
        raise Limited(f"there was none, so {home} was made; set HOME to keep downloaded weights")
    return f"{home}, caches in {cache_dir()}"


def check_temporary_folder() -> str:
    folder = Path(tempfile.gettempdir())
    check_writable(folder)
    return f"{folder}, {check_free_space(folder, 'name another disk in TMPDIR and RAY_TMPDIR')}"


def check_free_space(folder: Path, remedy: str) -> str:
    """ "12.3 GiB free".

    Raises:
        Limited: there is little.
    """
    usage = shutil.disk_usage(folder)
    text = f"{gib(usage.free)} free"
    if usage.free < LITTLE_DISK or usage.free < (1 - RAY_FULL) * usage.total:
        raise Limited(f"{folder} has only {text} of {gib(usage.total)}; {remedy}")
    return text


def check_shared_memory() -> str:
    """Ray's object store is in /dev/shm, and in a slow file elsewhere when that is too small."""
    if not SHARED_MEMORY.is_dir():
        return "not on this platform"
    try:
        check_writable(SHARED_MEMORY)
    except OSError as error:
        raise InputError(
            f"it cannot be written ({error.strerror}); `chmod 1777 {SHARED_MEMORY}`, or mount a "
            "tmpfs there"
        ) from None
    usage = shutil.disk_usage(SHARED_MEMORY)
    text = f"{gib(usage.free)} free of {gib(usage.total)}"
    if usage.free < LITTLE_SHARED_MEMORY:
        raise Limited(
            f"only {text}: Ray's object store goes to disk, which is slow; in a container start "
            "it with --shm-size=8g (Kubernetes: an emptyDir with medium: Memory)"
        )
    return text


# ---- CPUs and memory ----


def check_cpus() -> str:
    quota = cpu_quota()
    limits = [f"{available_cpus()} usable of {os.cpu_count()}"]
    if quota is not None:
        limits.append(f"the container's quota is {quota:g}")
    if quota is not None and quota < 1:
        raise Limited(f"{', '.join(limits)}: a trial gets less than a CPU; raise the quota")
    return ", ".join(limits)


def check_memory() -> str:
    import psutil  # comes with Ray

    memory = psutil.virtual_memory()
    text = f"{gib(memory.available)} available of {gib(memory.total)}"
    limit = memory_limit()
    usable = memory.available
    if limit is not None and limit < memory.total:
        text += f", the container's limit is {gib(limit)}"
        usable = min(usable, limit)
    address_space = address_space_limit()
    if address_space is not None:
        raise Limited(
            f"{text}, and `ulimit -v` is {gib(address_space)}: Ray's processes map far more than "
            "they use and do not start; `ulimit -v unlimited`"
        )
    if usable < LITTLE_MEMORY:
        raise Limited(
            f"{text}: Ray ends trials when it runs out; lower search.max_concurrent_trials and "
            "data.batch_size_u, or end other programs"
        )
    return text
