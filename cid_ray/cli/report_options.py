"""The options of `report`."""

from __future__ import annotations

import argparse

from cid_ray.cli.parser import add_config_options, make_parser
from cid_ray.config import InputError, load_config
from cid_ray.results.answers import target_problem
from cid_ray.results.recorded_run import Metric

EXAMPLES = """
  python -m cid_ray.report runs/camvid-20260101-120000
  python -m cid_ray.report runs/camvid-20260101-120000 --target 60 --set prices.label=2
  python -m cid_ray.report runs/camvid-20260101-120000 --set search.metric=val/miou --out page
  python -m cid_ray.report runs/before runs/after --out page
"""
METRIC_CHANGE = "search.metric="


def parse_arguments(argv: list[str], description: str) -> argparse.Namespace:
    """The options of `report`."""
    parser = make_parser("report", description, EXAMPLES)
    help_runs = "a run folder; several are compared, each with the first one"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_runs)
    help_out = "where index.html is written (default RUN/report; of several runs: nowhere)"
    add_config_options(parser, help_out, resume=False)
    parser.add_argument(
        "--target", type=percent, metavar="MIOU", help="say how many labels this test mIoU needs"
    )
    return parser.parse_args(argv)


def percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if problem := target_problem(value):
        raise argparse.ArgumentTypeError(f"{text} {problem}")
    return value


def compared_metric(args: argparse.Namespace) -> Metric | None:
    """The metric by which several runs are compared; None: that of each run.

    Raises:
        InputError: an option is for one run.
    """
    others = [change for change in args.changes if not change.startswith(METRIC_CHANGE)]
    if args.config or args.target or others:
        raise InputError(
            "several runs are compared as they were configured: leave out --config, --target, and "
            f"--set of anything but {METRIC_CHANGE}val/miou or {METRIC_CHANGE}val/miou_teacher"
        )
    return load_config(None, args.changes).search.metric if args.changes else None
