"""The options of `prepare`: those of all formats, the `ImportOptions` that they mean, and those of
its commands for a table.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cid_ray.data.ingest.classes import parse_mapping
from cid_ray.data.ingest.options import ImportOptions, Progress, parse_bands
from cid_ray.data.table_writer import AUDIT_FILE

TABLE_COMMANDS = ("audit", "split", "merge")  # of `prepare`, besides the formats
UNSET: tuple[Any, ...] = (None, False, [])  # values of options that were not given


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of one format."""
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE", help="folder to make")
    renumber = "renumber mask ids, e.g. 11=255; may be repeated"
    parser.add_argument("--map", action="append", default=[], metavar="OLD=NEW", help=renumber)
    first = "mask id of the first class (0); lower ids mean no label"
    parser.add_argument("--first-id", type=int, default=0, help=first)
    parser.add_argument("--ignore-index", type=int, default=255, help="id of `no label` (255)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out bad files, name them")
    unmatched = "pixels whose colour is of no class: an error from 0.1 %% on, or ignored"
    parser.add_argument("--unmatched", choices=("error", "ignore"), default="error", help=unmatched)
    blurred = "masks that look resized with interpolation: an error, or kept"
    parser.add_argument("--blurred", choices=("error", "keep"), default="error", help=blurred)
    near = "pool images that look like a labeled image: left out, or kept"
    choices = ("remove", "keep")
    parser.add_argument("--near-duplicates", choices=choices, default="remove", help=near)
    window = "values that become black and white in images of more than 8 bits"
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help=window)
    bands = "bands to keep, counted from 1, in this order: 4,3,2"
    parser.add_argument("--bands", metavar="N,N,...", help=bands)
    side = "cut larger images into tiles of SIZE x SIZE pixels"
    parser.add_argument("--tile", type=int, metavar="SIZE", help=side)
    shared = "pixels that neighbouring tiles share (0)"
    parser.add_argument("--overlap", type=int, default=0, metavar="N", help=shared)


def add_table_commands(kinds: Any) -> None:
    """Add the parsers of what `prepare` does with a table: audit, split, merge."""
    audit = kinds.add_parser("audit", help="the page about a table, made again")
    audit.add_argument("table", metavar="TABLE")
    audit.add_argument("--out", metavar="FILE", help=f"default TABLE/{AUDIT_FILE}")

    split = kinds.add_parser("split", help="a label draw as UniMatch's split files")
    split.add_argument("table", metavar="TABLE")
    split.add_argument("--ratio", default="1/8")
    split.add_argument("--draw", type=int, default=0)
    split.add_argument("--label-from", choices=("any", "each_group", "one_group"), default="any")
    split.add_argument("--out", type=Path, required=True, metavar="DIR")

    merge = kinds.add_parser("merge", help="a table with the labels of an annotator")
    merge.add_argument("table", metavar="TABLE")
    labels = "a table, CVAT's export `Segmentation mask 1.1`, or labelme's files"
    merge.add_argument("--labels", type=Path, required=True, metavar="DIR", help=labels)
    merge.add_argument("--images", type=Path, metavar="DIR", help="if the export has none")
    merge.add_argument("--classes", type=Path, metavar="FILE", help="of labelme's labels")
    merge.add_argument("--out", type=Path, required=True, metavar="TABLE", help="folder to make")


def import_options(args: argparse.Namespace, version: str, progress: Progress) -> ImportOptions:
    """What the parsed arguments mean.

    Args:
        args: of a parser with `add_import_options`; `kind` is the format.
        version: of cid_ray, for `meta.json`.
        progress: wraps the files that are read.

    Raises:
        InputError: a value breaks its rule.
    """
    return ImportOptions(
        mapping=parse_mapping(args.map),
        first_id=args.first_id,
        ignore_index=args.ignore_index,
        skip_bad=args.skip_bad,
        unmatched=args.unmatched,
        blurred=args.blurred,
        near_duplicates=args.near_duplicates,
        window=args.window and tuple(args.window),
        bands=parse_bands(args.bands),
        tile=args.tile,
        overlap=args.overlap,
        provenance=_provenance(args, version),
        progress=progress,
    )


def _provenance(args: argparse.Namespace, version: str) -> dict[str, Any]:
    """Format, date, version and every argument: what `meta.json` keeps of the command."""
    given = {name: _plain(value) for name, value in vars(args).items() if value not in UNSET}
    return {
        "format": given.pop("kind"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cid_ray": version,
        **given,
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: paths become strings."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float) else str(value)
