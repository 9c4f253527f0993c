"""What an importer lists: one `ImportItem` per image, with its mask if it has one.

Only paths are listed here. The files are read in `write.py`, so an unlabeled image has no mask that
could be opened by mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cid_ray.config import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImportItem:
    """One image to import."""

    image_id: str  # unique in the table, e.g. "train/0001TP_006690"
    split: str  # train, val or test
    image: Path
    mask: Path | None  # None: unlabeled
    group: str | None  # what similar images share: a drive, a patient, a site
    root: Path  # the table stores paths relative to it


def list_images(folder: Path) -> list[Path]:
    """The sorted image files of a folder and below it.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = sorted(path for path in folder.rglob("*") if _is_image(path) and path.is_file())
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def pair_masks(
    images: Path, masks: Path, split: str, group: str | None, root: Path
) -> list[ImportItem]:
    """Each image of a folder with the mask of the same relative name, whatever its suffix.

    Args:
        images: the folder of images.
        masks: the folder of masks.
        split: train, val or test.
        group: a regular expression, see `group_of`.
        root: the table stores paths relative to it.

    Raises:
        InputError: a folder is missing, or an image has no mask.
    """
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder of masks")
    mask_files = [path for path in masks.rglob("*") if _is_image(path)]
    mask_of = {path.relative_to(masks).with_suffix(""): path for path in mask_files}
    items = []
    missing = []
    for image in list_images(images):
        name = image.relative_to(images).with_suffix("")
        if name not in mask_of:
            missing.append(image)
            continue
        image_id = f"{split}/{name.as_posix()}"
        items.append(ImportItem(image_id, split, image, mask_of[name], group_of(group, name), root))
    if missing:
        raise InputError(
            f"{len(missing)} images have no mask of the same name in {masks}, first {missing[0]}; "
            "put unlabeled images in a folder of their own and pass it as --unlabeled"
        )
    return items


def group_of(pattern: str | None, name: Path) -> str | None:
    """What the first group of a regular expression matches in an image's relative name."""
    found = re.search(pattern, name.as_posix()) if pattern else None
    return found[1] if found and found.groups() else None
