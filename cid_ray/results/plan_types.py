"""The fields of `plan` records: what `scale plan` has simulated."""

from __future__ import annotations

from typing import Literal

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict

from cid_ray.results.common_fields import CommonFields
from cid_ray.results.score_types import Count, Number, PositiveCount


class PlanInterval(TypedDict):
    """Over the simulations of a plan: the median, and the range that 90 % of them are in."""

    median: Number
    low: Number
    high: Number


class ChainPart(TypedDict):
    """A part of the critical path."""

    what: str
    seconds: Number


class MethodCost(TypedDict):
    """The recorded trials of one method, which a plan draws from."""

    method: str
    trials: Count
    seconds: Number | None  # median of those trained to their end
    ended_early: list[Number]  # of those that reached each rung, the fraction that ended there


class PlanRecord(CommonFields):
    """A search as simulated on a cluster of one size; `run` is the plan's name."""

    event: Literal["plan"]
    cluster: str  # the cluster file
    node_type: str  # of which there are `nodes`
    nodes: PositiveCount
    max_nodes: Count  # that the cluster file allows
    max_concurrent: Count  # trials
    durations_of: str  # the run folder whose trials are drawn
    methods: list[MethodCost]
    speed: Number  # times faster than there
    simulations: PositiveCount
    makespan_s: PlanInterval
    usd: PlanInterval | None  # None: a node has no known price
    node_hours: PlanInterval
    gpu_hours: PlanInterval
    idle_percent: PlanInterval  # of the paid room for trials
    preemptions: Number  # mean
    lost_s: Number  # mean; work done again after a loss
    failed: Number  # mean; trials lost more often than `search.retries` allows
    critical_path: list[ChainPart]  # of a simulation of median length
    recommended: bool  # the fewest nodes past which a doubling saves less; or none
    worth: Number  # fraction of the time
    options: dict[str, Number]  # the overheads, by name
    notes: list[str]  # what else a reader of the numbers should know
    timestamp: Number
