"""Finds the mask of each image by its name."""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.listing import list_images


def pair_masks(
    images: Path, masks: Path, split: str, group: str | None, root: Path, findings: Findings
) -> list[ImportItem]:
    """Each image of a folder with the mask of the same relative name, whatever its suffix.

    Args:
        images: the folder of images.
        masks: the folder of masks.
        split: train, val or test.
        group: a regular expression, see `find_groups`.
        root: the table stores paths relative to it.
        findings: is told of what was left out.

    Raises:
        InputError: a folder is missing, an image has no mask, or `group` cannot be matched.
    """
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder of masks")
    image_files = list_images(images, findings)
    mask_of = {
        path.relative_to(masks).with_suffix(""): path for path in list_images(masks, findings)
    }
    name_of = {path: path.relative_to(images).with_suffix("") for path in image_files}
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
