"""Plain folders: images, and masks of the same relative names.

Masks are in a folder of their own, or beside the images with names that differ by a rule. Val and
test come from folders of their own. Without a val folder about a fifth of the labeled images is
val. Folders of unlabeled images join train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.assembly import complete
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.name_rule import NameRule
from cid_ray.data.ingest.pairing import Unmasked, pair_masks


def list_folders(
    images: Path,
    masks: Path | None = None,
    *,
    unlabeled: Sequence[Path] = (),
    val_images: Path | None = None,
    val_masks: Path | None = None,
    test_images: Path | None = None,
    test_masks: Path | None = None,
    classes: Path | None = None,
    group: str | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    image_glob: str | None = None,
    mask_glob: str | None = None,
    unmasked: Unmasked = "error",
) -> ImportPlan:
    """List the images of plain folders, as `python -m cid_ray.prepare folder` does.

    Args:
        images: labeled training images, also in folders below.
        masks: their masks, of the same relative names with any image suffix. None: `images` holds
            both.
        unlabeled: folders of images without masks.
        val_images, val_masks: images that select. None: about a fifth of the labeled images is
            val, by whole groups if `group` is given.
        test_images, test_masks: images that are reported.
        classes: a classes file, see `read_classes`. None: the masks are read for their highest id.
        group: a regular expression. Its first group, found in an image's relative name, is the
            image's group. Unlabeled images without a match have their folder's name.
        image_suffix, mask_suffix, image_glob, mask_glob: how the names of images and masks
            differ, see `NameRule`.
        unmasked: whether a train image without a mask is an "error", or joins the "pool".

    Raises:
        InputError: a folder is missing or empty, an image has no mask, two files have one name, or
            `group` cannot be matched or matches no name.

    Example:
        >>> plan = list_folders(Path("photos"), Path("masks"), unlabeled=[Path("more_photos")])
        >>> result = write_table(plan, Path("tables/mine"))
        >>> print("\\n".join(result.describe()))
    """
    rule = NameRule(image_suffix, mask_suffix, image_glob, mask_glob)
    folders = {"train": (images, images if masks is None else masks)}
    folders |= _held_out_folders(
        masks is None, val=(val_images, val_masks), test=(test_images, test_masks)
    )
    plan = ImportPlan([], read_classes(classes) if classes else None)
    for split, (own, own_masks) in folders.items():
        others = {folder for pair in folders.values() for folder in pair} - {own, own_masks}
        plan.items += pair_masks(
            own,
            own_masks,
            split,
            group,
            own.parent,
            plan.findings,
            rule,
            without=others,
            unmasked=unmasked if split == "train" else "error",
        )
    return complete(plan, unlabeled, group, "--val-images", mask_suffix)


def _held_out_folders(
    one_folder: bool, **folders: tuple[Path | None, Path | None]
) -> dict[str, tuple[Path, Path]]:
    """Split -> (images, masks), of the splits that have folders.

    Args:
        one_folder: whether a folder of images holds its masks too.
        folders: split -> (images, masks) as the user gave them.
    """
    paired = {}
    for split, (images, masks) in folders.items():
        if one_folder and masks is None:
            masks = images
        if (images is None) != (masks is None):
            options = f"--{split}-images and --{split}-masks"
            raise InputError(f"{options} belong together; one of them is missing")
        if images is not None and masks is not None:
            paired[split] = (images, masks)
    return paired
