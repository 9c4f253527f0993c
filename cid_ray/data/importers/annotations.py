"""`prepare merge`: what an annotator sends back, a table, an export of CVAT or labelme's files.

Other formats are imported by their own `prepare FORMAT` first; the result is a table.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.cvat import list_cvat
from cid_ray.data.importers.labelme import list_labelme
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.options import ImportOptions
from cid_ray.data.ingest.val_split import HELD_OUT
from cid_ray.data.ingest.write import ImportResult, check_output, write_table
from cid_ray.data.merge import merge_labels
from cid_ray.data.sources import open_table

CVAT_FILE = "labelmap.txt"


def merge_annotations(args: argparse.Namespace) -> list[str]:
    """Merge labels into a table.

    Args:
        args: `table`, `labels`, `images`, `classes` and `out` of `prepare merge`.

    Returns:
        Lines for a person.

    Raises:
        InputError: the labels cannot be imported, or do not fit the table.
    """
    table = open_table(args.table)
    check_output(args.out)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cid_ray-") as scratch:
        labels = args.labels
        if not (labels / "meta.json").is_file():
            labels = Path(scratch)
            imported = import_annotations(args.labels, args.images, args.classes, labels)
            lines = imported.findings.describe()
        counts = merge_labels(table, open_table(str(labels)), args.out, str(args.labels))
    wrote = f"wrote {args.out}; use it with --set data.table={args.out} --set data.ratio=1/1"
    return [*lines, *counts.describe(), wrote]


def import_annotations(
    folder: Path, images: Path | None, classes: Path | None, out: Path
) -> ImportResult:
    """Import the masks of CVAT or labelme as a table. All of them are in its train split.

    Args:
        folder: CVAT's extracted export "Segmentation mask 1.1", or labelme's JSON files.
        images: the folder of the images, if the export has none.
        classes: a classes file for labelme; None: the labels.
        out: the folder of the table.

    Raises:
        InputError: it is neither, or cannot be imported.
    """
    plan = _list(folder, images, classes)
    plan.findings.discard(HELD_OUT)
    masked = [replace(item, split="train") for item in plan.items if item.mask is not None]
    options = ImportOptions(near_duplicates="keep")
    return write_table(replace(plan, items=masked), out, options)


def _list(folder: Path, images: Path | None, classes: Path | None) -> ImportPlan:
    if next(folder.rglob(CVAT_FILE), None):
        return list_cvat(folder, images)
    if next(folder.rglob("*.json"), None):
        return list_labelme(folder, images=images, classes=classes)
    what = "holds" if folder.is_dir() else "is no folder with"
    raise InputError(
        f"--labels {folder} {what} neither a table (meta.json), nor CVAT's {CVAT_FILE}, nor JSON "
        "files of labelme; import another format first: python -m cid_ray.prepare FORMAT ... "
        "--out TABLE"
    )
