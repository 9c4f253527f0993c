"""The nodes of a simulated cluster: N that run trials, and those that always run beside them."""

from __future__ import annotations

from dataclasses import dataclass

from cid_ray.config import Config, InputError
from cid_ray.resources.capacity import ClusterCapacity, NodeType, PlacementRequest, Price
from cid_ray.resources.requests import trial_request


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes.

    Attributes:
        name: of their node type.
        always_on: nodes that run from the start to the end.
        max_nodes: nodes at most, `always_on` included.
        slots: trials that run on one node at the same time.
        gpus: of one node.
        spot: the cloud may take them back.
        usd_per_hour: of one node; None: unknown.
    """

    name: str
    always_on: int
    max_nodes: int
    slots: int
    gpus: float = 0.0
    spot: bool = False
    usd_per_hour: float | None = None


@dataclass(frozen=True)
class Fleet:
    """What the simulated cluster may have: the workers first, then what always runs beside them."""

    groups: tuple[NodeGroup, ...]
    max_concurrent: int  # trials

    @property
    def workers(self) -> NodeGroup:
        return self.groups[0]

    @property
    def usd_per_hour(self) -> float | None:
        """When all nodes run; None: a price is unknown."""
        if any(group.usd_per_hour is None for group in self.groups if group.max_nodes):
            return None
        return sum(group.max_nodes * (group.usd_per_hour or 0.0) for group in self.groups)


def worker_type(capacity: ClusterCapacity, request: PlacementRequest, price: Price) -> NodeType:
    """The node type of which a plan tries different numbers: it holds trials, may grow, is cheap.

    Raises:
        InputError: no node holds a whole trial.
    """
    holding = [t for t in capacity.node_types if request.per_process.count_in(t.resources)]
    if request.count > 1 or not holding:
        raise InputError(
            f"a trial requests {request}: plan simulates trials that fit on one node of "
            f"{capacity.name} each; set distributed.num_workers=1, or use cid_ray.cluster check"
        )

    def preference(node_type: NodeType) -> tuple[bool, bool, float]:
        usd = price(node_type)
        slots = request.per_process.count_in(node_type.resources)
        return node_type.max_nodes <= node_type.min_nodes, usd is None, (usd or 0.0) / slots

    return min(holding, key=preference)


def make_fleet(config: Config, capacity: ClusterCapacity, price: Price, nodes: int) -> Fleet:
    """A cluster with at most `nodes` workers, and the other types' nodes that always run.

    A type that cannot grow (`min_nodes` is `max_nodes`) is simulated as `nodes` that always run.

    Args:
        config: of the search.
        capacity: the cluster file's node types. Its limits of workers are not kept.
        price: node type -> US dollars per hour.
        nodes: workers.

    Raises:
        InputError: a trial can never be placed.
    """
    request, _ = trial_request(config, capacity)
    workers = worker_type(capacity, request, price)
    grows = workers.max_nodes > workers.min_nodes
    groups = []
    for node_type in (workers, *(t for t in capacity.node_types if t != workers)):
        is_worker = node_type == workers
        at_most = nodes if is_worker else node_type.min_nodes
        always = min(nodes, workers.min_nodes) if is_worker and grows else at_most
        group = NodeGroup(
            node_type.name,
            always,
            at_most,
            request.per_process.count_in(node_type.resources),
            node_type.resources.gpus,
            node_type.spot,
            price(node_type),
        )
        if at_most:
            groups.append(group)
    slots = sum(group.max_nodes * group.slots for group in groups)
    return Fleet(tuple(groups), min(slots, config.search.max_concurrent_trials or slots))
