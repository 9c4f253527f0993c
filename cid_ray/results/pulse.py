"""What a search is doing at this moment, in one small file beside its rows: `pulse.json`.

Rows are a record and hold what was measured. What changes every second (the step that a trial is at, its losses and
speed, that the search is alive at all) is kept here: the newest only, by the search itself, as one of its listeners.
Of a run in an object store it goes there every SEND_SECONDS with whatever else is new, and so tells those who look on
from elsewhere that the search is alive. That it is not, they can only conclude from silence: that a process is gone is
known only where its number means something (`_where`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Protocol

from cid_ray.home import Home
from cid_ray.results.record import Row

NAME = "pulse.json"
SECONDS = 1.0  # between two writings, unless a trial begins, ends or reaches a rung
SEND_SECONDS = 10.0  # between two that are sent to a store
SHOWN = ("step", "images_seen", "seconds", "images_per_s", "losses")  # of a trial's rows


class Watched(Protocol):
    """What of search.watch.Watch is told."""

    home: Home
    total: int
    ended_before: int
    reason: str


class Pulse:
    """A listener of the search: `watch.listeners.append(Pulse(watch))`."""

    def __init__(self, watch: Watched):
        self.watch, self.state, self.began = watch, "running", time.time()
        self.running: dict[str, Row] = {}  # run -> where it is
        self.written = self.sent = 0.0
        with contextlib.suppress(OSError):  # a listener may fail when it is told something, not before
            self.write()

    def begun(self, assignment: Any, resumed: bool) -> None:
        self.running[assignment.name] = {
            "ratio": assignment.arm.ratio,
            "method": assignment.arm.method,
            "confirms": assignment.arm.confirms,
            "steps": assignment.config.train.steps,
            "params": dict(assignment.params),
            "resumed": resumed,
            "at": time.time(),
        }
        self.write()

    def row(self, row: Row) -> None:
        if row["run"] in self.running:
            self.running[row["run"]] |= {key: row[key] for key in SHOWN if key in row}
        if row["event"] == "rung" or time.time() - self.written > SECONDS:
            self.write()

    def retried(self, name: str, reason: str, again: int) -> None:
        self.running.pop(name, None)
        self.write()

    def ended(self, name: str, how: str, reason: str) -> None:
        self.running.pop(name, None)
        self.write()

    def looked(self) -> None:
        self.write()

    def close(self) -> None:
        self.state, self.running = "stopped" if self.watch.reason else "closed", {}
        self.write()

    def write(self) -> None:
        self.written = time.time()
        content = {
            "state": self.state,
            "reason": self.watch.reason,
            "total": self.watch.total,
            "ended_before": self.watch.ended_before,
            "began": self.began,
            "at": self.written,
            "host": _where(),
            "pid": os.getpid(),
            "running": self.running,
        }
        here = self.watch.home.here
        partial = here / f"{NAME}.partial"
        partial.write_text(json.dumps(content, default=str))
        partial.replace(here / NAME)
        if self.written - self.sent > SEND_SECONDS:
            self.sent = self.written
            with contextlib.suppress(OSError):  # whether the search goes on without its store, the next row decides
                self.watch.home.send()


def read_pulse(folder: Path) -> dict[str, Any]:
    """The newest pulse of a run's folder, {} where there is none; `gone`: its process ran here and runs no more."""
    try:
        pulse: dict[str, Any] = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {**pulse, "gone": pulse["host"] == _where() and not _runs(pulse["pid"])}


def _where() -> str:
    """Where process numbers mean the same, without naming it, for a run's folder may be published.

    Containers and machines of a cloud often share their name: hence also this start of the machine and, on Linux, the
    namespace of process numbers.
    """
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(known).encode()).hexdigest()[:12]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it runs, and belongs to somebody else
    return True
