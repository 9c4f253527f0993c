"""Why a trial's process ended: it died, Ray killed it for memory, or its node was taken.

Tune tells its searcher only that there was an error. The error itself it logs just before.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from cid_ray.search.controller import PROCESS_DIED
from cid_ray.search.trial_states import PREEMPTED
from cid_ray.training.preemption import Preempted

TUNE_LOGGER = logging.getLogger("ray.tune.execution.tune_controller")


@dataclass(frozen=True)
class ProcessEnd:
    """How a trial's process ended.

    Attributes:
        reason: for the record. That of a preemption begins with PREEMPTED.
        for_memory: Ray killed it because its node ran low on memory.
        by_itself: the process ended the trial; nobody killed it.
    """

    reason: str = PROCESS_DIED
    for_memory: bool = False
    by_itself: bool = False


class TrialErrors(logging.Filter):
    """Keeps the error of a trial's process from Tune's log.

    The log of a death is dropped: of a process killed for memory it is a page of eighty lines.
    """

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        error = record.exc_info[1] if record.exc_info else None
        self.error = error.cause if isinstance(error, RayTaskError) else error
        return not isinstance(self.error, RayActorError | OutOfMemoryError | Preempted)

    def take_end(self) -> ProcessEnd:
        """How the process of the trial ended that Tune reports now."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        error, self.error = self.error, None
        if isinstance(error, Preempted):
            return ProcessEnd(f"{PREEMPTED}: {error}", by_itself=True)
        if isinstance(error, RayActorError) and error.preempted:
            return ProcessEnd(f"{PREEMPTED}: its node was taken in the middle of a step")
        if isinstance(error, OutOfMemoryError):
            return ProcessEnd(memory_reason(str(error)), for_memory=True)
        return ProcessEnd()


def memory_reason(error: str) -> str:
    """What Ray says of a process that it killed for memory, and what to do."""
    usage = re.search(r"was (\S+) used / (\S+) limit", error)
    own = re.search(r"memory used=([\d.]+GB)", error)
    figures = f"; {usage[1]} of the node's {usage[2]} were used" if usage else ""
    if own:
        figures = f"; the process had {own[1]}{figures}"
    return (
        f"Ray killed the trial's process because its node ran low on memory{figures}: lower "
        "search.max_concurrent_trials, data.batch_size or data.cache_mb"
    )
