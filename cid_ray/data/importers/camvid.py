"""CamVid in SegNet's layout: `images/{train,val,test}`, `masks/{train,val,test}`, `classes.txt`.

The group of an image is its drive: the part of its name before the first `_`. Frames of one drive
look alike, so labels from one drive show less than the pool does.
Source: https://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.pairing import pair_masks
from cid_ray.data.table_format import SPLITS

DRIVE_PATTERN = r"^([^_/]+)_"


def list_camvid(root: Path) -> ImportPlan:
    """List the images and classes of CamVid.

    Args:
        root: the folder that holds `images`, `masks` and `classes.txt`.

    Raises:
        InputError: a folder or `classes.txt` is missing, or an image has no mask.

    Example:
        >>> plan = list_camvid(Path("CamVid"))
        >>> len(plan.items), len(plan.classes.names)
        (701, 11)
    """
    plan = ImportPlan([], read_classes(root / "classes.txt"), Findings())
    for split in SPLITS:
        images = root / "images" / split
        masks = root / "masks" / split
        plan.items += pair_masks(images, masks, split, DRIVE_PATTERN, root, plan.findings)
    return plan
