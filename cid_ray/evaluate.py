"""`python -m cid_ray.evaluate`: score a trained network on the labeled images of a table.

mIoU is the number that `train` and `tune` record. Besides: scores of each class and image,
boundaries, confusions, calibration, and a page with the worst images.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cid_ray.cli.signals import exit_on_signals

    exit_on_signals()  # the imports below take seconds; files are written as a whole, at the end

import argparse
import threading
from typing import TYPE_CHECKING

from cid_ray.cli.console import RunConsole
from cid_ray.cli.evaluate_options import parse_arguments
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.parser import run_command
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import InputError

if TYPE_CHECKING:
    from cid_ray.inference.evaluation import Evaluation
    from cid_ray.inference.evaluation_resume import PartialEvaluation


def main(argv: list[str]) -> int:
    args = parse_arguments(argv, __doc__ or "")
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.evaluation_files import (
        RESULT_FILES,
        evaluation_folder,
        make_folder,
        write_evaluation,
    )
    from cid_ray.inference.evaluation_resume import PartialEvaluation
    from cid_ray.inference.worst_images import draw_worst_images
    from cid_ray.results.evaluation_text import describe_evaluation

    evaluation = open_evaluation(args)
    folder = evaluation_folder(args.out, evaluation.networks[0].predictor.checkpoint.path)
    make_folder(folder)
    with RunConsole(folder, len(evaluation.rows), "image", args.verbosity) as console:
        partial = PartialEvaluation(evaluation, folder)
        if not run(partial, console, f"the same command with --out {folder}"):
            return INTERRUPTED
        report = evaluation.report()
        write_evaluation(report, draw_worst_images(evaluation), folder)
        partial.remove()
        for line in describe_evaluation(report):
            console.log(line, always=True)
        console.log(f"wrote {folder}: {', '.join(RESULT_FILES)}", always=True)
    return 0


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
    predictor = load_model(args.checkpoint, args.network, args.device)
    other = load_model(args.compare, args.network, args.device) if args.compare else None
    try:
        table = open_table(args.table or predictor.config.data.table)
    except InputError as error:
        hint = "" if args.table else "; the network was trained on it: name a table with --table"
        raise InputError(f"{error}{hint}") from None
    return Evaluation(predictor, table, options, other)


def run(partial: PartialEvaluation, console: RunConsole, resume: str) -> bool:
    """Score the images that are left, with progress; False if Ctrl-C has stopped it."""
    progress = ItemProgress(console, partial.evaluation.done, len(partial.evaluation.rows))
    stopped = threading.Event()
    with stop_signals(resume, console.log, stopped.set):
        for line in partial.evaluation.messages:
            console.log(line, always=line.startswith("warning"))
        if partial.message:
            console.log(partial.message, always=True)
        for _ in partial.run(stopped.is_set):
            progress.add()
    if stopped.is_set():
        console.log(f"interrupted; {resume} continues", always=True)
    return not stopped.is_set()


if __name__ == "__main__":
    run_command(main)
