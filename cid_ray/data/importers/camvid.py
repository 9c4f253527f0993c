"""CamVid in SegNet's layout: `images/{train,val,test}`, `masks/{train,val,test}`, `classes.txt`.

The group of an image is its drive: the part of its name before the first `_`. Frames of one drive
look alike, so labels from one drive show less than the pool does.
Source: https://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cid_ray.data.importers.classes import ClassList, read_classes
from cid_ray.data.importers.items import ImportItem, pair_masks
from cid_ray.data.importers.write import (
    WRITE_ORDER,
    ImportResult,
    Progress,
    check_output,
    no_progress,
    write_table,
)

DRIVE_PATTERN = r"^([^_/]+)_"


def list_camvid(root: Path) -> tuple[list[ImportItem], ClassList]:
    """List the images and classes of CamVid.

    Args:
        root: the folder that holds `images`, `masks` and `classes.txt`.

    Returns:
        An item per image, held-out splits first, and the classes.

    Raises:
        InputError: a folder or `classes.txt` is missing, or an image has no mask.

    Example:
        >>> items, classes = list_camvid(Path("CamVid"))
        >>> len(items), len(classes.names)
        (701, 11)
    """
    classes = read_classes(root / "classes.txt")
    items = []
    for split in WRITE_ORDER:
        images = root / "images" / split
        masks = root / "masks" / split
        items += pair_masks(images, masks, split, DRIVE_PATTERN, root)
    return items, classes


def import_camvid(
    root: Path,
    out: Path,
    *,
    mapping: Mapping[int, int] | None = None,
    ignore_index: int = 255,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> ImportResult:
    """Import CamVid, as `python -m cid_ray.prepare camvid` does.

    Args:
        root: the folder that holds `images`, `masks` and `classes.txt`.
        out: the folder to make.
        mapping, ignore_index, skip_bad, progress: see `write_table`.

    Returns:
        The opened table with warnings and the files that were left out.

    Raises:
        InputError: the files are not complete, or do not pass the audit.

    Example:
        >>> import_camvid(Path("CamVid"), Path("tables/camvid")).table.num_classes
        11
    """
    check_output(out, ignore_index)
    items, classes = list_camvid(root)
    return write_table(
        items,
        classes,
        out,
        mapping=mapping,
        ignore_index=ignore_index,
        skip_bad=skip_bad,
        progress=progress,
    )
