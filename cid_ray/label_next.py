"""`python -m cid_ray.label_next`: which images of the pool to label next.

Images are chosen that look like many of which the network is unsure, and that show classes which
the labels lack. An annotator gets them with the network's masks, for CVAT and for labelme.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds

import argparse
import shlex

from cid_ray.cli import parser
from cid_ray.cli.console import RunConsole
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import InputError
from cid_ray.data.sources import open_table
from cid_ray.inference.choose_images import STRATEGIES
from cid_ray.results.next_page import describe_choice, write_next_page
from cid_ray.storage import paths

EXAMPLES = """
  python -m cid_ray.label_next runs/demo --count 20 --out labels/demo
  python -m cid_ray.label_next runs/mine:1/16 --pool tables/mine --count 50 --out labels/round-two
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.load import load_model
    from cid_ray.inference.next_labels import POOL_FILE, NextLabels
    from cid_ray.inference.prediction_run import PredictionRun, settings_of

    predictor = load_model(args.checkpoint, args.network, args.device)
    table = open_table(args.pool or predictor.config.data.table)
    chooser = NextLabels(predictor, table, args.count, args.by, args.seed)
    settings = settings_of(predictor, chooser.settings)
    run = PredictionRun(args.out, settings, POOL_FILE)
    total = len(chooser.items)
    with run, RunConsole(run.run_dir.local, total, "image", args.verbosity) as console:
        for line in predictor.describe():
            console.log(line)
        todo = run.todo(chooser.items)
        progress = ItemProgress(console, total - len(todo), total)
        try:
            with stop_signals("the same command", console.log):
                for item in todo:
                    run.append(chooser.score(item))
                    progress.add()
                report = chooser.choose(run)
                folder = run.run_dir.local
                images = list(chooser.draw(report, folder))
        except KeyboardInterrupt:
            console.log("interrupted; the same command continues", always=True)
            return INTERRUPTED
        merge = f"python -m cid_ray.prepare merge {shlex.quote(str(table.folder))}"
        merge += f" --labels {shlex.quote(str(folder / 'images'))} --out NEW_TABLE"
        problem = {"cvat_problem": chooser.message}
        written = {**settings, **report.to_json(), **problem, "merge_command": merge}
        report.write(folder, written)
        write_next_page(written, images, table.colors, folder)
        for line in describe_choice(written):
            console.log(line, always=True)
        files = "next.html, next.csv, next.json, images" + (
            "" if chooser.message else ", cvat.zip, cvat_labels.json"
        )
        console.log(f"wrote {run.run_dir}: {files}; after the correction: {merge}", always=True)
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    options = parser.make_parser("label_next", __doc__ or "", EXAMPLES)
    add = options.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="last.pt, RUN, RUN:RATIO or RUN:TRIAL")
    add("--pool", metavar="TABLE", help="default: the table that the network was trained on")
    add("--count", type=int, default=50, metavar="N", help="images to choose (default 50)")
    add("--out", required=True, metavar="DIR", help="folder for what an annotator needs")
    add("--by", choices=STRATEGIES, default="combined", help="how images are chosen")
    add("--seed", type=int, default=0, metavar="N", help="of the choice (default 0)")
    add("--network", choices=("teacher", "student"), default="teacher")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_verbosity_options(options)
    args = options.parse_args(argv)
    if args.count < 1:
        raise InputError(f"--count is {args.count}, must be at least 1")
    if paths.is_remote(args.out):
        raise InputError(f"--out {args.out} must be a folder on this machine")
    return args


if __name__ == "__main__":
    parser.run_command(main)
