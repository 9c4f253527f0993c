"""`python -m cid_ray.tune`: search CID's hyperparameters at several label ratios, with baselines.

One Optuna study per ratio and method suggests and prunes; Ray Tune places the trials. Without
options it runs the space `demo` on the generated data set. It ends with a table, records and
report/index.html.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds

import argparse
import time

from cid_ray.callbacks.setup import add_default_callbacks, check_callbacks
from cid_ray.cli.console import RunConsole
from cid_ray.cli.parser import (
    VERBOSE,
    add_config_options,
    add_verbosity_options,
    make_parser,
    run_command,
)
from cid_ray.cli.run_options import open_run
from cid_ray.cli.sidecar import add_dashboard_option, live_dashboard
from cid_ray.cli.signals import stop_signals
from cid_ray.cli.supervisor import add_restarts_option, supervise
from cid_ray.config import InputError
from cid_ray.resources.ray_session import cluster_capacity, start_ray, stop_ray
from cid_ray.search.controller import Search
from cid_ray.search.outcome import search_outcome
from cid_ray.search.plan import change_search, describe_search, plan_placement, plan_search

EXAMPLES = """
  python -m cid_ray.tune
  python -m cid_ray.tune --config camvid --set data.table=tables/camvid
  python -m cid_ray.tune --config my.yaml --budget 3600
  python -m cid_ray.tune --resume runs/camvid-20260101-120000
"""
FINALIZE_RESERVE_S = 15.0  # of --budget, kept free for the report


def main(argv: list[str]) -> int:
    args = parse_options(argv)
    if args.restarts:
        return supervise("cid_ray.tune", argv, args)
    started = time.monotonic()
    config, run_dir = open_run(args, "tune", default="demo")
    config, message = change_search(config, args.extend, args.warm_start, bool(args.resume))

    # Every error that can be known comes before Ray starts, or before the first trial.
    plan = plan_search(config, run_dir.uri)
    check_callbacks(config, run_dir)
    start_ray(args.verbosity >= VERBOSE, {"run": run_dir.basename, **plan.job_metadata})
    placement = plan_placement(config, cluster_capacity())

    deadline = started + args.budget - FINALIZE_RESERVE_S if args.budget else None
    content_hashes = plan.preflight.content_hashes
    with (
        run_dir,
        Search.open(
            config, run_dir, space=plan.space, content_hashes=content_hashes, deadline=deadline
        ) as search,
        RunConsole(run_dir.local, search.total, "trial", args.verbosity) as console,
    ):
        add_default_callbacks(search, console, plan, placement)
        for line in filter(None, (*describe_search(search, plan, placement), message)):
            console.log(line)
        resume = f"python -m cid_ray.tune --resume {run_dir}"
        with (
            live_dashboard(args.dashboard, run_dir.uri, console.log),
            stop_signals(resume, console.log, search.interrupt),
        ):
            from cid_ray.search.ray_adapter import run_search  # Tune takes a second

            run_search(search, placement.resources, placement.max_concurrent)
            search.finalize(resources=placement.resources)
        search.close()  # first: callbacks may still print
        code, lines = search_outcome(search, time.monotonic() - started)
        for line in lines:
            console.log(line, always=True)
        stop_ray()
        return code


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("tune", __doc__ or "", EXAMPLES)
    add_config_options(parser)
    add_verbosity_options(parser)
    add_restarts_option(parser)
    add = parser.add_argument
    add("--trials", type=int, metavar="N", help="CID trials per ratio (search.trials)")
    add("--extend", type=int, metavar="N", help="with --resume: N more CID trials per ratio")
    add("--budget", type=float, metavar="SECONDS", help="end in about this time, report included")
    add_dashboard_option(parser)
    add("--warm-start", metavar="RUN", help="first try the best hyperparameters of an earlier run")
    args = parser.parse_args(argv)
    if args.trials is not None:
        args.changes.append(f"search.trials={args.trials}")
    if args.budget is not None and args.budget <= 0:
        raise InputError(f"--budget is {args.budget}, must be a positive number of seconds")
    return args


if __name__ == "__main__":
    run_command(main)
