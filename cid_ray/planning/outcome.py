"""What a simulated search took: seconds, dollars, idle slots, and its critical path."""

from __future__ import annotations

from dataclasses import dataclass, field

from cid_ray.planning.fleet import NodeGroup
from cid_ray.planning.simulated_search import SimulatedTrial

SEARCH_START = "search start"
WAITING = "node start and waiting"
LOST = "lost attempts and waiting"
REPORT = "report"


@dataclass
class Outcome:
    """One simulated search. The paid slot-seconds are `busy_s` plus `idle_s`."""

    makespan_s: float = 0.0
    node_s: dict[NodeGroup, float] = field(default_factory=dict)  # paid, summed over its nodes
    busy_s: float = 0.0  # slots with a trial
    idle_s: float = 0.0  # slots without one; a starting node's too
    lost_s: float = 0.0  # of the busy ones: work that was done again after a loss
    preemptions: int = 0
    failed: int = 0  # trials lost more often than search.retries allows
    chain: list[tuple[str, float]] = field(default_factory=list)  # sums up to the makespan

    @property
    def usd(self) -> float | None:
        """None: a node has no known price."""
        if any(group.usd_per_hour is None for group in self.node_s):
            return None
        return sum((g.usd_per_hour or 0.0) * s / 3600 for g, s in self.node_s.items())

    @property
    def node_hours(self) -> float:
        return sum(self.node_s.values()) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(group.gpus * s / 3600 for group, s in self.node_s.items())

    @property
    def idle_percent(self) -> float:
        paid = self.busy_s + self.idle_s
        return 100 * self.idle_s / paid if paid else 0.0


def critical_path(
    last: SimulatedTrial | None, search_start_s: float, report_s: float
) -> list[tuple[str, float]]:
    """The longest chain of waits: each trial of it with what it waited for before.

    Equal kinds are summed; "3 x cid" are three trials one after the other.
    """
    parts: list[tuple[str, float]] = [(REPORT, report_s)]
    trial = last
    while trial is not None:
        parts.append((trial.kind, trial.ended_s - trial.started_s))
        before = trial.started_after
        gap = trial.started_s - (before.ended_s if before else search_start_s)
        if gap > 1e-6:
            parts.append((LOST if trial.attempts else WAITING, gap))
        trial = before
    parts.append((SEARCH_START, search_start_s))
    return _summed(parts[::-1])


def _summed(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    by_kind: dict[str, list[float]] = {}
    for kind, seconds in parts:
        by_kind.setdefault(kind, []).append(seconds)
    return [
        (kind if len(found) == 1 else f"{len(found)} x {kind}", sum(found))
        for kind, found in by_kind.items()
    ]
