"""A cluster's capacity: its node types, and how many requests fit when it is fully scaled up.

The command that reads a cluster file (`cid_ray.cluster`) and every search on a live cluster use
this one computation. How many nodes of each type to start, within the limits of the type and of the
cluster, is a small integer program, which scipy solves exactly. Neither ray nor torch is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

Price = Callable[["NodeType"], float | None]  # US dollars per hour of one node; None: unknown
LARGEST = 10**9  # CPUs, GPUs or nodes: the solver refuses numbers above 1e15
TOLERANCE = 1e-6  # sums of 0.1 CPU are not exact


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of a node, or those that a process requests. Fractions are allowed."""

    cpus: float
    gpus: float

    def __post_init__(self) -> None:
        """Raise ValueError for an amount that is negative, beyond all machines, or not finite."""
        for amount in (self.cpus, self.gpus):
            if not 0 <= amount <= LARGEST:
                raise ValueError(f"{amount} is not a possible number of CPUs or GPUs")

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")

    def bundle(self) -> dict[str, float]:
        """The same as Ray's resource bundle."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def count_in(self, node: Resources) -> int:
        """How many such requests fit on one empty node."""
        pairs = ((self.cpus, node.cpus), (self.gpus, node.gpus))
        ratios = [available / requested for requested, available in pairs if requested]
        return int(min(ratios) + 1e-9)


@dataclass(frozen=True)
class PlacementRequest:
    """What must run at the same time: processes, each within one node, and CPUs on any nodes."""

    per_process: Resources
    count: int = 1
    extra_cpus: float = 0.0  # of tasks that may run on any node

    @property
    def cpus(self) -> float:
        return self.count * self.per_process.cpus + self.extra_cpus

    def __str__(self) -> str:
        extra = f", and {self.extra_cpus:g} CPU for Ray Data's tasks" if self.extra_cpus else ""
        return f"{self.count} x ({self.per_process}){extra}"


@dataclass(frozen=True)
class NodeType:
    """A kind of node, and how many of them there are at least and at most."""

    name: str
    resources: Resources
    min_nodes: int  # always running
    max_nodes: int
    machine: str | None = None  # name in a price list
    spot: bool = False
    memory_bytes: int | None = None  # where the cluster file says it
    disk_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for limits that are no numbers of nodes."""
        limits = (self.min_nodes, self.max_nodes)
        are_counts = all(type(limit) is int and 0 <= limit <= LARGEST for limit in limits)
        if not are_counts or limits[0] > limits[1]:
            raise ValueError(
                f"{self.name} has at least {limits[0]!r} and at most {limits[1]!r} nodes; both "
                "must be whole numbers, the first not above the second"
            )


