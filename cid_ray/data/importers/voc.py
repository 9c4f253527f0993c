"""PASCAL VOC 2012: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/{train,val}.txt`.

With `SegmentationClassAug` (the masks of the Semantic Boundaries Dataset, as ids) train is what the
field trains on: every image that has a mask and is not in val.txt, 10,582 in all. The images of
train.txt and val.txt keep the masks of `SegmentationClass`, which the challenge published.
Sources: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, Hariharan et al. 2011 (SBD), and the lists
of https://github.com/LiheYoung/UniMatch.
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.data.image_codec import default_colors
from cid_ray.data.importers.layout import (
    NamedFiles,
    check_disjoint,
    find_root,
    list_masks,
    read_list,
)
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem, ImportPlan

LISTS = "ImageSets/Segmentation"
PARTS = ("JPEGImages", "SegmentationClass", LISTS)
NAMES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
COLORS = [[0, 0, 0], *default_colors(len(NAMES) - 1)]
POOLS = ("lists", "all")


def list_voc(root: Path, pool: str = "lists") -> ImportPlan:
    """List the images and masks of PASCAL VOC 2012.

    Args:
        root: `VOCdevkit/VOC2012`, or a folder that holds it.
        pool: what becomes of images without a mask. "lists" leaves them out, as the field does;
            "all" takes them as unlabeled images, except those of a test list.

    Raises:
        InputError: a folder, a list, an image or a mask is missing, or an image is in train.txt
            and in val.txt.

    Example:
        >>> plan = list_voc(Path("VOCdevkit/VOC2012"))
        >>> sum(item.split == "train" for item in plan.items)  # with SegmentationClassAug
        10582
    """
    findings = Findings()
    root = find_root(root, "PASCAL VOC 2012", PARTS, findings, prefer="VOC2012")
    images = NamedFiles(root / "JPEGImages", findings)
    folder = root / "SegmentationClass"
    masks = NamedFiles(folder, findings, files=list_masks(folder, findings))
    folder = root / "SegmentationClassAug"
    augmented = NamedFiles(folder, findings, files=list_masks(folder, findings))
    train, val = _read_lists(root / LISTS, findings)
    for file, names in (("train.txt", train), ("val.txt", val)):
        images.require(names, f"images of {root / LISTS / file}", ".jpg")
    masks.require(val, f"masks of {root / LISTS / 'val.txt'}", ".png")
    unmasked = [name for name in train if name not in augmented]
    masks.require(unmasked, f"masks of {root / LISTS / 'train.txt'}", ".png")

    listed = {*train, *val}
    extra = sorted(name for name in {*masks, *augmented} - listed if name in images)
    for name in sorted({*masks, *augmented} - listed - {*extra}):
        findings.add("left out", "masks without an image", name)
    mask_of = augmented.path_of | masks.path_of
    items = [
        ImportItem(f"{split}/{name}", split, images.path_of[name], mask_of[name], None, root)
        for split, names in (("train", [*train, *extra]), ("val", val))
        for name in names
    ]
    rest = [name for name in images if name not in listed and name not in mask_of]
    items += _list_pool(rest, images, root, pool, findings)
    return ImportPlan(items, ClassList(NAMES, COLORS, has_colors=True), findings)


def _read_lists(folder: Path, findings: Findings) -> tuple[list[str], list[str]]:
    """The names of train and val; trainval.txt replaces a train.txt that is missing."""
    val = read_list(folder / "val.txt", findings)
    train_file = folder / "train.txt"
    if not train_file.exists() and (folder / "trainval.txt").exists():
        both = read_list(folder / "trainval.txt", findings)
        findings.add("guessed", "train lists, trainval.txt without val.txt", train_file)
        return [name for name in both if name not in set(val)], val
    train = read_list(train_file, findings)
    check_disjoint(train, val, (train_file, folder / "val.txt"))
    return train, val


def _list_pool(
    names: list[str], images: NamedFiles, root: Path, pool: str, findings: Findings
) -> list[ImportItem]:
    """The images without a mask as unlabeled items, or none of them."""
    if pool == "lists":
        for name in names:
            findings.add("left out", "images without a mask (--pool all takes them)", name)
        return []
    # The test archive of VOC extracts into the same folders.
    test_lists = sorted((root / "ImageSets").glob("*/test.txt"))
    test = {line.split()[0] for file in test_lists for line in read_list(file, findings)}
    for name in names:
        if name in test:
            findings.add("left out", "images of a test list", name)
    return [
        ImportItem(f"train/{name}", "train", images.path_of[name], None, None, root)
        for name in names
        if name not in test
    ]
