"""Writes `status.json`: what a search is doing now, for the live page.

Records hold what was measured. What changes every second is kept here, the newest only: the step of
each running trial, its losses and speed, and that the search is alive. For a run in an object store
the file is pushed every PUSH_INTERVAL_S with whatever else is new. Readers elsewhere can only
conclude from its age that a search has died: a process id means something only where the process
runs (results/status.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from cid_ray.callbacks.base import Callback
from cid_ray.results.records import Record, read_records
from cid_ray.results.status import STATUS_FILE, process_namespace, recorded_counts
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage import paths

WRITE_INTERVAL_S = 1.0  # between two writes, unless a trial starts, finishes or reaches a rung
# The file names every running trial. Up to so many are written at every event, of more as many a
# second: the writing costs the same at any number.
WRITTEN_AT_ONCE = 100
WRITTEN_PER_S = 1000
PUSH_INTERVAL_S = 10.0  # between two pushes to an object store
PROGRESS_FIELDS = (
    "step",
    "images_seen",
    "seconds",
    "images_per_s",
    "losses",
    "workers",  # an elastic group changes
)  # of a trial's records


class StatusFile(Callback):
    """Keeps `status.json` in the run folder up to date."""

    def on_search_start(self, search: Search) -> None:
        self.search = search
        self.state = "running"
        self.started = time.time()
        self.written = 0.0
        self.pushed = 0.0
        self.running: dict[str, Record] = {}
        self._count()
        self.write()

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        fields = trial.identity_fields
        del fields["run"]
        self.running[trial.name] = {
            **fields,
            "steps": trial.config.train.steps,
            "workers": trial.config.distributed.max_workers,
            "params": dict(trial.params),
            "resumed": resumed,
            "timestamp": time.time(),
        }
        self._write_if_due()

    def on_trial_result(self, record: Record) -> None:
        if record["run"] in self.running:
            fresh = {key: record[key] for key in PROGRESS_FIELDS if key in record}
            self.running[record["run"]] |= fresh
        if record["event"] == "rung" or time.time() - self.written > WRITE_INTERVAL_S:
            self._write_if_due()

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self.counts["finished"] += 1
        self._ended(trial.name)

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self.counts["finished"] += 1
        self._ended(trial.name)

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self._ended(trial.name)

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._ended(run)

    def on_refresh(self) -> None:
        self.write()

    def on_search_end(self) -> None:
        self.state = "stopped" if self.search.rules.reason else "closed"
        self.running = {}
        self._count()
        self.write()

    def _count(self) -> None:
        """Count what is recorded: a reader notices when some of it is lost later."""
        records = read_records(self.search.run_dir.local, warn=False)
        self.counts = recorded_counts(records)

    def _ended(self, run: str) -> None:
        self.running.pop(run, None)
        self._write_if_due()

    def _write_if_due(self) -> None:
        """Write, unless the last write of many running trials was just now."""
        running = len(self.running)
        if running <= WRITTEN_AT_ONCE or time.time() - self.written > running / WRITTEN_PER_S:
            self.write()

    def write(self) -> None:
        """Replace the file; push it when the last push is long ago."""
        self.written = time.time()
        content = {
            "state": self.state,
            "reason": self.search.rules.reason,
            "total": self.search.total,
            **self.counts,
            "finished_before": self.search.finished_before,
            "started": self.started,
            "timestamp": self.written,
            "host": process_namespace(),
            "pid": os.getpid(),
            "running": self.running,
        }
        folder = self.search.run_dir.local
        paths.write_text(folder / STATUS_FILE, json.dumps(content, default=str))
        if self.written - self.pushed > PUSH_INTERVAL_S:
            self.pushed = self.written
            # A lost store stops the search at the next record, not here.
            with contextlib.suppress(OSError):
                self.search.run_dir.push()