@dataclass(frozen=True)
class ClusterCapacity:
    """The node types of a cluster, alive or still to be started."""

    node_types: tuple[NodeType, ...]
    max_nodes: int  # of all types together, the head included
    name: str = "the cluster"
    note: str = ""  # what could not be found out

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is not a possible number of nodes."""
        most = (1 + len(self.node_types)) * LARGEST
        if type(self.max_nodes) is not int or not 0 <= self.max_nodes <= most:
            raise ValueError(f"{self.max_nodes!r} is not a possible number of nodes")

    @property
    def has_gpus(self) -> bool:
        return any(
            node_type.resources.gpus and node_type.max_nodes for node_type in self.node_types
        )

    @property
    def has_known_cpus(self) -> bool:
        """False for machines whose size is known only once they run."""
        return any(node_type.resources.cpus for node_type in self.node_types)

    @property
    def cpus(self) -> float:
        """An upper bound of all CPUs: `max_nodes` of the cluster may allow fewer."""
        return sum(each.max_nodes * each.resources.cpus for each in self.node_types)

    def max_concurrent(self, request: PlacementRequest) -> int:
        """How many such requests run at the same time when the cluster is fully scaled up."""
        no_costs = [0.0] * len(self.node_types)
        return self._solve(request, None, no_costs)[1]

    def nodes_for(self, request: PlacementRequest, count: int, price: Price) -> dict[NodeType, int]:
        """The cheapest nodes on which `count` requests run; types without a price come last."""
        prices = [price(node_type) for node_type in self.node_types]
        unknown = 1.0 + max((cost for cost in prices if cost is not None), default=0.0)
        costs = [unknown if cost is None else cost for cost in prices]
        return dict(zip(self.node_types, self._solve(request, count, costs)[0], strict=True))

    def without_spot(self) -> ClusterCapacity:
        on_demand = tuple(node_type for node_type in self.node_types if not node_type.spot)
        return replace(self, node_types=on_demand)

    def _solve(
        self, request: PlacementRequest, count: int | None, costs: list[float]
    ) -> tuple[list[int], int]:
        """Nodes of each type, and requests on them: as many as possible, or `count` at least cost.

        The unknowns are the nodes of each type and, last, the number of requests. Three
        constraints: enough places for all processes, enough CPUs for processes and extra CPUs, not
        too many nodes.
        """
        if not self.node_types:
            return [], 0
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        places = [request.per_process.count_in(each.resources) for each in self.node_types]
        cpus = [each.resources.cpus for each in self.node_types]
        min_nodes = [each.min_nodes for each in self.node_types]
        max_nodes = [each.max_nodes for each in self.node_types]
        matrix = [
            [*places, -request.count],
            [*cpus, -request.cpus],
            [*([-1.0] * len(costs)), 0.0],
        ]
        # A live cluster may have more nodes than its file allows.
        node_limit = max(self.max_nodes, sum(min_nodes))
        solution = milp(
            [*costs, -1.0 if count is None else 0.0],
            integrality=np.ones(len(costs) + 1),
            bounds=Bounds(
                [*min_nodes, count or 0],
                [*max_nodes, np.inf if count is None else count],
            ),
            constraints=LinearConstraint(
                matrix, [-TOLERANCE, -TOLERANCE, -node_limit - TOLERANCE], np.inf
            ),
            options={"mip_rel_gap": 0.0},
        )
        if solution.x is None:
            raise ValueError(
                f"no nodes of {self.name} hold {count} x ({request}): {solution.message}"
            )
        *nodes, num_requests = (round(value) for value in solution.x)
        return nodes, num_requests

    def __str__(self) -> str:
        """What is running and what may still be started, for a message."""
        running = [str(each.resources) for each in self.node_types for _ in range(each.min_nodes)]
        text = f"{len(running)} node(s) with {', '.join(running)}" if running else "no node"
        additions = [
            f"{each.max_nodes - each.min_nodes} {each.name} ({each.resources})"
            for each in self.node_types
            if each.max_nodes > each.min_nodes
        ]
        if additions:
            left = max(self.max_nodes - len(running), 0)
            text += f", and may still start {', '.join(additions)}, at most {left} node(s) together"
        return text + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class AliveNode:
    """A node of a running cluster."""

    resources: Resources
    node_group: str = ""  # the node type it was started as; empty where Ray was not given it


def fixed_capacity(nodes: Iterable[Resources]) -> ClusterCapacity:
    """The capacity of exactly these nodes, without an autoscaler."""
    counts = Counter(nodes)
    types = tuple(NodeType(str(size), size, number, number) for size, number in counts.items())
    return ClusterCapacity(types, sum(counts.values()))


def with_autoscaler(alive: list[AliveNode], limits: ClusterCapacity | None) -> ClusterCapacity:
    """The alive nodes, and what the cluster's autoscaler may add to them.

    Alive nodes of the autoscaler's types count towards its limits; other nodes are added to them.
    Limits whose machines have unknown sizes (machines of one's own) add nothing but their note.
    """
    known = limits is not None and limits.has_known_cpus
    planned = limits.node_types if limits and known else ()
    types = [_type_of(node, planned) for node in alive]
    running = Counter(types)
    others = fixed_capacity(
        node.resources for node, node_type in zip(alive, types, strict=True) if node_type is None
    )
    scaled = [
        replace(each, min_nodes=running[each], max_nodes=max(each.max_nodes, running[each]))
        for each in planned
    ]
    max_planned = limits.max_nodes if limits and known else 0
    note = limits.note if limits and not known else ""
    return ClusterCapacity((*others.node_types, *scaled), others.max_nodes + max_planned, note=note)


def _type_of(node: AliveNode, planned: Iterable[NodeType]) -> NodeType | None:
    """The type of the node's size; of several the one with its name, which v1 does not set."""
    same_size = [each for each in planned if each.resources == node.resources]
    named = [each for each in same_size if each.name == node.node_group]
    return next(iter([*named, *same_size]), None)
