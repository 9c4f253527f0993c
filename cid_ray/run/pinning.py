"""CPUs of a trial or worker: every such process leases its own, so that two on two cores never wait for one.

A lease is a name among the machine's abstract Unix sockets that a process binds: it has one holder at a time, whoever
its user is, leaves no file behind, and the kernel takes it back however its holder ends. Processes that do not lease,
and containers with a network of their own, are not seen.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

NAME = "cid_ray/cpu"
_leases: dict[int, socket.socket] = {}  # of this process, until it ends
_lock = threading.Lock()


def pin(cpus: int) -> set[int]:
    """Give this process `cpus` CPUs of its own among those it may use; the CPUs that it then runs on.

    A process that has its CPUs keeps them. Nothing is changed where fewer are free, for 0, and off Linux.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set(range(os.cpu_count() or 1))
    with _lock:
        if not _leases and cpus > 0:
            _take(cpus)
        return os.sched_getaffinity(0)


def _take(cpus: int) -> None:
    taken: dict[int, socket.socket] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        if len(taken) < cpus and (lease := _lease(cpu)):
            taken[cpu] = lease
    try:
        if len(taken) == cpus:
            _move_threads(set(taken))
            _leases.update(taken)
    finally:
        if not _leases:
            for lease in taken.values():
                lease.close()


def _lease(cpu: int) -> socket.socket | None:
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lease.bind(f"\0{NAME}/{cpu}")
    except OSError:  # another process has it
        lease.close()
        return None
    return lease


def _move_threads(cpus: set[int]) -> None:
    """All threads of this process, until none has started while others were moved; later ones inherit."""
    moved: set[int] = set()
    while new := {int(name) for name in os.listdir("/proc/self/task")} - moved:
        for thread in new:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread, cpus)
        moved |= new
