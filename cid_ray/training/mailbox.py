"""The mailbox between the process that wants records and a group of workers.

The consumer submits a job and takes its records; rank 0 of the workers takes the job and pushes
records. After a rung the workers wait until the consumer releases them, so a pruning decision
precedes the next step.

The mailbox is a Ray actor with threads, in a process of its own, so this module imports nothing
heavy. Without Ray it is a plain object. A call takes at most `WAIT_S`; None means: ask again.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from cid_ray.results.records import Record

WAIT_S = 1.0
MAX_RESTARTS = 3  # of the worker group without a step that was not reached before
SHUTDOWN = "shutdown"  # what workers get instead of a job


class WorkersLost(RuntimeError):
    """The workers ended, and so did the ones that replaced them."""


class Mailbox:
    """One job at a time, its records, and the step up to which the workers may train."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.job: dict[str, Any] | None = None
        self.job_number = 0
        self.attempts = 0  # worker groups that took the job since it last reached a new step
        self.reached_step = 0
        self.released_step = 0
        self.records: deque[Record | Exception] = deque()
        self.last_error: Exception | None = None
        self.shutting_down = False

    # ---- for the consumer ----

    def submit(self, job: dict[str, Any]) -> int:
        """Replace the current job, if there is one, by `job`; returns its number."""
        with self.changed:
            self.job_number += 1
            self.job = {**job, "number": self.job_number}
            self.attempts = 0
            self.reached_step = 0
            self.released_step = 0
            self.last_error = None
            self.records.clear()
            self.changed.notify_all()
            return self.job_number

    def next_record(self) -> Record | Exception | None:
        """The next record, the error that ended the job, or None for now."""
        with self.changed:
            self.changed.wait_for(lambda: self.records, WAIT_S)
            return self.records.popleft() if self.records else None

    def release(self, step: int) -> None:
        """Let the workers continue after their rung at `step`."""
        with self.changed:
            self.released_step = max(self.released_step, step)
            self.changed.notify_all()

    def cancel(self, number: int) -> None:
        """Stop a job at its next rung. A number of an earlier job has no effect."""
        with self.changed:
            if number == self.job_number:
                self.job = None
            self.changed.notify_all()

    def shut_down(self) -> None:
        """Tell the workers to exit."""
        with self.changed:
            self.job = None
            self.shutting_down = True
            self.changed.notify_all()

    # ---- for the workers ----

    def next_job(self) -> dict[str, Any] | str | None:
        """The current job, SHUTDOWN, or None for now. A job that lost too many groups fails."""
        with self.changed:
            self.changed.wait_for(lambda: self.job or self.shutting_down, WAIT_S)
            if self.shutting_down:
                return SHUTDOWN
            if self.job is None:
                return None
            self.attempts += 1
            if self.attempts <= 1 + MAX_RESTARTS:
                return self.job
            last = f", the last time by {self.last_error}" if self.last_error else ""
            self._end_job(WorkersLost(f"the workers were lost {self.attempts - 1} times{last}"))
            return None

    def push_record(self, number: int, record: Record) -> None:
        """Add a record of job `number`; it is dropped when another job replaced that one."""
        with self.changed:
            if not self._is_current(number):
                return
            if record["event"] == "final":
                self._end_job(record)
                return
            if record["step"] > self.reached_step:
                self.reached_step = record["step"]
                self.attempts = 1
            self.records.append(record)
            self.changed.notify_all()

    def wait_release(self, number: int, step: int) -> bool | None:
        """Whether job `number` continues after its rung at `step`; None for now."""
        with self.changed:
            decided = self.changed.wait_for(
                lambda: self.released_step >= step or not self._is_current(number), WAIT_S
            )
            return self._is_current(number) if decided else None

    def report_error(self, number: int, error: Exception, permanent: bool) -> None:
        """A worker raised. A permanent error ends the job, else the next group tries again."""
        with self.changed:
            self.last_error = error
            if self._is_current(number) and permanent:
                self._end_job(error)

    def report_preempted(self, number: int, error: Exception, ends_job: bool) -> None:
        """Rank 0 saved and ended, because a node will be taken: no fault of the job.

        Args:
            number: of the job.
            error: a `Preempted`.
            ends_job: whether it is the consumer's node, with which this mailbox ends.
        """
        with self.changed:
            if self._is_current(number):
                self.attempts -= 1
                if ends_job:
                    self._end_job(error)

    def _is_current(self, number: int) -> bool:
        return self.job is not None and number == self.job_number

    def _end_job(self, last_item: Record | Exception) -> None:
        self.records.append(last_item)
        self.job = None
        self.changed.notify_all()
