"""`python -m cid_ray.predict`: masks of a folder of images, a table or an object store.

Images of any size are predicted, larger ones by overlapping tiles. The command can be stopped at
any time: the same command continues.
"""

from __future__ import annotations

import argparse

from cid_ray.cli import parser
from cid_ray.cli.console import RunConsole
from cid_ray.cli.item_progress import ItemProgress
from cid_ray.cli.signals import INTERRUPTED, stop_signals
from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.inference.inputs import list_inputs
from cid_ray.resources.ray_session import start_ray, stop_ray
from cid_ray.storage import paths

EXAMPLES = """
  python -m cid_ray.predict runs/demo demo --out predictions/demo --overlay
  python -m cid_ray.predict runs/mine:1/16 photos --out predictions/photos --tta flip,scales
  python -m cid_ray.predict runs/mine/checkpoints/train/last.pt s3://bucket/photos \\
      --out s3://bucket/masks
"""
KINDS = ("overlay", "confidence", "probabilities")
MIN_TILE = 64


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    findings = Findings()
    items = list_inputs(args.source, findings)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.image_parts import PredictOptions
    from cid_ray.inference.load import load_model
    from cid_ray.inference.prediction_run import PredictionRun, describe_run, settings_of
    from cid_ray.inference.ray_batch import WorkerSpec, predict_with_ray
    from cid_ray.inference.tta import Tta

    predictor = load_model(args.checkpoint, args.network, args.device)
    options = PredictOptions(Tta.parse(args.tta), args.tile)
    kinds = frozenset(kind for kind in KINDS if getattr(args, kind))
    stated = {"tta": args.tta, "tile": args.tile, "outputs": sorted(kinds)}
    run = PredictionRun(args.out, settings_of(predictor, stated))
    out = paths.absolute(run.run_dir.uri)
    checkpoint = paths.absolute(predictor.located.path)
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


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    options = parser.make_parser("predict", __doc__ or "", EXAMPLES)
    add = options.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="last.pt, RUN, RUN:RATIO or RUN:TRIAL")
    add("source", metavar="SOURCE", help="image, folder, table, demo, or s3://bucket/folder")
    add("--out", required=True, metavar="DIR", help="folder for the masks, or s3://bucket/folder")
    add("--overlay", action="store_true", help="also images with the classes' colours on them")
    add("--confidence", action="store_true", help="also 16-bit PNG files: 65535 is certain")
    add("--probabilities", action="store_true", help="also .npz files, float16 [K, H, W]")
    add("--tta", default="", metavar="flip,scales", help="mean over flips, scales or both")
    add("--tile", type=int, metavar="SIZE", help="tiles of larger images (default 1024)")
    add("--workers", type=int, default=0, metavar="N", help="up to N processes, by Ray Data")
    add("--network", choices=("teacher", "student"), default="teacher")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_verbosity_options(options)
    args = options.parse_args(argv)
    if args.tile is not None and args.tile < MIN_TILE:
        raise InputError(f"--tile is {args.tile}, must be at least {MIN_TILE} pixels")
    if args.workers < 0:
        raise InputError(f"--workers is {args.workers}, must be 0 (this process) or more")
    return args


if __name__ == "__main__":
    parser.run_command(main)
