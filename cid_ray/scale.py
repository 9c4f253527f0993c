"""`python -m cid_ray.scale`: measure how a method scales, and plan a search before money is spent.

A ladder changes one count and keeps the rest. Each count becomes a record; the same ladder
continues after a stop, and takes further counts and repeats. It ends in a table, a forecast and a
page. `plan` simulates a search on clusters of several sizes, from the durations of recorded trials.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds

from argparse import Namespace
from typing import Any

from cid_ray.cli import parser, plan_options, run_options
from cid_ray.cli.console import RunConsole
from cid_ray.cli.printing import say
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import Config
from cid_ray.results.ladder import failed_lines
from cid_ray.results.ladder_page import write_ladder_report
from cid_ray.storage.run_dir import RunDir

EXAMPLES = """
  python -m cid_ray.scale labels --config demo --set scale.ratios=[12,24,48,96]
  python -m cid_ray.scale workers --config my.yaml --set scale.workers=[1,2,4] --machine g5.xlarge
  python -m cid_ray.scale labels --resume runs/labels --set scale.repeats=5
  python -m cid_ray.scale plan --space camvid --cluster aws --run runs/camvid
"""
LADDERS = {
    "labels": "mIoU against labeled images, and the forecast of twice as many",
    "pool": "mIoU against unlabeled images: how much of the pool pays",
    "batch": "the images that each batch size needs for the same mIoU",
    "model": "mIoU against parameters, operations and latency of encoders",
    "workers": "step time against workers, and how many are worth it",
    "concurrency": "trials per hour against trials at a time: what to request for each",
}


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.kind == "plan":
        return plan(args)
    config, run_dir = run_options.open_run(args, args.kind)
    ladder = check(args, config, run_dir)
    ladder.verbose = args.verbosity >= parser.VERBOSE
    with run_dir:
        run_dir.lock()
        with RunConsole(run_dir.local, ladder.total, ladder.unit, args.verbosity) as console:
            return measure(ladder, args.kind, run_dir, console)


def parse(argv: list[str]) -> Namespace:
    options = parser.make_parser("scale", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", metavar="LADDER", required=True)
    for name, text in LADDERS.items():
        ladder = kinds.add_parser(name, help=text, description=text)
        parser.add_config_options(ladder)
        parser.add_verbosity_options(ladder)
        if name == "workers":
            ladder.add_argument("--machine", metavar="NAME", help="of the price list, for the cost")
            ladder.add_argument("--profile", action="store_true", help="write torch's profiles too")
    plan_options.add_options(kinds.add_parser("plan", help="simulate a search on N nodes"))
    return options.parse_args(argv)


def check(args: Namespace, config: Config, run_dir: RunDir) -> Any:
    """The ladder, after everything was checked that can be wrong before Ray starts."""
    # torch takes seconds, which `--help` and wrong options need not wait for
    from cid_ray.scaling.concurrency_ladder import ConcurrencyLadder
    from cid_ray.scaling.training_ladder import TrainingLadder
    from cid_ray.scaling.worker_ladder import WorkerLadder

    resumed = bool(args.resume)
    if args.kind == "workers":
        return WorkerLadder(config, run_dir, resumed, args.machine, args.profile)
    if args.kind == "concurrency":
        return ConcurrencyLadder(config, run_dir, resumed)
    return TrainingLadder(args.kind, config, run_dir, resumed)


def measure(ladder: Any, name: str, run_dir: RunDir, console: RunConsole) -> int:
    """Run a checked ladder and report it; returns the exit code."""
    resume = f"python -m cid_ray.scale {name} --resume {run_dir}"
    console.log(f"stop it any time, resume with: {resume}")
    try:
        with stop_signals(resume, console.log):
            records = ladder.measure(console.log, console.advance)
    except KeyboardInterrupt:
        console.log(f"interrupted; continue with: {resume}", always=True)
        return INTERRUPTED
    page = write_ladder_report(run_dir.local, records, lambda text: console.log(text, True))
    run_dir.push()
    console.log(f"wrote {page}", always=True)
    return parser.FAILED if failed_lines(records) else parser.DONE


def plan(args: Namespace) -> int:
    plan_options.check_options(args)
    from cid_ray.planning.plan_run import run_plan  # optuna and simpy take a second

    say("\n".join(run_plan(args, plan_options.overheads(args))))
    return parser.DONE


if __name__ == "__main__":
    parser.run_command(main)
