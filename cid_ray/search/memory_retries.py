"""The retry of a trial that Ray killed for memory: alone on its node, not into the same pressure.

It requests all CPUs of the largest node, so no other trial fits on it. Until it has started
nothing else starts, or small requests would keep every node occupied. From then on fewer trials run
at a time than when the first was killed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from cid_ray.search.trial_spec import TrialSpec

NODE_CPUS = "node_cpus"  # in a payload: what the trial requests instead of its own CPUs


class MemoryRetries:
    """Decides what may start after kills for memory.

    Args:
        node_cpus: the CPUs of the largest node on which a trial fits; None: nobody knows.

    Attributes:
        max_running: trials that may run at a time; `search.max_concurrent_trials` holds in any
            case.
    """

    def __init__(self, node_cpus: Callable[[], float | None]):
        self.max_running = math.inf
        self._node_cpus = node_cpus
        self._killed: set[str] = set()  # runs whose next start is alone
        self._starting: set[str] = set()  # handed out to be alone, without a record yet

    def note_kill(self, run: str, others: int) -> str:
        """Remember the kill of a run.

        Args:
            run: its name.
            others: other trials that ran at that time, on any node.

        Returns:
            What that changes, to be added to the reason.
        """
        if not others:
            return ""
        self.max_running = others
        self._killed.add(run)
        return f"; its retry is alone on a node; at most {others} at a time from now on"

    def may_start(self, running: Collection[str]) -> bool:
        """Whether another trial may start beside the running ones."""
        return len(running) < self.max_running and not self._starting.intersection(running)

    def payload(self, trial: TrialSpec) -> dict[str, Any]:
        """The payload of a trial that starts; of a killed one with a node's CPUs."""
        cpus = self._node_cpus() if trial.name in self._killed else None
        self._killed.discard(trial.name)
        if cpus is None:
            return trial.payload
        self._starting.add(trial.name)
        return {**trial.payload, NODE_CPUS: cpus}

    def note_started(self, run: str) -> None:
        """The first record of a run has come, so it has its node."""
        self._starting.discard(run)
