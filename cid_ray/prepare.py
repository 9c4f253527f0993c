"""`python -m cid_ray.prepare`: images and masks -> an audited table, which `data.table` names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import track

from cid_ray import __version__
from cid_ray.cli.parser import Parser, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.cli.signals import interrupt_on_sigterm
from cid_ray.config import InputError, build_config
from cid_ray.data.contact_sheet import make_contact_sheet
from cid_ray.data.importers import FORMATS
from cid_ray.data.importers.annotations import merge_annotations
from cid_ray.data.ingest import ImportResult, check_output, write_table
from cid_ray.data.ingest.command_options import (
    TABLE_COMMANDS,
    add_import_options,
    add_table_commands,
    import_options,
)
from cid_ray.data.sources import open_table
from cid_ray.data.splits import make_split, write_split
from cid_ray.data.table import Table
from cid_ray.data.table_summary import summarize_table
from cid_ray.data.table_writer import AUDIT_FILE
from cid_ray.storage import paths

EXAMPLES = """
  python -m cid_ray.prepare camvid DIR --out tables/camvid
  python -m cid_ray.prepare folder --images DIR --masks DIR --unlabeled DIR \\
      --classes names.txt --out tables/mine
  python -m cid_ray.prepare audit tables/mine
  python -m cid_ray.prepare merge tables/mine --labels DIR --out tables/round-two
  python -m cid_ray.prepare split tables/camvid --ratio 1/8 --draw 0 --out splits/1_8
"""


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    if args.kind == "split":
        say("\n".join(write_split_files(args)))
    elif args.kind == "audit":
        say(f"wrote {write_audit(open_table(args.table), args.out)}")
    elif args.kind == "merge":
        with interrupt_on_sigterm():
            say("\n".join(merge_annotations(args)))
    else:
        with interrupt_on_sigterm():
            result = import_images(args)
        wrote = f"wrote {args.out} (fingerprint {result.table.fingerprint})"
        # Said first: the table is complete, whatever happens to its page.
        say("\n".join([*result.describe(), f"{wrote}; use it with --set data.table={args.out}"]))
        say(f"look at it before you train: {write_audit(result.table)}")
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("prepare", __doc__ or "", EXAMPLES)
    names = ",".join([*FORMATS, *TABLE_COMMANDS])
    kinds = parser.add_subparsers(dest="kind", metavar=f"{{{names}}}", required=True)
    for name, known in FORMATS.items():
        kind: Parser = kinds.add_parser(name, help=known.help, description=known.help)
        for argument in known.arguments:
            argument.add_to(kind)
        add_import_options(kind)

    add_table_commands(kinds)
    return parser.parse_args(argv)


def import_images(args: argparse.Namespace) -> ImportResult:
    def progress(files: Iterable[Any], total: int) -> Iterable[Any]:
        return track(files, "reading", total, transient=True)

    check_output(args.out)
    options = import_options(args, __version__, progress)
    return write_table(FORMATS[args.kind].list(args), args.out, options)


def write_audit(table: Table, out: str | None = None) -> paths.PathOrUri:
    """Write the audit page of a table and return its file, by default in the table's folder."""
    from cid_ray.results.audit_page import write_audit_page  # pages need a third of a second

    if out is None and paths.is_remote(table.folder):
        raise InputError(f"{table.folder} is not on this machine; name a file with --out FILE")
    file = paths.join(table.folder, AUDIT_FILE) if out is None else Path(out)
    summary = summarize_table(table)
    sheet = make_contact_sheet(table, summary.notes.near_duplicates)
    write_audit_page(summary, sheet, file)
    return file


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
