"""ADE20K's scene parsing benchmark, `ADEChallengeData2016`: `images/` and `annotations/`, each with
`training` and `validation`.

A mask holds 0 for "other objects" and 1..150 for the classes. 0 becomes `ignore` and k becomes k-1,
as everywhere in the field (`reduce_zero_label` of mmsegmentation).
Source of the names: `objectInfo150.txt` of https://github.com/CSAILVision/sceneparsing, the first
synonym of each. The set publishes no colours with it, so the colours are ours.
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError, read_utf8
from cid_ray.data.importers.layout import NamedFiles, find_root, list_masks, report_unused
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem, ImportPlan

PARTS = tuple(
    f"{kind}/{split}" for kind in ("images", "annotations") for split in ("training", "validation")
)
FOLDER_OF = {"train": "training", "val": "validation"}
NUM_CLASSES = 150
IGNORED = 255
NEW_IDS = {0: IGNORED} | {old: old - 1 for old in range(1, NUM_CLASSES + 1)}
NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel,
pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent,
bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""


def list_ade20k(root: Path) -> ImportPlan:
    """List the images and masks of ADE20K.

    Args:
        root: `ADEChallengeData2016`, or a folder that holds it.

    Raises:
        InputError: a folder or a mask is missing, or objectInfo150.txt does not have 150 classes.

    Example:
        >>> plan = list_ade20k(Path("ADEChallengeData2016"))
        >>> len(plan.items), len(plan.classes.names)
        (22210, 150)
    """
    findings = Findings()
    root = find_root(root, "ADE20K", PARTS, findings, prefer="ADEChallengeData2016")
    items = []
    for split, folder in FOLDER_OF.items():
        images = NamedFiles(root / "images" / folder, findings)
        annotations = root / "annotations" / folder
        masks = NamedFiles(annotations, findings, files=list_masks(annotations, findings))
        if not images.path_of:
            raise InputError(f"{images.folder} has no image")
        masks.require(images, f"masks of {folder}", ".png")
        report_unused(masks, images.path_of, "masks without an image", findings)
        items += [
            ImportItem(f"{split}/{name}", split, path, masks.path_of[name], None, root)
            for name, path in images.path_of.items()
        ]
    return ImportPlan(items, ClassList.of_names(_class_names(root)), findings, NEW_IDS)


def _class_names(root: Path) -> list[str]:
    """The first synonym of each class: of the set's own objectInfo150.txt, else of NAMES."""
    file = root / "objectInfo150.txt"
    if not file.is_file():
        return [name.strip() for name in NAMES.split(",")]
    # Columns between tabs; the last one is "building, edifice".
    lines = [line for line in read_utf8(file).splitlines()[1:] if line.strip()]
    names = [line.rpartition("\t")[2].split(",")[0].strip() for line in lines]
    if len(names) != NUM_CLASSES or len(set(names)) != NUM_CLASSES:
        raise InputError(
            f"{file} names {len(set(names))} classes after its header line, must name "
            f"{NUM_CLASSES}; remove it to use the published names"
        )
    return names
