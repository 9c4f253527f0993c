"""`python -m cid_ray.prepare`: images and masks -> an audited table, which `data.table` names."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import track

from cid_ray.cli.parser import Parser, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.config import build_config
from cid_ray.data.importers import FORMATS
from cid_ray.data.ingest import ImportOptions, ImportResult, check_output, write_table
from cid_ray.data.ingest.classes import parse_mapping
from cid_ray.data.ingest.options import parse_bands
from cid_ray.data.sources import open_table
from cid_ray.data.splits import make_split, write_split

EXAMPLES = """
  python -m cid_ray.prepare camvid DIR --out tables/camvid
  python -m cid_ray.prepare folder --images DIR --masks DIR --unlabeled DIR \\
      --classes names.txt --out tables/mine
  python -m cid_ray.prepare split tables/camvid --ratio 1/8 --draw 0 --out splits/1_8
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    if args.kind == "split":
        lines = write_split_files(args)
    else:
        result = import_images(args)
        wrote = f"wrote {args.out} (fingerprint {result.table.fingerprint})"
        lines = [*result.describe(), f"{wrote}; use it with --set data.table={args.out}"]
    say("\n".join(lines))
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("prepare", __doc__ or "", EXAMPLES)
    names = ",".join([*FORMATS, "split"])
    kinds = parser.add_subparsers(dest="kind", metavar=f"{{{names}}}", required=True)
    for name, known in FORMATS.items():
        kind: Parser = kinds.add_parser(name, help=known.help, description=known.help)
        for argument in known.arguments:
            argument.add_to(kind)
        add_import_options(kind)

    split: Parser = kinds.add_parser("split", help="a label draw as UniMatch's split files")
    split.add_argument("table", metavar="TABLE")
    split.add_argument("--ratio", default="1/8")
    split.add_argument("--draw", type=int, default=0)
    split.add_argument("--label-from", choices=("any", "each_group", "one_group"), default="any")
    split.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def add_import_options(parser: Parser) -> None:
    """The options that all formats share, `ImportOptions`."""
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE", help="folder to make")
    renumber = "renumber mask ids, e.g. 11=255; may be repeated"
    parser.add_argument("--map", action="append", default=[], metavar="OLD=NEW", help=renumber)
    parser.add_argument("--ignore-index", type=int, default=255, help="id of `no label` (255)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out bad files, name them")
    unmatched = "pixels whose colour is of no class: an error from 0.1 %% on, or ignored"
    parser.add_argument("--unmatched", choices=("error", "ignore"), default="error", help=unmatched)
    window = "values that become black and white in images of more than 8 bits"
    low_high = ("LOW", "HIGH")
    parser.add_argument("--window", type=float, nargs=2, metavar=low_high, help=window)
    near = "pool images that look like a held-out image"
    choices = ("remove", "keep")
    parser.add_argument("--near-duplicates", choices=choices, default="remove", help=near)
    bands = "bands to keep, counted from 1, in this order: 4,3,2"
    parser.add_argument("--bands", metavar="N,N,...", help=bands)


def import_images(args: argparse.Namespace) -> ImportResult:
    check_output(args.out)
    options = ImportOptions(
        mapping=parse_mapping(args.map),
        ignore_index=args.ignore_index,
        skip_bad=args.skip_bad,
        unmatched=args.unmatched,
        near_duplicates=args.near_duplicates,
        bands=parse_bands(args.bands),
        window=args.window and tuple(args.window),
        progress=lambda files, total: track(files, "reading", total, transient=True),
    )
    return write_table(FORMATS[args.kind].list(args), args.out, options)


def write_split_files(args: argparse.Namespace) -> list[str]:
    keys = ("table", "ratio", "draw", "label_from")
    changes = {f"data.{key}": getattr(args, key) for key in keys}
    data = build_config({}, changes).data
    table = open_table(data.table)
    split = make_split(table, data)
    write_split(table, split, args.out)
    return [*split.describe(), f"wrote {args.out}: manifest.json, labeled.txt, unlabeled.txt"]


if __name__ == "__main__":
    run_command(main)
