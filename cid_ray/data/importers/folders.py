"""Plain folders: images, and masks of the same relative names in another folder.

Val and test come from folders of their own. Without a val folder every fifth labeled image is val.
Folders of unlabeled images join train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.pairing import pair_masks
from cid_ray.data.ingest.unlabeled import list_unlabeled
from cid_ray.data.ingest.val_split import hold_out_val


def list_folders(
    images: Path,
    masks: Path,
    *,
    unlabeled: Sequence[Path] = (),
    val_images: Path | None = None,
    val_masks: Path | None = None,
    test_images: Path | None = None,
    test_masks: Path | None = None,
    classes: Path | None = None,
    group: str | None = None,
) -> ImportPlan:
    """List the images of plain folders, as `python -m cid_ray.prepare folder` does.

    Args:
        images: labeled training images, also in folders below.
        masks: their masks, of the same relative names with any image suffix.
        unlabeled: folders of images without masks.
        val_images, val_masks: images that select. None: every fifth labeled image is val.
        test_images, test_masks: images that are reported.
        classes: a classes file, see `read_classes`. None: the masks are read for their highest id.
        group: a regular expression. Its first group, found in an image's relative name, is the
            image's group. Unlabeled images without a match have their folder's name.

    Raises:
        InputError: a folder is missing or empty, an image has no mask, or `group` cannot be
            matched.

    Example:
        >>> plan = list_folders(Path("photos"), Path("masks"), unlabeled=[Path("more_photos")])
        >>> result = write_table(plan, Path("tables/mine"))
        >>> print("\\n".join(result.describe()))
    """
    findings = Findings()
    held_out = _pair_folders(val=(val_images, val_masks), test=(test_images, test_masks))
    items = pair_masks(images, masks, "train", group, images.parent, findings)
    if "val" not in held_out:
        items = hold_out_val(items, findings)
    for split, (split_images, split_masks) in held_out.items():
        root = split_images.parent
        items += pair_masks(split_images, split_masks, split, group, root, findings)
    items += list_unlabeled(unlabeled, group, findings)
    return ImportPlan(items, read_classes(classes) if classes else None, findings)


def _pair_folders(**folders: tuple[Path | None, Path | None]) -> dict[str, tuple[Path, Path]]:
    """Split -> (images, masks), of the splits that have folders."""
    paired = {}
    for split, (images, masks) in folders.items():
        if (images is None) != (masks is None):
            options = f"--{split}-images and --{split}-masks"
            raise InputError(f"{options} belong together; one of them is missing")
        if images is not None and masks is not None:
            paired[split] = (images, masks)
    return paired
