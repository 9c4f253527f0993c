"""What happens in a search, written and then announced: first the record, then the callbacks.

A record that is written is known after a kill. A callback hears only of what is written.
"""

from __future__ import annotations

import time
from typing import Any

from cid_ray.callbacks.base import CallbackList
from cid_ray.results.records import Record, RecordWriter, of_event, read_records
from cid_ray.search.heartbeat import StaleRun
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage import checkpoint_paths


class EventLog:
    """The records and callbacks of a search.

    Attributes:
        records: appends to `records.jsonl`.
        callbacks: receive every event.
    """

    def __init__(self, store: StudyStore):
        self.store = store
        self.run_dir = store.run_dir
        self.records = RecordWriter(self.run_dir.local)
        self.callbacks = CallbackList()
        records = read_records(self.run_dir.local, warn=False)
        self._stale = {record["run"] for record in of_event(records, "stale")}
        self._last_step = {record["run"]: record["step"] for record in of_event(records, "rung")}

    def started(self, trial: TrialSpec, resumed: bool) -> None:
        """A trial starts; the study has it already."""
        last_step = self._last_step.get(trial.name)
        if resumed and last_step and not self._has_checkpoint(trial):
            self.callbacks.on_message(
                f"warning: {trial.name} is trained from the start: its records go to step "
                f"{last_step}, but its checkpoint is gone",
                important=True,
            )
        self.callbacks.on_trial_start(trial, resumed)
        self.run_dir.push()  # before it runs: a resume must know it

    def _has_checkpoint(self, trial: TrialSpec) -> bool:
        return checkpoint_paths.has_checkpoint(trial.config, self.run_dir.uri, trial.name)

    def progress(self, trial: TrialSpec, record: Record) -> None:
        """Progress is not written, but a warning in it is."""
        record = {**record, **trial.identity_fields}
        if record.get("warning"):
            self._append(trial, event="warning", message=record["warning"])
        self.callbacks.on_trial_result(record)

    def result(self, trial: TrialSpec, record: Record) -> None:
        """A rung, a final result or a failure."""
        record = {**record, **trial.identity_fields, "params": dict(trial.params)}
        self.records.append(record)
        self.store.store_record(trial, record)
        self.run_dir.push()
        self.callbacks.on_trial_result(record)

    def retried(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        """A trial's process died; the trial is queued again."""
        self._append(trial, event="retry", attempt=attempt, reason=reason)
        self.callbacks.on_trial_retry(trial, reason, attempt)

    def finished(self, trial: TrialSpec, state: str, reason: str = "") -> None:
        """A trial is "complete", "pruned" or "failed"; the study knows it already."""
        self._append(trial, event="trial", state=state, reason=reason)
        # Of a repeat only the scores are used. Other complete trials keep their checkpoints until
        # the winners are scored on test.
        if state == "pruned" or (state == "complete" and trial.key.repeats_of):
            checkpoint_paths.remove_checkpoints(self.store.config, self.run_dir.uri, trial.name)
        self.run_dir.push()
        if state == "failed":
            self.callbacks.on_trial_error(trial, reason)
        else:
            self.callbacks.on_trial_complete(trial, state)

    def stale(self, run: str, stale: StaleRun) -> None:
        """A trial's heartbeat stopped, and it runs again; written once."""
        if run in self._stale:
            return
        self._stale.add(run)
        reason = (
            f"no heartbeat from its machine ({stale.run_dir}) for {self.store.timeout_s} s: "
            "its hyperparameters are tried again"
        )
        self.records.append(
            {"event": "stale", **stale.fields, "reason": reason, "timestamp": time.time()}
        )
        self.callbacks.on_trial_stale(run, reason)

    def backfill(self) -> None:
        """Write what the studies know and the records lack.

        These are ends that a kill left out, and trials of other machines.
        """
        # Read before the records: a finished trial has stored all of its own.
        finished = self.store.finished_runs()
        known = {r["run"] for r in of_event(read_records(self.run_dir.local, warn=False), "trial")}
        for record in self.store.stored_records():
            if record["run"] not in known:
                self.records.append(record)
        for fields, state in finished:
            if fields["run"] not in known:
                self.records.append({"event": "trial", **fields, "state": state, "reason": ""})

    def _append(self, trial: TrialSpec, **fields: Any) -> None:
        self.records.append({**fields, **trial.identity_fields, "timestamp": time.time()})
