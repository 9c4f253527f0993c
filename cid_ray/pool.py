"""`python -m cid_ray.pool`: what is in the pool of a run, and which of its images to leave out.

It looks for images unlike the labels, near-duplicates, classes that the pool lacks, and outliers
in brightness, contrast and size. The result is kept in the run folder, and the report shows it.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds

import argparse
import time

from cid_ray.cli import parser
from cid_ray.cli.console import RunConsole
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import InputError
from cid_ray.data.sources import open_table
from cid_ray.results.pool_section import describe_pool
from cid_ray.results.records import RecordWriter
from cid_ray.storage.run_dir import RunDir

EXAMPLES = """
  python -m cid_ray.pool runs/demo
  python -m cid_ray.pool runs/mine:1/16 --table tables/new-photos --max-images 2000
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.load import load_model
    from cid_ray.inference.pool_survey import PoolSurvey, open_tables
    from cid_ray.results.chosen_run import split_choice

    if args.run.endswith(".pt"):
        raise InputError(f"{args.run} is no run folder; give RUN, RUN:RATIO or RUN:TRIAL")
    predictor = load_model(args.run, "teacher", args.device)
    own, pool_table = open_tables(predictor, open_table(args.table) if args.table else None)
    survey = PoolSurvey(predictor, own, pool_table, args.max_images)
    total = len(survey.items)
    with RunDir(split_choice(args.run)[0]) as run_dir:
        run_dir.pull()
        run_dir.lock()
        with RunConsole(run_dir.local, total, "image", args.verbosity) as console:
            for line in predictor.describe():
                console.log(line)
            progress = ItemProgress(console, 0, total)
            try:
                with stop_signals("the same command", console.log):
                    for item in survey.items:
                        survey.look(item)
                        progress.add()
                    record = survey.write(survey.findings(), run_dir.local, time.time())
            except KeyboardInterrupt:
                console.log("interrupted; nothing is written", always=True)
                return INTERRUPTED
            RecordWriter(run_dir.local).append({**record})
            run_dir.push()
            for line in describe_pool({**record}, run_dir.uri):
                console.log(line, always=True)
            files = "images.csv, leave_out.txt, images"
            console.log(f"wrote {run_dir}/pool: {files}", always=True)
            console.log(f"python -m cid_ray.report {run_dir} shows it on a page", always=True)
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    options = parser.make_parser("pool", __doc__ or "", EXAMPLES)
    add = options.add_argument
    add("run", metavar="RUN", help="RUN, RUN:RATIO or RUN:TRIAL; its teacher looks at the pool")
    add("--table", metavar="TABLE", help="whose pool; default: the run's own")
    text = "of the pool, evenly spaced (default 500)"
    add("--max-images", type=int, default=500, metavar="N", help=text)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_verbosity_options(options)
    args = options.parse_args(argv)
    if args.max_images < 1:
        raise InputError(f"--max-images is {args.max_images}, must be at least 1")
    return args


if __name__ == "__main__":
    parser.run_command(main)
