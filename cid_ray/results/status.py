"""`status.json`: what a search is doing now. Written by callbacks/status_file.py.

state            running, closed (by itself or by Ctrl-C), stopped (by an error: `reason`)
total            trials in all; finished_before: those of them finished before this start
started          Unix time of this start; timestamp: Unix time of this status, its heartbeat
host, pid        the process of the search, see `process_namespace`
running          run -> ratio, method, trial_number, repeats_of, repeat_index, steps, params,
                 resumed, timestamp and, as in a progress record, step, images_seen, seconds,
                 images_per_s, losses
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

STATUS_FILE = "status.json"


def read_status(folder: Path) -> dict[str, Any]:
    """The newest status of a run folder.

    Returns:
        The fields above and `gone`: the search ran on this machine, and its process no longer
        exists. {} where there is no status.
    """
    try:
        status: dict[str, Any] = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_here = status["host"] == process_namespace()
    return {**status, "gone": is_here and not _process_exists(status["pid"])}


def process_namespace() -> str:
    """A hash of where process ids mean the same, as a run folder may be published.

    Containers and machines of a cloud often share their host name. The boot id and, on Linux, the
    namespace of process ids tell them apart.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        parts += [boot_id, os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, but another user owns it
    return True
