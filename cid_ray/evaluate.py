"""`python -m cid_ray.evaluate`: score a trained network on the labeled images of a table.

mIoU is the number that `train` and `tune` record. Besides: precision, recall, boundary F-score of
each class, confusions, calibration, mIoU of each image, and a page with the worst images.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds; files are written as a whole, at the end

import argparse
from typing import TYPE_CHECKING

from cid_ray.cli.console import RunConsole
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.parser import add_verbosity_options, make_parser, run_command
from cid_ray.config import InputError

if TYPE_CHECKING:
    from cid_ray.inference.evaluation import Evaluation

EXAMPLES = """
  python -m cid_ray.evaluate runs/demo
  python -m cid_ray.evaluate runs/demo:1/8 --split val --tta flip,scales --out evaluations/demo
  python -m cid_ray.evaluate runs/a --compare runs/b --table tables/mine
  python -m cid_ray.evaluate runs/a --table tables/other --map-classes auto=car tram=
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.evaluation_files import evaluation_folder, make_folder, write_evaluation
    from cid_ray.inference.worst_images import draw_worst_images
    from cid_ray.results.evaluation_text import describe_evaluation

    evaluation = open_evaluation(args)
    folder = evaluation_folder(args.out, evaluation.networks[0].predictor.checkpoint.path)
    make_folder(folder)
    with RunConsole(folder, len(evaluation.rows), "image", args.verbosity) as console:
        for line in evaluation.messages:
            console.log(line, always=line.startswith("warning"))
        run(evaluation, console)
        report = evaluation.report()
        write_evaluation(report, draw_worst_images(evaluation), folder)
        for line in describe_evaluation(report):
            console.log(line, always=True)
        files = "evaluation.html, evaluation.json, images.csv"
        console.log(f"wrote {folder}: {files}", always=True)
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("evaluate", __doc__ or "", EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a .pt file, RUN, RUN:RATIO or RUN:TRIAL")
    add("--table", metavar="TABLE", help="default: the table that the network was trained on")
    add("--split", choices=("val", "test"), default="test", help="default test; val without one")
    add("--network", choices=("teacher", "student"), default="teacher")
    add("--tta", metavar="flip,scales", default="", help="mean over mirror image and scales")
    add("--window", metavar="SIZE", type=int, help="sliding window; 0: whole images")
    add("--compare", metavar="OTHER", help="a second checkpoint, on the same images")
    help_map = "a class of the table and what the network calls it; `NAME=` leaves a class out"
    add("--map-classes", metavar="TABLE_NAME=MODEL_NAME", nargs="+", help=help_map)
    add("--out", metavar="DIR", help="default evaluations/NAME-TIME")
    add_verbosity_options(parser)
    return parser.parse_args(argv)


def open_evaluation(args: argparse.Namespace) -> Evaluation:
    """Load networks and table, and find every error that can be known before predicting."""
    from cid_ray.data.sources import open_table
    from cid_ray.inference.evaluation import EvalOptions, Evaluation
    from cid_ray.inference.evaluation_files import evaluation_folder
    from cid_ray.inference.load import load_model
    from cid_ray.inference.tta import Tta

    options = EvalOptions(args.split, Tta.parse(args.tta), args.window, args.map_classes)
    options.check()
    evaluation_folder(args.out, "")
    predictor = load_model(args.checkpoint, args.network)
    other = load_model(args.compare, args.network) if args.compare else None
    try:
        table = open_table(args.table or predictor.config.data.table)
    except InputError as error:
        hint = "" if args.table else "; the network was trained on it: name a table with --table"
        raise InputError(f"{error}{hint}") from None
    return Evaluation(predictor, table, options, other)


def run(evaluation: Evaluation, console: RunConsole) -> None:
    """Score all images, with a bar on a terminal and else a line now and then."""
    progress = ItemProgress(console, 0, len(evaluation.rows))
    for _ in evaluation.run():
        progress.add()


if __name__ == "__main__":
    run_command(main)
