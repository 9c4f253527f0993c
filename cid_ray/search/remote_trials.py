"""Other machines of a shared study: their stale trials run again, their records are copied."""

from __future__ import annotations

from cid_ray.search.event_log import EventLog
from cid_ray.search.heartbeat import Heartbeat, StaleRun
from cid_ray.search.trial_queue import TrialQueue


class RemoteTrials:
    """Keeps this machine's records and running trials in step with the studies."""

    def __init__(self, queue: TrialQueue, heartbeat: Heartbeat, events: EventLog):
        self.queue = queue
        self.heartbeat = heartbeat
        self.events = events

    def refresh(self) -> bool:
        """Re-enqueue stale trials and copy records; False when it is not time again."""
        if not self.heartbeat.poll():
            return False
        self.sync()
        return True

    def sync(self) -> None:
        """Write and announce every stale trial, then back-fill the records."""
        for run, stale in self.heartbeat.stale_runs().items():
            self.mark_stale(run, stale)
        self.events.backfill()

    def mark_stale(self, run: str, stale: StaleRun | None = None) -> None:
        """A trial's heartbeat stopped, and it runs again. It may have been running here."""
        spec = self.queue.running.pop(run, None)
        stale = stale or self.heartbeat.stale_runs().get(run)
        if stale is None and spec is not None:
            stale = StaleRun(spec.identity_fields, str(self.events.run_dir))
        if stale is not None:
            self.events.stale(run, stale)
