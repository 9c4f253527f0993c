"""What an importer lists: one `ImportItem` per image, with its mask if it has one.

Only paths are listed here. The files are read in `write.py`, so an unlabeled image has no mask that
could be opened by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.groups import find_groups

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
        group: a regular expression, see `find_groups`.
        root: the table stores paths relative to it.

    Raises:
        InputError: a folder is missing, an image has no mask, or `group` cannot be matched.
    """
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder of masks")
    mask_files = [path for path in masks.rglob("*") if _is_image(path)]
    mask_of = {path.relative_to(masks).with_suffix(""): path for path in mask_files}
    name_of = {path: path.relative_to(images).with_suffix("") for path in list_images(images)}
    missing = [image for image, name in name_of.items() if name not in mask_of]
    if missing:
        raise InputError(
            f"{len(missing)} images have no mask of the same name in {masks}, first {missing[0]}; "
            "put unlabeled images in a folder of their own and pass it as --unlabeled"
        )
    groups = find_groups(group, [name.as_posix() for name in name_of.values()])
    return [
        ImportItem(f"{split}/{name.as_posix()}", split, image, mask_of[name], image_group, root)
        for (image, name), image_group in zip(name_of.items(), groups, strict=True)
    ]
