"""`python -m cid_ray.export`: a trained network as a file for other programs, compared with torch.

The file takes images u8[B, C, H, W] as they are. Normalisation, padding and cropping are inside.
FILE.json is its card: classes, colors, input, outputs, scores, checksum.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cid_ray.cli.parser import DONE, FAILED, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.config import InputError
from cid_ray.inference.export_kinds import KINDS, check_installed
from cid_ray.storage import paths

if TYPE_CHECKING:
    from cid_ray.inference.predictor import Predictor

EXAMPLES = """
  python -m cid_ray.export runs/mine --format onnx --out mine.onnx
  python -m cid_ray.export runs/demo:1/8 --format onnx --output logits --size 360 480
  python -m cid_ray.export runs/mine/checkpoints/train/best.pt --format safetensors
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    check_installed(args.format)
    if args.out:
        check_out(args.out, args.overwrite)
    # Imported late: torch takes seconds, which `--help` and wrong options need not wait for.
    from cid_ray.inference.export_model import ExportError, export_model
    from cid_ray.inference.load import load_model

    predictor = load_model(args.checkpoint, args.network, device="cpu")
    out = args.out or default_out(predictor, args.format)
    check_out(out, args.overwrite)
    say("\n".join(predictor.describe()))
    size = tuple(args.size) if args.size else None
    try:
        exported = export_model(predictor, args.format, args.output or "ids", size)
    except ExportError as error:
        say(f"failed: {error}; nothing was written", error=True)
        return FAILED
    for line in (*exported.notes, exported.parity.describe()):
        say(line)
    try:
        card = exported.write(out)
    except OSError as error:
        raise paths.unwritable(f"--out {out}", error) from None
    say(f"wrote {out} ({len(exported.content) / 1e6:.1f} MB) and {card}")
    return DONE


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("export", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a checkpoint (.../last.pt), a run folder RUN, RUN:RATIO or RUN:TRIAL",
    )
    parser.add_argument("--format", choices=list(KINDS), required=True)
    parser.add_argument("--out", metavar="FILE", help="default: the run's name and the suffix")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    parser.add_argument(
        "--network",
        choices=("teacher", "student"),
        default="teacher",
        help="the moving average of the weights (default), or the weights",
    )
    parser.add_argument(
        "--output",
        choices=("ids", "logits"),
        help="ids (default): classes u8[B, H, W] and confidence f32[B, H, W]; "
        "logits: f32[B, K, H, W]",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="of the example, and of all images where height and width are fixed; "
        "default data.image_size, else 512 512",
    )
    args = parser.parse_args(argv)
    if args.output == "ids" and not KINDS[args.format].is_graph:
        raise InputError(f"--output ids: a {args.format} file holds weights and has no outputs")
    return args


def default_out(predictor: Predictor, kind: str) -> str:
    """NAME.onnx: the name of the run, else of the checkpoint's file."""
    checkpoint = predictor.checkpoint
    name = checkpoint.final.get("run") or Path(str(checkpoint.path)).stem
    return f"{name}{KINDS[kind].suffix}"


def check_out(out: str, overwrite: bool) -> None:
    """Raise InputError when --out or its card exists."""
    for name in () if overwrite else (out, f"{out}.json"):
        if paths.exists(name):
            raise InputError(f"--out {out}: {name} exists; choose another or add --overwrite")


if __name__ == "__main__":
    run_command(main)
