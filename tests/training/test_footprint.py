"""Law: the memory in a rung's record is the peak of the process, and the machine's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray.training import footprint
from cid_ray.training.footprint import machine_bytes, memory_fields, peak_resident_bytes

PEAK = """
from cid_ray.training.footprint import peak_resident_bytes
before = peak_resident_bytes()
block = bytearray(200_000_000)
del block
print(before, peak_resident_bytes())
"""


@pytest.mark.process
def test_peak_holds_memory_that_was_freed_and_not_that_of_the_parent() -> None:
    block = bytearray(600_000_000)
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    del block
    before, after = map(int, done.stdout.split())
    assert 195_000_000 < after - before < 250_000_000
    assert before < 600_000_000


def test_memory_on_the_cpu_has_no_gpu() -> None:
    found = memory_fields()
    assert found["gpu_process_bytes"] is None and found["gpu_bytes"] is None
    process, machine = found["process_bytes"], found["machine_bytes"]
    assert process is not None and machine is not None and 0 < process < machine


@pytest.mark.parametrize("limit", [2_000_000, None])
def test_machine_has_at_most_what_its_container_may_use(
    monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    whole = machine_bytes()
    monkeypatch.setattr(footprint, "memory_limit", lambda: limit)
    assert machine_bytes() == (limit or whole)


def test_peak_is_unknown_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_resident_bytes()
    monkeypatch.setattr(footprint, "STATUS_FILE", Path("/no/such/file"))
    assert peak_resident_bytes() is None
