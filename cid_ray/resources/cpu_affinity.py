"""CPU affinity: each trial or worker leases CPUs of its own, so two of them never share a core.

A lease is a name among the machine's abstract Unix sockets, which a process binds. A name has one
holder at a time, of any user, and leaves no file. The kernel frees it however its holder ends.
Processes that do not lease, and containers with a network of their own, are not seen.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

SOCKET_PREFIX = "cid_ray/cpu"
_leases: dict[int, socket.socket] = {}  # CPU -> lease of this process, until it ends
_lock = threading.Lock()


def pin_process(cpus: int) -> set[int]:
    """Lease CPUs for this process and move all its threads there.

    A process that has leased CPUs keeps them. Nothing changes for 0, where too few CPUs are free,
    and on platforms without affinities.

    Args:
        cpus: how many.

    Returns:
        The CPUs that the process may use now.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set(range(os.cpu_count() or 1))
    with _lock:
        if not _leases and cpus > 0:
            _lease_and_move(cpus)
        return os.sched_getaffinity(0)


def _lease_and_move(cpus: int) -> None:
    """Lease the first free CPUs, all or none: with fewer its threads would share cores."""
    leased: dict[int, socket.socket] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        if len(leased) == cpus:
            break
        lease = _lease(cpu)
        if lease:
            leased[cpu] = lease
    try:
        if len(leased) == cpus:
            _move_threads(set(leased))
            _leases.update(leased)
    finally:
        if not _leases:
            for lease in leased.values():
                lease.close()


def _lease(cpu: int) -> socket.socket | None:
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lease.bind(f"\0{SOCKET_PREFIX}/{cpu}")  # the leading zero makes the name abstract
    except OSError:  # another process holds it
        lease.close()
        return None
    return lease


def _move_threads(cpus: set[int]) -> None:
    """Move all threads of this process.

    Repeated until no thread has started meanwhile. Threads that start later inherit the CPUs.
    """
    moved: set[int] = set()
    while new := {int(name) for name in os.listdir("/proc/self/task")} - moved:
        for thread in new:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread, cpus)
        moved |= new
