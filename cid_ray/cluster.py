"""`python -m cid_ray.cluster check`: can a space's trials ever be placed on this cluster, how many, at what cost?

Reads a cluster file before anything is started or paid for; neither a cluster nor a network is needed. The same
computation (`run.fleet`) is made before every search, on the live cluster and what its autoscaler may add.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cid_ray import cli
from cid_ray.config import Config, InputError, load
from cid_ray.run import demand
from cid_ray.run.fleet import Fleet, Group
from cid_ray.run.plans import read_plan, read_tree
from cid_ray.run.prices import Prices

EXAMPLES = """
  python -m cid_ray.cluster check --space search_spaces/camvid.yaml --cluster cluster/aws.yaml
  python -m cid_ray.cluster check --space my.yaml --cluster cluster/gcp.yaml --set search.gpus_per_trial=0.5
"""


def main(argv: list[str]) -> int:
    options = cli.parser("cluster", __doc__ or "", EXAMPLES)
    check = options.add_subparsers(dest="kind", metavar="check", required=True).add_parser(
        "check", help="what fits on a cluster, and what it costs by the hour"
    )
    check.add_argument("--space", required=True, metavar="FILE", help="a search space, as for tune --config")
    check.add_argument("--cluster", required=True, metavar="FILE", type=Path, help="a `ray up` or KubeRay file")
    check.add_argument(
        "--prices", metavar="FILE", type=Path, help="default: prices.yaml beside the cluster file, or ours"
    )
    check.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="changes",
        help="change one value, e.g. search.cpus_per_trial=4; may be repeated",
    )  # fmt: skip
    args = options.parse_args(argv)
    config = load(args.space, args.changes)
    prices = Prices.read(args.prices or price_list(args.cluster))
    fleet = read_plan(args.cluster, prices.resources())
    accepted_by_ray(args.cluster)
    report(config, fleet, prices)
    return 0


def price_list(cluster: Path) -> Path:
    beside = cluster.parent / "prices.yaml"
    return beside if beside.is_file() else Path(__file__).resolve().parent.parent / "cluster" / "prices.yaml"


def accepted_by_ray(path: Path) -> None:
    """InputError for what Ray's own validation of a `ray up` file refuses, such as a mistyped key."""
    tree = read_tree(path)
    if "provider" not in tree:
        return
    import click
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells which defaults it fills in
    try:
        validate_config(prepare_config(tree))
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise InputError(f"{path}: `ray up` refuses it: {where + ': ' if where else ''}{error.message}") from None
    except (ValueError, RuntimeError, KeyError, TypeError, click.ClickException) as error:
        raise InputError(f"{path}: `ray up` refuses it: {error}") from None


def report(config: Config, fleet: Fleet, prices: Prices) -> None:
    """Print the node types, what a trial asks for, how many fit at once, where, and at what cost."""
    if not any(kind.each.cpus for kind in fleet.types):
        print(f"{fleet.name}: {fleet.note}. Start it: `python -m cid_ray.tune` makes this check on the live cluster")
        print("before its first trial, and says how many run at once.")
        return
    print(f"{fleet.name}: at most {fleet.most} nodes; prices of {prices.date}, to be checked")
    print(as_text(fleet, prices))
    group, count = demand.trials(config, fleet)
    print(f"one trial asks for {group if config.scale.most > 1 else group.each}")
    show_size(fleet, group, count, prices, f"{count} trials at once")
    firm = fleet.without_spot()
    if firm != fleet:
        left = min(firm.at_once(group), count)
        show_size(firm, group, left, prices, f"without spot: {left} at once")
    idle = [kind for kind in fleet.types for _ in range(kind.least)]
    print(f"when nothing runs: {dollars(total(prices.of(kind) for kind in idle))}")


def as_text(fleet: Fleet, prices: Prices) -> str:
    grid = Table(box=None, pad_edge=False)
    for name in ("node type", "machine", "CPUs", "GPUs", "at least", "at most", "$/h each"):
        grid.add_column(name, justify="left" if name in ("node type", "machine", "$/h each") else "right")
    for kind in fleet.types:
        sizes = (f"{kind.each.cpus:g}", f"{kind.each.gpus:g}", str(kind.least), str(kind.most))
        how = " spot" if kind.spot else " on demand"
        cost = prices.of(kind)
        grid.add_row(kind.name, kind.machine or "-", *sizes, "price unknown" if cost is None else f"{cost:.3f}{how}")
    console = Console(width=140)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def show_size(fleet: Fleet, group: Group, count: int, prices: Prices, what: str) -> None:
    """One line: so many groups, their nodes, and the cost of an hour and of a trial's hour."""
    if not count:
        print(what)
        return
    nodes = {kind: number for kind, number in fleet.nodes_for(group, count, prices.of).items() if number}
    cost = total(prices.of(kind) for kind, number in nodes.items() for _ in range(number))
    where = ", ".join(f"{number} {kind.name}" for kind, number in nodes.items())
    each = "" if cost is None else f", ${cost / count:.2f} per trial-hour"
    print(f"{what}, on {where}: {dollars(cost)}{each}")


def total(costs: Any) -> float | None:
    """The sum of what every node costs; None as soon as one has no price."""
    found = list(costs)
    return None if None in found else sum(found)


def dollars(cost: float | None) -> str:
    return "price unknown" if cost is None else f"${cost:.2f} per hour"


if __name__ == "__main__":
    cli.run(main)
