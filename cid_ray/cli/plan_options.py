"""The options of `scale plan`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from cid_ray.config import InputError

NODES = "1,2,4,...,1000"
# Option -> (name of the overhead, help). Its default is that of planning.simulation.Overheads.
OVERHEADS = {
    "--preemptions-per-hour": ("preemptions_per_hour", "of one spot node (default 0)"),
    "--node-start": ("node_start_s", "seconds from a node's order to its first trial"),
    "--autoscaler-delay": ("autoscaler_s", "seconds until the autoscaler orders a node"),
    "--idle-timeout": ("idle_timeout_s", "seconds until an idle node is given back"),
    "--search-start": ("search_start_s", "seconds from the command to the first trial"),
    "--process-start": ("process_start_s", "seconds of a trial's start in a new process"),
    "--trial-start": ("trial_start_s", "seconds of a trial's start in a process used before"),
    "--driver-seconds": ("driver_s", "seconds of the driver for each start, rung and end"),
    "--checkpoint-seconds": ("checkpoint_s", "seconds to add to every rung's checkpoint"),
    "--node-loss": ("node_loss_s", "seconds until the loss of a node is noticed"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scale plan` to its parser."""
    add = parser.add_argument
    add("--space", required=True, metavar="FILE", help="a search space, as for tune --config")
    add("--cluster", required=True, metavar="FILE", help="a cluster file, or aws, gcp, ...")
    add("--run", metavar="RUN", help="run folder of a search: what its trials took")
    add("--nodes", default=NODES, metavar="N,N,...", help=f"numbers to try (default {NODES})")
    add("--speed", type=float, default=1.0, metavar="X", help="X times faster than in RUN")
    add("--simulations", type=int, default=40, metavar="N", help="for each number (default 40)")
    add(
        "--worth", type=float, default=0.1, metavar="F", help="a doubling saves F of the time (0.1)"
    )
    add("--prices", type=Path, metavar="FILE", help="price list, as for cluster check")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    add("--out", metavar="DIR", help="default runs/plan-TIME")
    group = parser.add_argument_group("overheads (docs/scaling.md has their defaults)")
    for option, (name, text) in OVERHEADS.items():
        group.add_argument(option, type=float, dest=name, metavar="X", help=text)


def check_options(args: argparse.Namespace) -> None:
    """Raise InputError for a value outside its range."""
    rules = {
        "--speed": (args.speed, 0 < args.speed < math.inf, "a positive number"),
        "--simulations": (args.simulations, 1 <= args.simulations <= 10**4, "from 1 to 10000"),
        "--worth": (args.worth, 0 < args.worth < 1, "a fraction between 0 and 1"),
    }
    for option, (name, _) in OVERHEADS.items():
        value = getattr(args, name)
        if value is not None:
            rules[option] = (value, 0 <= value < 1e9, "a number from 0 to a billion")
    for option, (value, holds, rule) in rules.items():
        if not holds:
            raise InputError(f"{option} is {value}, must be {rule}")


def overheads(args: argparse.Namespace) -> dict[str, float]:
    """The overheads that were given, by name."""
    names = [name for name, _ in OVERHEADS.values()]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
