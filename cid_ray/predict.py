"""`python -m cid_ray.predict`: masks of a folder of images, a table or an object store.

Images of any size are predicted, larger ones by overlapping tiles. The command can be stopped at
any time: the same command continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from rich.progress import track

from cid_ray.cli import parser
from cid_ray.cli.console import RunConsole
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.predict_options import parse_arguments
from cid_ray.cli.printing import say
from cid_ray.cli.signals import INTERRUPTED, interrupt_on_sigterm, stop_signals
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.sources import open_table
from cid_ray.inference.inputs import list_inputs
from cid_ray.resources.ray_session import start_ray, stop_ray
from cid_ray.storage import paths

KINDS = ("overlay", "confidence", "probabilities")


def main(argv: list[str]) -> int:
    args = parse_arguments(argv, __doc__ or "")
    findings = Findings()
    if args.pseudo_labels:
        return pseudo_label(args)
    items = list_inputs(args.source, findings)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.image_parts import PredictOptions
    from cid_ray.inference.load import load_model
    from cid_ray.inference.prediction_run import PredictionRun, describe_run, settings_of
    from cid_ray.inference.ray_batch import WorkerSpec, predict_with_ray
    from cid_ray.inference.tta import Tta

    predictor = load_model(args.checkpoint, args.network, args.device)
    options = PredictOptions(Tta.parse(args.tta), args.tile, args.probabilities)
    kinds = frozenset(kind for kind in KINDS if getattr(args, kind))
    source = args.source if args.source == "demo" else str(paths.absolute(args.source))
    stated = {"source": source, "tta": args.tta, "tile": args.tile, "outputs": sorted(kinds)}
    run = PredictionRun(args.out, settings_of(predictor, stated))
    out, checkpoint = map(paths.absolute, (run.run_dir.uri, predictor.checkpoint.path))
    spec = WorkerSpec(checkpoint, args.network, args.device, out, kinds, options)
    with run, RunConsole(run.run_dir.local, len(items), "image", args.verbosity) as console:
        for line in [*predictor.describe(), *findings.describe()]:
            console.log(line)
        todo = run.todo(items)
        if len(todo) < len(items):
            console.log(f"{len(items) - len(todo)} of {len(items)} images are there already")
        progress = ItemProgress(console, len(items) - len(todo), len(items))
        try:
            with stop_signals("the same command", console.log):
                if args.workers:
                    start_ray(verbose=args.verbosity > parser.NORMAL)
                    records = predict_with_ray(todo, spec, args.workers)
                else:
                    records = spec.open().predict(todo)
                for record in records:
                    run.append(record)
                    progress.add()
        except KeyboardInterrupt:
            console.log("interrupted; the same command continues", always=True)
            return INTERRUPTED
        finally:
            stop_ray()
        done = [run.done[item.name] for item in items]
        for line in describe_run(done, predictor.classes):
            console.log(line, always=True)
        console.log(
            f"wrote {run.run_dir}: predictions.jsonl, masks; {progress.speed()}", always=True
        )
        return 0 if any(record["event"] == "prediction" for record in done) else parser.FAILED


def pseudo_label(args: argparse.Namespace) -> int:
    """Write a table for the second round of self-training."""
    from cid_ray.inference.image_parts import PredictOptions
    from cid_ray.inference.load import load_model
    from cid_ray.inference.pseudo_labels import write_pseudo_labels
    from cid_ray.inference.tta import Tta

    predictor = load_model(args.checkpoint, args.network, args.device)
    options = PredictOptions(Tta.parse(args.tta), args.tile)

    def progress(rows: Iterable[int], total: int) -> Iterable[int]:
        return track(rows, "predicting", total, transient=True)

    with interrupt_on_sigterm():
        counts = write_pseudo_labels(
            predictor,
            open_table(args.source),
            Path(args.out),
            args.min_confidence,
            options,
            progress,
        )
    train = f"python -m cid_ray.train --set data.table={args.out} --set data.ratio=1/1"
    say("\n".join([*predictor.describe(), *counts.describe(), f"wrote {args.out}; next: {train}"]))
    return 0


if __name__ == "__main__":
    parser.run_command(main)
