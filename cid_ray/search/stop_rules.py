"""When a trial and when a search has to stop.

A search stops for an interrupt, its time budget, too many failures of one kind, a lost storage.
"""

from __future__ import annotations

import enum
import re
import time
from collections import Counter


class Decision(enum.Enum):
    """What a trial does after a record.

    Example:
        >>> if search.report(record) is Decision.STOP:
        ...     break
    """

    CONTINUE = "continue"
    STOP = "stop"


class StopRules:
    """When a search must stop: interrupted, out of time, or with too many failures of one kind.

    Trials that run at that moment stay RUNNING in their studies, and a resume continues them.

    Attributes:
        deadline: when trials have to stop, by `time.monotonic()`; None without a budget.
        test_seconds: the longest time that scoring a run on test took; kept free before the
            deadline.
        interrupted: whether the user asked to stop.
        reason: why the search stopped early and has failed; empty while it has not.
    """

    def __init__(self, max_failed_trials: int, deadline: float | None = None):
        self.max_failed_trials = max_failed_trials
        self.deadline = deadline
        self.test_seconds = 0.0
        self.interrupted = False
        self.reason = ""
        self._failures: Counter[str] = Counter()

    def should_stop(self) -> bool:
        """Whether no further trial may start and running ones have to stop."""
        if self.interrupted or self.reason:
            return True
        return self.deadline is not None and time.monotonic() + self.test_seconds > self.deadline

    def fail(self, reason: str) -> None:
        """Stop the search as failed; the first reason is kept."""
        self.reason = self.reason or reason

    def count_failure(self, reason: str) -> None:
        """Count a failed trial. Reasons that differ in their numbers only are of one kind."""
        kind = re.sub(r"[-+]?\d[\d.e+-]*|\bnan\b|\binf\b", "#", reason)
        self._failures[kind] += 1
        count = self._failures[kind]
        if count >= self.max_failed_trials:
            self.fail(
                f"{count} trials failed in the same way ({reason}); fix the cause or narrow "
                "search.space "
                f"(search.max_failed_trials is {self.max_failed_trials})"
            )
