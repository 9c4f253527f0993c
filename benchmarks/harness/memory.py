"""The peak memory of this process."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """MiB of resident memory, at most, since this program was started.

    Not `ru_maxrss`: a child inherits that of its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) / 2**10
