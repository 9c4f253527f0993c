"""Law: processes that lease CPUs never share one, and a lease ends with its process.

The leases of these tests have names of their own, so a search on this machine is not disturbed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cid_ray

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs Linux and two CPUs")

# Its threads exist before the lease. Each line of input is a request, each line of output its
# result.
HOLDER = """
import json, os, sys, threading
from cid_ray.resources import cpu_affinity

def affinities():
    for name in os.listdir("/proc/self/task"):
        try:
            yield sorted(os.sched_getaffinity(int(name)))
        except ProcessLookupError:  # a thread that has ended meanwhile
            pass

cpu_affinity.SOCKET_PREFIX = sys.argv[1]
threading.Thread(target=threading.Event().wait, daemon=True).start()
for line in sys.stdin:
    pinned = cpu_affinity.pin_process(int(line))
    later = []
    thread = threading.Thread(target=lambda: later.append(sorted(os.sched_getaffinity(0))))
    thread.start()
    thread.join()
    print(json.dumps([sorted(pinned), [*affinities(), *later]]), flush=True)
"""


class Holder:
    """A process that leases CPUs when it is asked to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, f"cid_ray/test-{os.getpid()}"],
            env={**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pin(self, cpus: int) -> list[int]:
        """The CPUs of the process, which are those of all its threads, early and late."""
        assert self.process.stdin and self.process.stdout
        print(cpus, file=self.process.stdin, flush=True)
        pinned, threads = json.loads(self.process.stdout.readline())
        assert len(threads) >= 3 and threads == [pinned] * len(threads)
        return list(pinned)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_holder() -> Iterator[Callable[[], Holder]]:
    holders: list[Holder] = []

    def start() -> Holder:
        holders.append(Holder())
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


@pytest.mark.process
def test_pin_two_processes_get_different_cpus(start_holder: Callable[[], Holder]) -> None:
    one = start_holder().pin(1)
    two = start_holder().pin(1)
    assert len(one) == len(two) == 1 and one != two and {*one, *two} <= set(CPUS)


@pytest.mark.process
def test_pin_again_keeps_the_cpus(start_holder: Callable[[], Holder]) -> None:
    first = start_holder()
    pinned = first.pin(1)
    assert first.pin(1) == first.pin(2) == first.pin(0) == pinned
    assert start_holder().pin(1) != pinned


@pytest.mark.process
def test_pin_after_kill_of_the_holder_gets_its_cpus(start_holder: Callable[[], Holder]) -> None:
    holder, late = start_holder(), start_holder()
    assert holder.pin(len(CPUS)) == CPUS
    assert late.pin(1) == CPUS, "none is free: not pinned, and not kept waiting"
    holder.kill()
    assert len(late.pin(1)) == 1


@pytest.mark.process
def test_pin_with_too_few_free_cpus_leases_none(start_holder: Callable[[], Holder]) -> None:
    first, greedy = start_holder(), start_holder()
    pinned = first.pin(1)
    assert greedy.pin(len(CPUS)) == CPUS and greedy.pin(len(CPUS) + 1) == CPUS
    rest = start_holder().pin(len(CPUS) - 1)
    assert sorted([*pinned, *rest]) == CPUS


@pytest.mark.process
def test_pin_zero_cpus_changes_nothing(start_holder: Callable[[], Holder]) -> None:
    idle = start_holder()
    assert idle.pin(0) == CPUS
    assert start_holder().pin(len(CPUS)) == CPUS, "zero leases nothing"


def test_pin_without_affinities_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cid_ray.resources.cpu_affinity import pin_process

    monkeypatch.delattr(os, "sched_setaffinity")
    assert pin_process(1) == set(range(os.cpu_count() or 1))
    assert sorted(os.sched_getaffinity(0)) == CPUS
