"""`python -m cid_ray.prepare`: images and masks -> an audited table, which `data.table` names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import track

from cid_ray.cli.parser import Parser, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.config import build_config
from cid_ray.data.importers import ImportResult, import_camvid, import_folders
from cid_ray.data.importers.classes import parse_mapping
from cid_ray.data.sources import open_table
from cid_ray.data.splits import make_split, write_split

EXAMPLES = """
  python -m cid_ray.prepare camvid DIR --out tables/camvid
  python -m cid_ray.prepare folder --images DIR --masks DIR --unlabeled DIR \\
      --classes names.txt --out tables/mine
  python -m cid_ray.prepare split tables/camvid --ratio 1/8 --draw 0 --out splits/1_8
"""
DIR: dict[str, Any] = {"type": Path, "metavar": "DIR"}


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
    kinds = parser.add_subparsers(dest="kind", metavar="{camvid,folder,split}", required=True)

    layout = "images/{train,val,test}, masks/{train,val,test}, classes.txt"
    camvid: Parser = kinds.add_parser("camvid", help=layout)
    camvid.add_argument("root", **DIR)

    folder: Parser = kinds.add_parser("folder", help="folders of images and masks of equal names")
    folder.add_argument("--images", **DIR, required=True, help="labeled training images")
    folder.add_argument("--masks", **DIR, required=True, help="their masks: one id per pixel")
    unlabeled = "images without masks; may be repeated"
    folder.add_argument("--unlabeled", **DIR, action="append", default=[], help=unlabeled)
    for name in ("val", "test"):
        folder.add_argument(f"--{name}-images", **DIR)
        folder.add_argument(f"--{name}-masks", **DIR)
    folder.add_argument("--classes", type=Path, metavar="FILE", help="a class a line: name [r g b]")
    group = "its first group, found in the name, is the image's group"
    folder.add_argument("--group", metavar="REGEX", help=group)

    for kind in (camvid, folder):
        kind.add_argument("--out", type=Path, required=True, metavar="TABLE", help="folder to make")
        renumber = "renumber mask ids, e.g. 11=255; may be repeated"
        kind.add_argument("--map", action="append", default=[], metavar="OLD=NEW", help=renumber)
        kind.add_argument("--ignore-index", type=int, default=255, help="id of `no label` (255)")
        kind.add_argument("--skip-bad", action="store_true", help="leave out bad files, name them")

    split: Parser = kinds.add_parser("split", help="a label draw as UniMatch's split files")
    split.add_argument("table", metavar="TABLE")
    split.add_argument("--ratio", default="1/8")
    split.add_argument("--draw", type=int, default=0)
    split.add_argument("--label-from", choices=("any", "each_group", "one_group"), default="any")
    split.add_argument("--out", **DIR, required=True)
    return parser.parse_args(argv)


def import_images(args: argparse.Namespace) -> ImportResult:
    common: dict[str, Any] = {
        "mapping": parse_mapping(args.map),
        "ignore_index": args.ignore_index,
        "skip_bad": args.skip_bad,
        "progress": lambda files, total: track(files, "reading", total, transient=True),
    }
    if args.kind == "camvid":
        return import_camvid(args.root, args.out, **common)
    held_out = ("val_images", "val_masks", "test_images", "test_masks")
    names = ("images", "masks", "out", "unlabeled", "classes", "group", *held_out)
    return import_folders(**{name: getattr(args, name) for name in names}, **common)


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
