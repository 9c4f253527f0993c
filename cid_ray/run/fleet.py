"""A fleet: the kinds of nodes that a cluster has or may still start, and what fits on it when it is fully grown.

One computation for the command that reads a cluster file (`cid_ray.cluster`) and for every search on a live cluster
(`run.cluster`). How many nodes of each kind to start, within each kind's limit and the cluster's own, is a small
integer programme: scipy solves it exactly. Neither ray nor torch is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

Price = Callable[["NodeType"], float | None]  # dollars an hour of one node; None: not known
SLACK = 1e-6  # sums of 0.1 CPU are not exact


@dataclass(frozen=True)
class Resources:
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def times_in(self, node: Resources) -> int:
        """How many such requests fit on one empty node."""
        asked = [(self.cpus, node.cpus), (self.gpus, node.gpus)]
        return int(min(there / wanted for wanted, there in asked if wanted) + 1e-9)


@dataclass(frozen=True)
class Group:
    """What has to run at the same time: `count` processes, each within one node, and loose CPUs, wherever they are."""

    each: Resources
    count: int = 1
    loose: float = 0.0

    @property
    def cpus(self) -> float:
        return self.count * self.each.cpus + self.loose

    def __str__(self) -> str:
        spare = f", and {self.loose:g} CPU for Ray Data's tasks" if self.loose else ""
        return f"{self.count} x ({self.each}){spare}"


@dataclass(frozen=True)
class NodeType:
    name: str
    each: Resources
    least: int  # nodes that always run
    most: int
    machine: str | None = None  # of a price list
    spot: bool = False


@dataclass(frozen=True)
class Fleet:
    types: tuple[NodeType, ...]
    most: int  # nodes in all, of whatever type, head included
    name: str = "the cluster"
    note: str = ""  # what could not be found out about it

    @property
    def has_gpus(self) -> bool:
        return any(kind.each.gpus and kind.most for kind in self.types)

    @property
    def cpus(self) -> float:
        """An upper bound of all CPUs."""
        return sum(kind.most * kind.each.cpus for kind in self.types)

    def at_once(self, group: Group) -> int:
        """How many such groups run at the same time when the fleet is fully grown."""
        return self._solve(group, None, [0.0] * len(self.types))[1]

    def nodes_for(self, group: Group, count: int, price: Price) -> dict[NodeType, int]:
        """The cheapest nodes on which `count` groups run; of those with a price, where that is possible."""
        prices = [price(kind) for kind in self.types]
        unknown = 1.0 + max((cost for cost in prices if cost is not None), default=0.0)
        costs = [unknown if cost is None else cost for cost in prices]
        return dict(zip(self.types, self._solve(group, count, costs)[0], strict=True))

    def without_spot(self) -> Fleet:
        return replace(self, types=tuple(kind for kind in self.types if not kind.spot))

    def _solve(self, group: Group, count: int | None, costs: list[float]) -> tuple[list[int], int]:
        """Nodes of each type and the number of groups on them: as many as possible, or `count` at the least cost."""
        if not self.types:
            return [], 0
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        places = [group.each.times_in(kind.each) for kind in self.types]
        rows = [[*places, -group.count], [*(kind.each.cpus for kind in self.types), -group.cpus]]
        rows.append([-1.0] * len(self.types) + [0.0])
        most = max(self.most, sum(kind.least for kind in self.types))
        found = milp(
            [*costs, -1.0 if count is None else 0.0],
            integrality=np.ones(len(costs) + 1),
            bounds=Bounds([*(kind.least for kind in self.types), count or 0],
                          [*(kind.most for kind in self.types), np.inf if count is None else count]),
            constraints=LinearConstraint(rows, [-SLACK, -SLACK, -most - SLACK], np.inf),
            options={"mip_rel_gap": 0.0},
        )  # fmt: skip
        if found.x is None:
            raise ValueError(f"no nodes of {self.name} hold {count} x ({group}): {found.message}")
        *nodes, groups = (round(value) for value in found.x)
        return nodes, groups

    def __str__(self) -> str:
        """What there is, and what may still be started, in words."""
        here = [str(kind.each) for kind in self.types for _ in range(kind.least)]
        growing = [kind for kind in self.types if kind.most > kind.least]
        text = f"{len(here)} node(s) with {', '.join(here)}" if here else "no node"
        if growing:
            each = ", ".join(f"{kind.most - kind.least} {kind.name} ({kind.each})" for kind in growing)
            text += f", and may still start {each}, at most {max(self.most - len(here), 0)} node(s) together"
        return text + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Living:
    """A node of a running cluster; `group` is the node type it was started as, empty where Ray was not told."""

    each: Resources
    group: str = ""


def fixed(nodes: Iterable[Resources]) -> Fleet:
    """A fleet of these nodes, which neither grows nor shrinks."""
    counted = Counter(nodes)
    types = tuple(NodeType(f"{each}", each, number, number) for each, number in counted.items())
    return Fleet(types, sum(counted.values()))


def grown(alive: list[Living], plan: Fleet | None) -> Fleet:
    """A living cluster with what its autoscaler may add: nodes of the plan are counted once, others come on top.

    A plan that does not know its nodes' resources (machines of one's own) adds nothing.
    """
    known = plan is not None and any(kind.each.cpus for kind in plan.types)
    planned = plan.types if plan and known else ()
    kinds = [_kind_of(node, planned) for node in alive]
    running = Counter(kinds)
    others = fixed(node.each for node, kind in zip(alive, kinds, strict=True) if kind is None)
    types = [replace(kind, least=running[kind], most=max(kind.most, running[kind])) for kind in planned]
    cap = plan.most if plan and known else 0
    return Fleet((*others.types, *types), others.most + cap, note=plan.note if plan and not known else "")


def _kind_of(node: Living, planned: Iterable[NodeType]) -> NodeType | None:
    """The type of its size, by name where it has one: autoscaler v1 does not name its nodes."""
    sized = [kind for kind in planned if kind.each == node.each]
    return next((kind for kind in sized if kind.name == node.group), sized[0] if sized else None)
