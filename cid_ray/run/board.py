"""Where the consumer of rows and the workers meet: the consumer pins a job up, rank 0 takes it and shows its rows.

The board has a process of its own, so nothing heavy is imported here. No call takes longer than `WAIT_SECONDS`; an
answer of None means to ask again.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from cid_ray.results.record import Row

WAIT_SECONDS = 1.0
RESTARTS = 3  # of the worker group without a step that was not reached before
END = "end"


class WorkersLost(RuntimeError):
    """Workers ended, and others in their place did no better."""


class Board:
    """The job at hand, its rows, and the step up to which it may go. An actor with threads; without Ray an object."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.job: dict[str, Any] | None = None
        self.shown: deque[Row | Exception] = deque()
        self.number = self.taken = self.allowed = self.reached = 0
        self.trouble: Exception | None = None
        self.ended = False

    # ---- the consumer ----

    def pin(self, job: dict[str, Any]) -> int:
        """Make `job` the one at hand, instead of any other; its number."""
        with self.changed:
            self.number += 1
            self.job, self.taken, self.allowed, self.trouble = {**job, "number": self.number}, 0, 0, None
            self.reached = 0
            self.shown.clear()
            self.changed.notify_all()
            return self.number

    def next_row(self) -> Row | Exception | None:
        """The next row, what the job failed of, or None for now."""
        with self.changed:
            self.changed.wait_for(lambda: self.shown, WAIT_SECONDS)
            return self.shown.popleft() if self.shown else None

    def allow(self, step: int) -> None:
        with self.changed:
            self.allowed = max(self.allowed, step)
            self.changed.notify_all()

    def take_down(self, number: int) -> None:
        with self.changed:
            if number == self.number:
                self.job = None
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.job, self.ended = None, True
            self.changed.notify_all()

    # ---- the crew ----

    def take(self) -> dict[str, Any] | str | None:
        """The job at hand, END, or None for now. A job that has lost too many groups is given up."""
        with self.changed:
            self.changed.wait_for(lambda: self.job or self.ended, WAIT_SECONDS)
            if self.ended or self.job is None:
                return END if self.ended else None
            self.taken += 1
            if self.taken <= 1 + RESTARTS:
                return self.job
            last = f", the last time by {self.trouble}" if self.trouble else ""
            self._end_job(WorkersLost(f"the workers were lost {self.taken - 1} times{last}"))
            return None

    def show(self, number: int, row: Row) -> None:
        with self.changed:
            if self._at_hand(number) and row["event"] == "final":
                self._end_job(row)
            elif self._at_hand(number):
                if row["step"] > self.reached:
                    self.reached, self.taken = row["step"], 1
                self.shown.append(row)
                self.changed.notify_all()

    def may_go(self, number: int, step: int) -> bool | None:
        """Whether a job goes on after its rung at `step`; None for now."""
        with self.changed:
            decided = self.changed.wait_for(lambda: self.allowed >= step or not self._at_hand(number), WAIT_SECONDS)
            return self._at_hand(number) if decided else None

    def fail(self, number: int, error: Exception, mistake: bool) -> None:
        """A worker raised: a job that is a mistake ends with it, any other is tried again by the next group."""
        with self.changed:
            self.trouble = error
            if self._at_hand(number) and mistake:
                self._end_job(error)

    def _at_hand(self, number: int) -> bool:
        return self.job is not None and number == self.number

    def _end_job(self, said: Row | Exception) -> None:
        self.shown.append(said)
        self.job = None
        self.changed.notify_all()
