"""`python -m cid_ray.cluster check`: can trials be placed on this cluster, how many, at what cost?

Reads a cluster file before anything is started or paid for, without a cluster or a network. Every
search makes the same computation (`resources.capacity`) for the live cluster and its autoscaler.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cid_ray.cli import parser
from cid_ray.cli.printing import say
from cid_ray.config import Config, InputError, load_config
from cid_ray.data.sources import open_table
from cid_ray.resources.capacity import ClusterCapacity
from cid_ray.resources.cluster_files import check_with_ray, read_cluster_file
from cid_ray.resources.costs import describe, dollars, idle_usd_per_hour, node_table, placement_cost
from cid_ray.resources.prices import Prices
from cid_ray.resources.requests import trial_request
from cid_ray.storage.packaged import named_file

EXAMPLES = """
  python -m cid_ray.cluster check --space camvid --cluster aws
  python -m cid_ray.cluster check --space my.yaml --cluster mine/gcp.yaml \
      --set search.gpus_per_trial=0.5
"""


def main(argv: list[str]) -> int:
    args = parse(argv)
    config = load_config(named_file(args.space, "search_spaces"), args.changes)
    cluster = named_file(args.cluster, "cluster")
    prices = Prices.read(args.prices) if args.prices else Prices.read_for(cluster)
    capacity = read_cluster_file(cluster, prices.resources())
    check_with_ray(cluster)
    report(config, capacity, prices, args.out)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    options = parser.make_parser("cluster", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", metavar="check", required=True)
    check = kinds.add_parser("check", help="what fits on a cluster, and what it costs per hour")
    check.add_argument(
        "--space", required=True, metavar="FILE", help="a search space, as for tune --config"
    )
    check.add_argument(
        "--cluster",
        required=True,
        metavar="FILE",
        help="a `ray up` or KubeRay file, or one that comes with cid_ray: aws, gcp, ...",
    )
    check.add_argument("--out", metavar="DIR", help="the run folder to be: compared with its disk")
    check.add_argument(
        "--prices",
        metavar="FILE",
        type=Path,
        help="default: prices.yaml in the cluster file's folder, or ours",
    )
    check.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change one value, e.g. search.cpus_per_trial=4; may be repeated",
    )
    return options.parse_args(argv)


def report(config: Config, capacity: ClusterCapacity, prices: Prices, out: str | None) -> None:
    """Print node types, a trial's request, how many run concurrently at what cost, and needs."""
    if not capacity.has_known_cpus:
        say(f"{capacity.name}: {capacity.note}. Start it: `python -m cid_ray.tune` makes this")
        say("check on the live cluster, and says how many trials run concurrently.")
        return
    limit = f"at most {capacity.max_nodes} nodes"
    say(f"{capacity.name}: {limit}; prices of {prices.date}, to be checked")
    say(node_table(capacity, prices))
    request, count = trial_request(config, capacity)
    one_process = config.distributed.max_workers == 1
    say(f"one trial requests {request.per_process if one_process else request}")
    placement = placement_cost(capacity, request, count, prices)
    say(describe(placement))
    on_demand = capacity.without_spot()
    if on_demand != capacity:
        left = min(on_demand.max_concurrent(request), count)
        say(f"without spot: {describe(placement_cost(on_demand, request, left, prices))}")
    say(f"when nothing runs: {dollars(idle_usd_per_hour(capacity, prices))}")
    report_needs(config, request, placement, prices, out)


def report_needs(config: Config, *placed: Any) -> None:
    """Print what a search needs of disk and memory (`search.needs`), or why that is unknown."""
    try:
        open_table(config.data.table)  # before torch is imported, which takes seconds
    except InputError:
        say(f"disk and memory: unknown, because data.table={config.data.table} is not here")
        return
    from cid_ray.search.needs import describe_needs

    for line in describe_needs(config, *placed):
        say(line)


if __name__ == "__main__":
    parser.run_command(main)
