"""`python -m cid_ray.scale plan`: what a search takes on a cluster, before money is spent.

The whole search is simulated, with the durations and the pruning of recorded trials, on clusters of
several sizes: makespan, cost, idle share, critical path. Neither a cluster nor a GPU is needed.
"""

from __future__ import annotations

import argparse

from cid_ray.cli import parser, plan_options
from cid_ray.cli.printing import say

EXAMPLES = """
  python -m cid_ray.scale plan --space camvid --cluster aws --run runs/camvid
  python -m cid_ray.scale plan --space my.yaml --cluster mine/gcp.yaml --run runs/probe \\
      --nodes 4,8,16 --preemptions-per-hour 0.05
"""


def main(argv: list[str]) -> int:
    args = parse(argv)
    return SUBCOMMANDS[args.kind](args)


def parse(argv: list[str]) -> argparse.Namespace:
    options = parser.make_parser("scale", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", metavar="KIND", required=True)
    plan_options.add_options(kinds.add_parser("plan", help="simulate a search on N nodes"))
    return options.parse_args(argv)


def plan(args: argparse.Namespace) -> int:
    """Simulate a search on clusters of several sizes."""
    plan_options.check_options(args)
    # Imported late: optuna and simpy take a second, which wrong options need not wait for.
    from cid_ray.scaling.plan_run import run_plan

    for line in run_plan(args, plan_options.overheads(args)):
        say(line)
    return parser.DONE


SUBCOMMANDS = {"plan": plan}

if __name__ == "__main__":
    parser.run_command(main)
