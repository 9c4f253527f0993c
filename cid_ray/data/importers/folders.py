"""Plain folders: images, and masks of the same relative names in another folder.

Val and test come from folders of their own. Without a val folder every fifth labeled image is val.
Folders of unlabeled images join train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.listing import list_images
from cid_ray.data.ingest.pairing import pair_masks

VAL_EVERY = 5  # without a val folder: the fifth, tenth, ... labeled image is val


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
        items = _hold_out_val(items, findings)
    for split, (split_images, split_masks) in held_out.items():
        root = split_images.parent
        items += pair_masks(split_images, split_masks, split, group, root, findings)
    for number, folder in enumerate(unlabeled):
        items += _list_unlabeled(folder, number, group, findings)
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


def _hold_out_val(items: list[ImportItem], findings: Findings) -> list[ImportItem]:
    """Every fifth labeled image as val."""
    chosen = []
    for index, item in enumerate(items):
        if index % VAL_EVERY == VAL_EVERY - 1:
            item = replace(item, split="val")
            reason = "val images (no --val-images: every fifth labeled image)"
            findings.add("guessed", reason, item.image)
        chosen.append(item)
    return chosen


def _list_unlabeled(
    folder: Path, number: int, group: str | None, findings: Findings
) -> list[ImportItem]:
    found = list_images(folder, findings)
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    groups = find_groups(group, names)
    return [
        # Two folders may hold the same names, so the folder's number is part of the id.
        ImportItem(f"pool{number}/{name}", "train", path, None, own or folder.name, folder)
        for path, name, own in zip(found, names, groups, strict=True)
    ]
