"""Hourly costs: of each node type, of the nodes that always run, and of concurrent trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from cid_ray.config import Config, InputError
from cid_ray.config.plain_text import printable
from cid_ray.resources.capacity import (
    ClusterCapacity,
    NodeType,
    PlacementRequest,
    Resources,
    fixed_capacity,
)
from cid_ray.resources.prices import Machine, Prices
from cid_ray.resources.requests import trial_request
from cid_ray.storage.packaged import packaged_file

TABLE_WIDTH = 140  # characters, on any terminal


@dataclass(frozen=True)
class PlacementCost:
    """Concurrent trials, the nodes that hold them, and their price."""

    count: int
    nodes: dict[NodeType, int]  # only types of which there is at least one node
    usd_per_hour: float | None  # None: a node has no known price

    @property
    def usd_per_trial_hour(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour / self.count


def placement_cost(
    capacity: ClusterCapacity, request: PlacementRequest, count: int, prices: Prices
) -> PlacementCost | None:
    """The cheapest nodes for `count` concurrent requests, and their price; None for 0."""
    if not count:
        return None
    numbers = capacity.nodes_for(request, count, prices.price_of)
    nodes = {node_type: number for node_type, number in numbers.items() if number}
    costs = (prices.price_of(each) for each, number in nodes.items() for _ in range(number))
    return PlacementCost(count, nodes, _total(costs))


def machine_hour(machine: str, resources: Resources, key: str) -> float | None:
    """What an hour of a process costs on a machine of the price list; None for an unknown price.

    A process costs its part of the machine, by CPUs or GPUs, whichever it takes more of.

    Args:
        machine: its name in cluster/prices.yaml.
        resources: of the process.
        key: option or configuration key that names the machine, for the message.

    Raises:
        InputError: the price list has no such machine.
    """
    listed = _listed(machine, key)
    parts = [resources.cpus / listed.cpus]
    if listed.gpus:
        parts.append(resources.gpus / listed.gpus)
    return None if listed.usd is None else max(parts) * listed.usd


def with_hour(config: Config) -> Config:
    """`prices.hour` filled in from `prices.machine`: what a trial's part of that machine costs.

    Raises:
        InputError: the price list has no such machine, or a trial does not fit on it.

    Example:
        >>> config = load_config(None, ["prices.machine=m5.xlarge", "search.cpus_per_trial=1"])
        >>> with_hour(config).prices.hour
        0.048
    """
    machine = config.prices.machine
    if machine is None:
        return config
    listed = _listed(machine, "prices.machine")
    capacity = fixed_capacity([Resources(listed.cpus, listed.gpus)])
    try:
        request, _ = trial_request(config, capacity)
    except InputError as error:
        raise InputError(
            f"prices.machine={machine}: a trial does not fit on it ({error})"
        ) from None
    each = machine_hour(machine, request.per_process, "prices.machine")
    hour = None if each is None else request.count * each
    prices = config.prices.model_copy(update={"hour": hour, "machine": None})
    return config.model_copy(update={"prices": prices})


def _listed(machine: str, key: str) -> Machine:
    prices = Prices.read(packaged_file("prices.yaml", "cluster"))
    if machine not in prices.machines:
        known = ", ".join(sorted(prices.machines))
        raise InputError(f"{key} {machine} is not in the price list, which has {known}")
    return prices.machines[machine]


def idle_usd_per_hour(capacity: ClusterCapacity, prices: Prices) -> float | None:
    """The price of the nodes that always run; None when one of them has no known price."""
    costs = (prices.price_of(each) for each in capacity.node_types for _ in range(each.min_nodes))
    return _total(costs)


def describe(placement: PlacementCost | None) -> str:
    """ "8 concurrent trials on 1 head, 8 gpu-spot: $5.04 per hour, $0.63 per trial-hour"."""
    if placement is None:
        return "0 concurrent trials"
    nodes = ", ".join(f"{number} {each.name}" for each, number in placement.nodes.items())
    text = f"{placement.count} concurrent trials on {nodes}: {dollars(placement.usd_per_hour)}"
    each = placement.usd_per_trial_hour
    return text if each is None else f"{text}, ${each:.2f} per trial-hour"


def dollars(usd_per_hour: float | None) -> str:
    return "price unknown" if usd_per_hour is None else f"${usd_per_hour:.2f} per hour"


def node_table(capacity: ClusterCapacity, prices: Prices) -> str:
    """The node types with their resources, limits and prices, as aligned text."""
    table = Table(box=None, pad_edge=False)
    for name in ("node type", "machine", "CPUs", "GPUs", "at least", "at most", "$/h each"):
        is_text = name in ("node type", "machine", "$/h each")
        table.add_column(name, justify="left" if is_text else "right")
    for node_type in capacity.node_types:
        price = prices.price_of(node_type)
        billing = "spot" if node_type.spot else "on demand"
        table.add_row(
            printable(node_type.name),
            printable(node_type.machine or "-"),
            f"{node_type.resources.cpus:g}",
            f"{node_type.resources.gpus:g}",
            str(node_type.min_nodes),
            str(node_type.max_nodes),
            "price unknown" if price is None else f"{price:.3f} {billing}",
        )
    # Plain text: a name in square brackets is no markup, and a log file gets no colours.
    console = Console(
        width=TABLE_WIDTH, force_terminal=False, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _total(costs: Iterable[float | None]) -> float | None:
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total
