"""COCO-Stuff's label maps, in the four forms that are published.

- `label/{train,val}`, `annotations/{train2017,val2017}` or `stuffthingmaps/...`: the id less one,
  0..181, and 255 where there is no label;
- files that end with `_labelTrainIds.png`, which MMSegmentation makes of them: 0..170, the ids in
  use renumbered;
- `stuff_{train,val}2017_pixelmaps`: the id itself, 92..182 for stuff, 183 for all things, and 0
  where there is no label.

Their values do not distinguish them, so the names of folders and files do.
Source: Caesar et al. 2018, https://github.com/nightrome/cocostuff
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.importers.cocostuff_names import NAMES, NUM_THINGS, UNUSED
from cid_ray.data.importers.layout import NamedFiles, list_masks, report_unused
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.names import image_name
from cid_ray.data.ingest.shapes import IGNORED

IMAGES = ("img/{short}", "images/{long}", "images/{short}", "{long}")
MASKS = (
    "label/{short}",
    "stuffthingmaps/{long}",
    "annotations/{long}",
    "annotations/stuff_{long}_pixelmaps",
    "stuff_{long}_pixelmaps",
)
TRAIN_IDS = "_labelTrainIds"
INSTANCE_IDS = "_instanceTrainIds"
FOLDER_OF = {"train": "train2017", "val": "val2017"}
NOT_STUFF = 254  # no class has this id, so the audit names it


def list_cocostuff(
    root: Path, unlabeled: Sequence[Path] = (), group: str | None = None
) -> ImportPlan:
    """List the images and label maps of COCO-Stuff.

    Args:
        root: the folder that holds the folders of images and of label maps.
        unlabeled: folders of unlabeled images, e.g. `unlabeled2017`.
        group: a regular expression on file names, see `find_groups`.

    Raises:
        InputError: folders are missing, an image has no label map, or splits differ in their form.

    Example:
        >>> plan = list_cocostuff(Path("cocostuff"))
        >>> len(plan.classes.names)
        182
    """
    findings = Findings()
    items: list[ImportItem] = []
    forms = set()
    for split, long in FOLDER_OF.items():
        images = _find(root, IMAGES, split, long)
        masks = _find(root, MASKS, split, long)
        if split == "train" or images or masks:
            for folder, names, what in ((images, IMAGES, "images"), (masks, MASKS, "label maps")):
                if folder is None:
                    places = ", ".join(map(str, _folders(root, names, split, long)))
                    raise InputError(f"no {split} {what} of COCO-Stuff; none of these is: {places}")
        if images and masks:
            form, found = _pair(images, masks, split, root, findings)
            forms.add(form)
            items += found
    if len(forms) > 1:
        raise InputError(f"{root}: train and val have label maps of different forms")
    classes, mapping = _classes_of(forms.pop())
    plan = ImportPlan(items, ClassList.of_names(classes), findings, mapping)
    return assemble(plan, unlabeled, group, "val folder")


def _find(root: Path, names: Sequence[str], short: str, long: str) -> Path | None:
    """The first of the folders that exists."""
    folders = _folders(root, names, short, long)
    return next((folder for folder in folders if folder.is_dir()), None)


def _folders(root: Path, names: Sequence[str], short: str, long: str) -> list[Path]:
    return [root / name.format(short=short, long=long) for name in names]


def _pair(
    images: Path, masks: Path, split: str, root: Path, findings: Findings
) -> tuple[str, list[ImportItem]]:
    """The form of the label maps, and each image with its own."""
    listed = list_masks(masks, findings)
    stems = {path: image_name(path, masks) for path in listed}
    for path in [path for path in listed if stems[path].endswith(INSTANCE_IDS)]:
        findings.add("left out", f"files that end with {INSTANCE_IDS}", path)
        listed.remove(path)
    form, ending = ("pixelmaps" if masks.name.endswith("_pixelmaps") else "merged"), ""
    if any(stems[path].endswith(TRAIN_IDS) for path in listed):
        form, ending = "train ids", TRAIN_IDS
        for path in [path for path in listed if not stems[path].endswith(TRAIN_IDS)]:
            findings.add("left out", f"label maps next to those of {TRAIN_IDS}", path)
    label_maps = NamedFiles(masks, findings, ending, listed)
    found = NamedFiles(images, findings)
    hint = "put unlabeled images in a folder of their own and pass it as --unlabeled"
    label_maps.require(found, f"label maps of {split}", ".png", hint)
    report_unused(label_maps, found.path_of, "label maps without an image", findings)
    items = [
        ImportItem(f"{split}/{name}", split, path, label_maps.path_of[name], None, root)
        for name, path in found.path_of.items()
    ]
    return form, items


def _classes_of(form: str) -> tuple[list[str], dict[int, int]]:
    """Class names, and the mapping of a form's values to their ids."""
    if form == "merged":
        return list(NAMES), {}
    if form == "train ids":
        return [name for number, name in enumerate(NAMES, 1) if number not in UNUSED], {}
    stuff = range(NUM_THINGS + 1, len(NAMES) + 2)  # 183 is `other`
    mapping = {0: IGNORED} | {number: NOT_STUFF for number in range(1, NUM_THINGS + 1)}
    mapping |= {number: index for index, number in enumerate(stuff)}
    return [*NAMES[NUM_THINGS:], "other"], mapping
