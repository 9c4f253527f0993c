"""Trials whose heartbeat stops are marked failed and re-enqueued exactly once. For studies that
several machines share.

A machine records a heartbeat for each of its trials, by the database's clock. After TIMEOUT_S
without one Optuna fails the trial in one step; a machine that was only frozen cannot write to it
any more. A failed trial without a reason is stale (trial_states.py). It does not count, and a
waiting trial with its hyperparameters replaces it.

Optuna's own callback for stale trials comes after it has failed them. A kill between the two would
lose the hyperparameters. So what must be re-enqueued is read from the study, and the next machine
completes what a kill left.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import fail_stale_trials
from optuna.trial import TrialState

from cid_ray.search import _optuna_compat
from cid_ray.search.rdb import OWNER, RUN_DIR
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.search.trial_spec import identity_fields
from cid_ray.search.trial_states import (
    RETRY_OF,
    WARM_STARTED_FROM,
    is_stale,
    repeat_index_of,
    unretried,
)

BEATS_PER_TIMEOUT = 5  # heartbeats in one timeout; as often every machine looks for stale trials
# ask() cannot know that `Heartbeat` records them.
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")


def reenqueue_stale(study: optuna.Study) -> None:
    """Fail the trials without heartbeat and enqueue a retry for each."""
    fail_stale_trials(study)
    for stale in unretried(study.get_trials(deepcopy=False)):
        params = {**stale.system_attrs.get("fixed_params", {}), **stale.params}
        attrs = {RETRY_OF: stale.number}
        if WARM_STARTED_FROM in stale.user_attrs:
            attrs[WARM_STARTED_FROM] = stale.user_attrs[WARM_STARTED_FROM]
        study.enqueue_trial(params, attrs)


@dataclass(frozen=True)
class StaleRun:
    """A trial whose heartbeat stopped: its identity fields, and the run folder of its machine."""

    fields: dict[str, Any]
    run_dir: str


class Heartbeat:
    """One machine's heartbeat for its own trials, and its look at those of others. Does nothing in
    a local search.
    """

    def __init__(self, queue: TrialQueue):
        self.queue = queue
        self.store = queue.store
        self.interval_s = self.store.timeout_s / BEATS_PER_TIMEOUT
        self.next_poll = 0.0  # by time.monotonic()
        self.orphans: set[int] = set()

    def record(self) -> None:
        """Record a heartbeat for every trial of this machine."""
        if self.store.shared:
            for trial_id in self.queue.trial_ids():
                self.store.storage.record_heartbeat(trial_id)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Record heartbeats in a thread while the block runs: the driver may be busy for long."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(self.interval_s):
                with suppress(StorageInternalError):  # the search itself reports a lost database
                    self.record()

        if self.store.shared:
            threading.Thread(target=run, daemon=True, name="cid-ray-heartbeat").start()
        try:
            yield
        finally:
            stop.set()

    def poll(self) -> bool:
        """Re-enqueue stale trials of all machines; False when the next poll is not due."""
        if not self.store.shared or time.monotonic() < self.next_poll:
            return False
        self.next_poll = time.monotonic() + self.interval_s
        self.record()  # first: after a freeze this machine's own trials would look stale
        self.claim_orphans()
        for study in self.store.studies.values():
            reenqueue_stale(study)
        return True

    def claim_orphans(self) -> None:
        """One heartbeat for a trial without owner, so that its timeout starts: a kill came right
        after ask().
        """
        for key in self.store.studies:
            for trial in self.store.trials(key, TrialState.RUNNING):
                trial_id = _optuna_compat.trial_id(trial)
                if OWNER not in trial.user_attrs and trial_id not in self.orphans:
                    self.orphans.add(trial_id)
                    self.store.storage.record_heartbeat(trial_id)

    def stale_runs(self) -> dict[str, StaleRun]:
        """Run name -> every stale trial of the studies."""
        found: dict[str, StaleRun] = {}
        for key in self.store.studies if self.store.shared else ():
            trials = self.store.all_trials(key)
            for trial in filter(is_stale, trials):
                index = repeat_index_of(trials, trial) if key.repeats_of else 0
                run = key.run_name(trial.number, index, RETRY_OF in trial.user_attrs)
                fields = identity_fields(key, run, trial.number, index)
                found[run] = StaleRun(fields, str(trial.user_attrs.get(RUN_DIR, "unknown")))
        return found
