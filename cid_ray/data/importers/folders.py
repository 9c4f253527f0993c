"""Plain folders: images, and masks of the same relative names in another folder.

Val and test come from folders of their own. Without a val folder every fifth labeled image is val.
Folders of unlabeled images join train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.classes import infer_classes, read_classes
from cid_ray.data.importers.groups import find_groups
from cid_ray.data.importers.items import ImportItem, list_images, pair_masks
from cid_ray.data.importers.write import (
    ImportResult,
    Progress,
    check_output,
    no_progress,
    write_table,
)

VAL_EVERY = 5  # without a val folder: the fifth, tenth, ... labeled image is val


def list_folders(
    images: Path,
    masks: Path,
    unlabeled: Sequence[Path] = (),
    held_out: Mapping[str, tuple[Path, Path]] | None = None,
    group: str | None = None,
) -> list[ImportItem]:
    """List the images of plain folders.

    Args:
        images: labeled training images, also in folders below.
        masks: their masks, of the same relative names with any image suffix.
        unlabeled: folders of images without masks.
        held_out: "val" and "test" -> (images, masks). Without "val" every fifth labeled image is
            val.
        group: a regular expression. Its first group, found in an image's relative name, is the
            image's group. Unlabeled images without a match have their folder's name.

    Returns:
        An item per image.

    Raises:
        InputError: a folder is missing or empty, an image has no mask, or `group` cannot be
            matched.

    Example:
        >>> items = list_folders(Path("photos"), Path("masks"), [Path("more_photos")])
    """
    held_out = held_out or {}
    items = pair_masks(images, masks, "train", group, images.parent)
    for split, (split_images, split_masks) in held_out.items():
        items += pair_masks(split_images, split_masks, split, group, split_images.parent)
    if "val" not in held_out:
        items = [
            replace(item, split="val") if index % VAL_EVERY == VAL_EVERY - 1 else item
            for index, item in enumerate(items)
        ]
    for number, folder in enumerate(unlabeled):
        found = list_images(folder)
        names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
        groups = find_groups(group, names)
        items += [
            # Two folders may hold the same names, so the folder's number is part of the id.
            ImportItem(f"pool{number}/{name}", "train", path, None, own or folder.name, folder)
            for path, name, own in zip(found, names, groups, strict=True)
        ]
    return items


def import_folders(
    images: Path,
    masks: Path,
    out: Path,
    *,
    unlabeled: Sequence[Path] = (),
    val_images: Path | None = None,
    val_masks: Path | None = None,
    test_images: Path | None = None,
    test_masks: Path | None = None,
    classes: Path | None = None,
    group: str | None = None,
    mapping: Mapping[int, int] | None = None,
    ignore_index: int = 255,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> ImportResult:
    """Import plain folders, as `python -m cid_ray.prepare folder` does.

    Args:
        images: labeled training images, also in folders below.
        masks: their masks, of the same relative names with any image suffix.
        out: the folder to make.
        unlabeled: folders of images without masks.
        val_images, val_masks: images that select. None: every fifth labeled image is val.
        test_images, test_masks: images that are reported.
        classes: a classes file, see `read_classes`. None: the masks are read for their highest id.
        group: see `list_folders`.
        mapping, ignore_index, skip_bad, progress: see `write_table`.

    Returns:
        The opened table with warnings, notes and the files that were left out.

    Raises:
        InputError: the files are not complete, or do not pass the audit.

    Example:
        >>> result = import_folders(Path("photos"), Path("masks"), Path("tables/mine"))
        >>> print("\\n".join(result.describe()))
    """
    check_output(out, ignore_index)
    held_out = _pair_folders(val=(val_images, val_masks), test=(test_images, test_masks))
    items = list_folders(images, masks, unlabeled, held_out, group)
    mapping = mapping or {}
    class_list = read_classes(classes) if classes else infer_classes(items, mapping, ignore_index)
    notes = []
    if "val" not in held_out:
        num_val = sum(item.split == "val" for item in items)
        notes.append(f"no --val-images: every fifth labeled image is held out as val ({num_val})")
    return write_table(
        items,
        class_list,
        out,
        mapping=mapping,
        ignore_index=ignore_index,
        skip_bad=skip_bad,
        progress=progress,
        notes=notes,
    )


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
