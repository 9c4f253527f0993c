"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*.png`.

Masks are `_labelIds.png`, renumbered to the 19 classes that the benchmark evaluates, or
`_labelTrainIds.png`, which are these 19 already. The field reports val. The masks of test are not
published (its files are dummies, all ignored), so test is left out. `leftImg8bit/train_extra` joins
the pool. The group of an image is its city.
Source of ids, names and colours: `helpers/labels.py` of
https://github.com/mcordts/cityscapesScripts (columns id, trainId, color).
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.layout import NamedFiles, find_root, list_masks
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem, ImportPlan

PARTS = ("leftImg8bit", "gtFine")
# trainId -> (labelId, name, colour)
CLASSES = (
    (7, "road", [128, 64, 128]),
    (8, "sidewalk", [244, 35, 232]),
    (11, "building", [70, 70, 70]),
    (12, "wall", [102, 102, 156]),
    (13, "fence", [190, 153, 153]),
    (17, "pole", [153, 153, 153]),
    (19, "traffic light", [250, 170, 30]),
    (20, "traffic sign", [220, 220, 0]),
    (21, "vegetation", [107, 142, 35]),
    (22, "terrain", [152, 251, 152]),
    (23, "sky", [70, 130, 180]),
    (24, "person", [220, 20, 60]),
    (25, "rider", [255, 0, 0]),
    (26, "car", [0, 0, 142]),
    (27, "truck", [0, 0, 70]),
    (28, "bus", [0, 60, 100]),
    (31, "train", [0, 80, 100]),
    (32, "motorcycle", [0, 0, 230]),
    (33, "bicycle", [119, 11, 32]),
)
NUM_LABEL_IDS = 34  # 0..33; the license plate has -1, which no mask can hold
IGNORED = 255
TRAIN_ID_OF = {label_id: IGNORED for label_id in range(NUM_LABEL_IDS)} | {
    label_id: train_id for train_id, (label_id, _, _) in enumerate(CLASSES)
}
LABEL_IDS = "_gtFine_labelIds"
TRAIN_IDS = "_gtFine_labelTrainIds"


def list_cityscapes(root: Path) -> ImportPlan:
    """List the images and masks of Cityscapes.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`, or a folder that holds that one.

    Raises:
        InputError: a folder is missing, or an image of train or val has no mask.

    Example:
        >>> plan = list_cityscapes(Path("cityscapes"))
        >>> len(plan.items), len(plan.classes.names)
        (3475, 19)
    """
    findings = Findings()
    root = find_root(root, "Cityscapes", PARTS, findings)
    images = {split: _images_of(root, split, findings) for split in ("train", "val")}
    ending, masks = _masks_of(root, images, findings)
    items = [
        ImportItem(f"{split}/{name}", split, path, masks[split].path_of[name], _city(name), root)
        for split in images
        for name, path in images[split].path_of.items()
    ]
    items += _list_extra(root, findings)
    for name in NamedFiles(root / "leftImg8bit" / "test", findings, "_leftImg8bit"):
        findings.add("left out", "images of test, whose masks are not published", name)
    names = [name for _, name, _ in CLASSES]
    classes = ClassList(names, [color for _, _, color in CLASSES], has_colors=True)
    return ImportPlan(items, classes, findings, TRAIN_ID_OF if ending == LABEL_IDS else {})


def _city(name: str) -> str:
    return name.partition("/")[0]


def _images_of(root: Path, split: str, findings: Findings) -> NamedFiles:
    folder = root / "leftImg8bit" / split
    images = NamedFiles(folder, findings, "_leftImg8bit")
    if not images.path_of:
        raise InputError(
            f"{folder / 'CITY'} has no *_leftImg8bit.png; "
            f"extract leftImg8bit_trainvaltest.zip into {root}"
        )
    return images


def _masks_of(
    root: Path, images: dict[str, NamedFiles], findings: Findings
) -> tuple[str, dict[str, NamedFiles]]:
    """The masks of each split, all of one kind: labelIds, or labelTrainIds if those are more."""
    folders = {split: root / "gtFine" / split for split in images}
    listed = {split: list_masks(folder, findings) for split, folder in folders.items()}
    kinds = {
        ending: {
            split: NamedFiles(folder, findings, ending, listed[split])
            for split, folder in folders.items()
        }
        for ending in (LABEL_IDS, TRAIN_IDS)
    }
    ending = max(kinds, key=lambda ending: sum(len(one.path_of) for one in kinds[ending].values()))
    for split, masks in kinds[ending].items():
        hint = f"extract gtFine_trainvaltest.zip into {root}"
        masks.require(images[split], f"masks of {split}", ".png", hint)
    return ending, kinds[ending]


def _list_extra(root: Path, findings: Findings) -> list[ImportItem]:
    """The images of train_extra, which have coarse masks at most: the pool."""
    folders = (
        root / "leftImg8bit" / "train_extra",
        root / "leftImg8bit_trainextra" / "leftImg8bit" / "train_extra",
        root / "leftImg8bit_trainextra",
    )
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return []
    return [
        ImportItem(f"train_extra/{name}", "train", path, None, _city(name), root)
        for name, path in NamedFiles(folder, findings, "_leftImg8bit").path_of.items()
    ]
