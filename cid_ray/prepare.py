"""`python -m cid_ray.prepare`: images and masks -> an audited table that every other command takes as `data.table`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import track

from cid_ray import cli
from cid_ray.config import Data, InputError

EXAMPLES = """
  python -m cid_ray.prepare camvid DIR --out tables/camvid
  python -m cid_ray.prepare folder --images DIR --masks DIR --unlabeled DIR --classes names.txt --out tables/mine
  python -m cid_ray.prepare split tables/camvid --ratio 1/8 --draw 0 --out splits/1_8
"""


def main(argv: list[str]) -> int:
    options = cli.parser("prepare", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", metavar="{camvid,folder,split}", required=True)

    camvid = kinds.add_parser("camvid", help="images/{train,val,test}, masks/{train,val,test}, classes.txt")
    camvid.add_argument("root", metavar="DIR", type=Path)
    add_import_options(camvid)

    folder = kinds.add_parser("folder", help="plain folders of images and masks of the same names")
    folder.add_argument("--images", type=Path, required=True, metavar="DIR", help="labeled training images")
    folder.add_argument("--masks", type=Path, required=True, metavar="DIR", help="their masks: one id per pixel")
    folder.add_argument(
        "--unlabeled",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="images without masks; may be repeated",
    )
    for split in ("val", "test"):
        folder.add_argument(f"--{split}-images", type=Path, metavar="DIR")
        folder.add_argument(f"--{split}-masks", type=Path, metavar="DIR")
    folder.add_argument("--classes", type=Path, metavar="FILE", help="a class a line: name, optionally `r g b`")
    folder.add_argument("--group", metavar="REGEX", help="its first group, found in the name, is the image's group")
    add_import_options(folder)

    draw = kinds.add_parser("split", help="a label draw as manifest.json, labeled.txt and unlabeled.txt")
    draw.add_argument("table", metavar="TABLE")
    draw.add_argument("--ratio", default="1/8")
    draw.add_argument("--draw", type=int, default=0)
    draw.add_argument("--label-from", choices=("any", "each_group", "one_group"), default="any")
    draw.add_argument("--out", type=Path, required=True, metavar="DIR")

    args = options.parse_args(argv)
    if args.kind == "split":
        return make_split_files(args)
    return import_images(args)


def add_import_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--out", type=Path, required=True, metavar="TABLE", help="the folder to make")
    options.add_argument("--map", action="append", default=[], metavar="OLD=NEW", help="renumber mask ids, e.g. 11=255")
    options.add_argument("--ignore-index", type=int, default=255, help="the mask id that means `no label` (255)")
    options.add_argument("--skip-bad", action="store_true", help="leave out bad files; they are named and counted")


def import_images(args: argparse.Namespace) -> int:
    from cid_ray.data import convert

    mapping = dict(parse_mapping(text) for text in args.map)
    if (args.out / "meta.json").exists():
        raise InputError(f"--out {args.out} already holds a table; choose another folder or remove it")
    if args.out.is_file():
        raise InputError(f"--out {args.out} is a file, must be a folder to make")
    if not 0 <= args.ignore_index <= 255:
        raise InputError(f"--ignore-index is {args.ignore_index}, must be a mask id from 0 to 255")
    if args.kind == "camvid":
        entries, classes = convert.camvid(args.root)
    else:
        entries = convert.folder(args.images, args.masks, args.unlabeled, held_out_folders(args), args.group)
        known = args.classes is not None
        classes = (
            convert.read_classes(args.classes) if known else convert.guess_classes(entries, mapping, args.ignore_index)
        )
        if "val" not in held_out_folders(args):
            held = sum(e.split == "val" for e in entries)
            print(f"no --val-images: every fifth labeled image is held out as val ({held})")

    def bar(rows: Iterable[Any], total: int) -> Iterable[Any]:
        return track(rows, description="reading", total=total, transient=True)

    built = convert.build(
        entries, classes, args.out, mapping=mapping, ignore_index=args.ignore_index, skip_bad=args.skip_bad, track=bar
    )
    describe(built, args.out)
    return 0


def held_out_folders(args: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    found = {}
    for split in ("val", "test"):
        images, masks = getattr(args, f"{split}_images"), getattr(args, f"{split}_masks")
        if (images is None) != (masks is None):
            raise InputError(f"--{split}-images and --{split}-masks belong together; one of them is missing")
        if images is not None:
            found[split] = (images, masks)
    return found


def parse_mapping(text: str) -> tuple[int, int]:
    old, sign, new = text.partition("=")
    if not sign or not old.isdigit() or not new.isdigit() or max(int(old), int(new)) > 255:
        raise InputError(f"--map {text!r} must look like OLD=NEW with ids from 0 to 255, e.g. --map 11=255")
    return int(old), int(new)


def describe(built: Any, out: Path) -> None:
    table = built.table
    for split in ("train", "val", "test"):
        rows = table.rows(split)
        masks = int(table.labeled[rows].sum())
        print(f"{split}: {len(rows)} images, {masks} with masks, {len(rows) - masks} unlabeled")
    print(f"{table.num_classes} classes: {', '.join(table.classes)}; ignore_index {table.ignore_index}")
    for skipped in built.skipped:
        print(f"left out: {skipped}")
    for warning in built.warnings:
        print(f"warning: {warning}")
    print(f"wrote {out} (fingerprint {table.fingerprint}); use it with --set data.table={out}")


def make_split_files(args: argparse.Namespace) -> int:
    from cid_ray.config import override
    from cid_ray.data.splits import make_split, write_split
    from cid_ray.data.table import open_table

    chosen = {"data.ratio": args.ratio, "data.draw": args.draw, "data.label_from": args.label_from}
    data: Data = override({}, {**chosen, "data.table": args.table}).data
    table = open_table(data.table)
    split = make_split(table, data)
    write_split(table, split, args.out)
    groups = ", ".join(f"{name or '(none)'} {count}" for name, count in split.manifest["groups"].items())
    print(f"{split.name} labeled, {len(split.pool)} in the pool; groups: {groups}; id {split.split_id}")
    if split.manifest["classes_without_label"]:
        print(f"warning: no labeled pixel of {', '.join(split.manifest['classes_without_label'])}")
    print(f"wrote {args.out}: manifest.json, labeled.txt, unlabeled.txt")
    return 0


if __name__ == "__main__":
    cli.run(main)
