"""The options of `predict`."""

from __future__ import annotations

import argparse

from cid_ray.cli import parser
from cid_ray.config import InputError

EXAMPLES = """
  python -m cid_ray.predict runs/demo demo --out predictions/demo --overlay
  python -m cid_ray.predict runs/mine:1/16 photos --out predictions/photos --tta flip,scales
  python -m cid_ray.predict runs/mine tables/mine --pseudo-labels --out tables/round-two
  python -m cid_ray.predict runs/mine/checkpoints/train/last.pt s3://bucket/photos \\
      --out s3://bucket/masks
"""
MIN_TILE = 64
MIN_CONFIDENCE = 0.9


def parse_arguments(argv: list[str], description: str) -> argparse.Namespace:
    """The options of `predict`, checked."""
    options = parser.make_parser("predict", description, EXAMPLES)
    add = options.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="last.pt, RUN, RUN:RATIO or RUN:TRIAL")
    add("source", metavar="SOURCE", help="image, folder, table, demo, or s3://bucket/folder")
    add("--out", required=True, metavar="DIR", help="folder for the masks, or s3://bucket/folder")
    add("--overlay", action="store_true", help="also images with the classes' colours on them")
    add("--confidence", action="store_true", help="also 16-bit PNG files: 65535 is certain")
    add("--probabilities", action="store_true", help="also .npz files, float16 [K, H, W]")
    add("--tta", default="", metavar="flip,scales", help="mean over flips, scales or both")
    add("--pseudo-labels", action="store_true", help="write a table for self-training instead")
    add("--min-confidence", type=float, metavar="C", help="of a pseudo-label (default 0.9)")
    add("--tile", type=int, metavar="SIZE", help="tiles of larger images (default 1024)")
    add("--workers", type=int, default=0, metavar="N", help="up to N processes, by Ray Data")
    add("--network", choices=("teacher", "student"), default="teacher")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_verbosity_options(options)
    args = options.parse_args(argv)
    if args.tile is not None and args.tile < MIN_TILE:
        raise InputError(f"--tile is {args.tile}, must be at least {MIN_TILE} pixels")
    if args.min_confidence is None:
        args.min_confidence = MIN_CONFIDENCE
    elif not args.pseudo_labels or not 0 <= args.min_confidence <= 1:
        raise InputError("--min-confidence must be 0 to 1, with --pseudo-labels")
    if args.workers < 0:
        raise InputError(f"--workers is {args.workers}, must be 0 (this process) or more")
    return args
