"""CVAT's export "Segmentation mask 1.1": `labelmap.txt`, lists of subsets, and colour masks.

    labelmap.txt                          name:r,g,b:parts:actions, a class a line
    ImageSets/Segmentation/SUBSET.txt     an image a line; default.txt of a task without subsets
    SegmentationClass/NAME.png            the masks
    JPEGImages/NAME.jpg                   the images, if they were exported ("Save images")

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-smask
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.layout import (
    NamedFiles,
    check_disjoint,
    find_root,
    list_masks,
    read_list,
)
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.val_split import hold_out_val

LISTS = "ImageSets/Segmentation"
PARTS = ("labelmap.txt", LISTS, "SegmentationClass")
SPLIT_OF_SUBSET = {
    "default": "train",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def list_cvat(root: Path, images: Path | None = None) -> ImportPlan:
    """List the images and masks of an export of CVAT.

    Args:
        root: the extracted export, or a folder that holds it.
        images: the folder of the images, if the export has none. None: `JPEGImages`.

    Raises:
        InputError: a part of the export or an image is missing, a subset's name says no split, or
            an image is in two subsets.

    Example:
        >>> plan = list_cvat(Path("task_1"), images=Path("photos"))
        >>> plan.classes.names[0]
        'background'
    """
    findings = Findings()
    root = find_root(root, "CVAT's export `Segmentation mask 1.1`", PARTS, findings)
    folder = root / "SegmentationClass"
    masks = NamedFiles(folder, findings, files=list_masks(folder, findings))
    photos = NamedFiles(images or root / "JPEGImages", findings)
    hint = "export again with `Save images`, or give their folder as --images"
    image_root = root if images is None else images
    items: list[ImportItem] = []
    listed: dict[str, Path] = {}
    for file in sorted((root / LISTS).glob("*.txt")):
        split = _split_of(file)
        names = read_list(file, findings)
        for earlier in dict.fromkeys(listed.values()):
            check_disjoint([n for n, f in listed.items() if f == earlier], names, (earlier, file))
        listed |= dict.fromkeys(names, file)
        photos.require(names, f"images of {file}", "", hint)
        for name in names:
            mask = masks.path_of.get(name)
            if mask is None and split != "train":
                findings.add("left out", f"{split} images without a mask", name)
                continue
            if mask is None:
                findings.add("guessed", "unlabeled images, listed without a mask", name)
            item = ImportItem(
                f"{split}/{name}", split, photos.path_of[name], mask, None, image_root
            )
            items.append(item)
    if not listed:
        raise InputError(f"{root / LISTS} holds no list of images, such as default.txt")
    _tell_unlisted(masks, photos, listed, findings)
    if not any(item.split == "val" for item in items):
        items = hold_out_val(items, findings, "val subset")
    return ImportPlan(items, read_classes(root / "labelmap.txt"), findings)


def _split_of(file: Path) -> str:
    try:
        return SPLIT_OF_SUBSET[file.stem.lower()]
    except KeyError:
        raise InputError(
            f"{file}: the subset {file.stem!r} says no split; rename the file to train.txt, "
            "val.txt or test.txt"
        ) from None


def _tell_unlisted(
    masks: NamedFiles, photos: NamedFiles, listed: dict[str, Path], findings: Findings
) -> None:
    for files, what in ((photos, "images"), (masks, "masks")):
        for name in files:
            if name not in listed:
                findings.add("left out", f"{what} that no list names", files.path_of[name])
