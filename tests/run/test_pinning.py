"""Law: processes that lease CPUs never share one, a lease ends with its process, and nobody waits for one.

The leases of these tests have names of their own: a search on this machine is not disturbed.
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

# Threads are there before the lease; each line that comes in is a request, each line that goes out its result.
HOLDER = """
import json, os, sys, threading
from cid_ray.run import pinning

def affinities():
    for name in os.listdir("/proc/self/task"):
        try:
            yield sorted(os.sched_getaffinity(int(name)))
        except ProcessLookupError:  # a thread that ends meanwhile
            pass

pinning.NAME = sys.argv[1]
threading.Thread(target=threading.Event().wait, daemon=True).start()
for line in sys.stdin:
    pinned = pinning.pin(int(line))
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
def holder() -> Iterator[Callable[[], Holder]]:
    made: list[Holder] = []

    def make() -> Holder:
        made.append(Holder())
        return made[-1]

    yield make
    for each in made:
        each.kill()


def test_two_processes_with_a_cpu_each_have_different_ones(holder: Callable[[], Holder]) -> None:
    one, two = holder().pin(1), holder().pin(1)
    assert len(one) == len(two) == 1 and one != two and {*one, *two} <= set(CPUS)


def test_a_process_keeps_the_cpus_that_it_has(holder: Callable[[], Holder]) -> None:
    first = holder()
    pinned = first.pin(1)
    assert first.pin(1) == first.pin(2) == first.pin(0) == pinned
    assert holder().pin(1) != pinned


def test_the_lease_of_a_killed_process_is_free_again(holder: Callable[[], Holder]) -> None:
    all_of_them, late = holder(), holder()
    assert all_of_them.pin(len(CPUS)) == CPUS
    assert late.pin(1) == CPUS, "none is free: not pinned, and not kept waiting"
    all_of_them.kill()
    assert len(late.pin(1)) == 1


def test_a_process_that_asks_for_too_many_takes_none(holder: Callable[[], Holder]) -> None:
    first, greedy = holder(), holder()
    pinned = first.pin(1)
    assert greedy.pin(len(CPUS)) == CPUS and greedy.pin(len(CPUS) + 1) == CPUS
    rest = holder().pin(len(CPUS) - 1)
    assert sorted([*pinned, *rest]) == CPUS


def test_to_ask_for_none_changes_nothing(holder: Callable[[], Holder]) -> None:
    idle = holder()
    assert idle.pin(0) == CPUS
    assert holder().pin(len(CPUS)) == CPUS, "and leases nothing"


def test_a_platform_without_affinities_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from cid_ray.run.pinning import pin

    monkeypatch.delattr(os, "sched_setaffinity")
    assert pin(1) == set(range(os.cpu_count() or 1))
    assert sorted(os.sched_getaffinity(0)) == CPUS
