"""Tiny data sets in the layout of every format of `prepare`, with what a table must hold of them.

A format has one entry in LAYOUTS: a function that writes the data set below a folder and returns
its `Layout`. The files are the same whatever the folder. tests/data/importers/test_formats.py runs
the same tests on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import default_colors
from tests.helpers.image_tables import random_image, random_mask

VOID = 255
SIZE = (24, 32)  # height, width
WRONG_SIZE = (10, 12)

CITYSCAPES_NAMES = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,"
    "person,rider,car,truck,bus,train,motorcycle,bicycle"
)
CITYSCAPES_LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@dataclass(frozen=True)
class Expected:
    """The row of one image."""

    split: str
    mask: np.ndarray | None  # u8[H, W] as `Table.mask` returns it; None: unlabeled
    group: str | None = None


@dataclass
class Layout:
    """A data set that was written, and what a table must hold of it.

    Attributes:
        arguments: of `prepare FORMAT`, without --out.
        rows: `image_path` of the table -> its row. No other image may be in the table.
        classes, colors: of the table.
        images: every image file, also of rows that are left out.
        required: files and folders without which nothing can be imported, and the message of which
            names their path.
        spoil_mask: gives one mask a size that its image has not, and returns the file.
        findings: reason -> count of what is left out, changed or guessed.
    """

    arguments: list[str]
    rows: dict[str, Expected]
    classes: list[str]
    colors: list[list[int]]
    images: list[Path]
    required: list[Path]
    spoil_mask: Callable[[], Path]
    findings: dict[str, int] = field(default_factory=dict)


def write_image(path: Path) -> None:
    """Noise that depends on the file's name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(crc32(path.name.encode()), SIZE)).save(path)


def write_mask(path: Path, ids: np.ndarray, colors: list[list[int]] | None = None) -> None:
    """Ids as greyscale, or as a palette of colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if colors is not None:
        image.putpalette([value for color in colors for value in color])
    image.save(path)


def write_list(path: Path, names: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def some_mask(name: str, num_classes: int) -> np.ndarray:
    """u8[H, W] of class ids in cells of 2 x 2 pixels, some void. Every class is present."""
    cells = random_mask(crc32(name.encode()), num_classes, (SIZE[0] // 2, SIZE[1] // 2))
    mask = cells.repeat(2, axis=0).repeat(2, axis=1)
    mask[-1, :3] = VOID
    return mask


def shrink_mask(path: Path) -> Callable[[], Path]:
    """What makes a mask smaller than its image, in its own mode."""

    def spoil() -> Path:
        with Image.open(path) as image:
            small = image.resize(WRONG_SIZE[::-1], Image.Resampling.NEAREST)
        small.save(path)
        return path

    return spoil


def write_camvid(root: Path) -> Layout:
    rows: dict[str, Expected] = {}
    names = {"train": ["0001TP_1", "0016E5_1"], "val": ["0016E5_2"], "test": ["Seq05VD_1"]}
    for split, stems in names.items():
        for stem in stems:
            mask = some_mask(stem, 3)
            write_image(root / "images" / split / f"{stem}.png")
            write_mask(root / "masks" / split / f"{stem}.png", mask)
            drive = stem.partition("_")[0]
            rows[f"images/{split}/{stem}.png"] = Expected(split, mask, drive)
    (root / "classes.txt").write_text("sky 128 128 128\nroad 128 64 128\ncar 64 0 128\n")
    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=["sky", "road", "car"],
        colors=[[128, 128, 128], [128, 64, 128], [64, 0, 128]],
        images=[root / path for path in rows],
        required=[root / "classes.txt", root / "images" / "train", root / "masks" / "val"],
        spoil_mask=shrink_mask(root / "masks" / "train" / "0001TP_1.png"),
    )


def write_folder(root: Path) -> Layout:
    rows: dict[str, Expected] = {}
    for number in range(5):
        mask = some_mask(str(number), 3)
        write_image(root / "images" / f"{number}.png")
        write_mask(root / "masks" / f"{number}.png", mask)
        rows[f"images/{number}.png"] = Expected("val" if number == 4 else "train", mask)
    write_image(root / "pool" / "p.png")
    rows["p.png"] = Expected("train", None, "pool")
    (root / "names.txt").write_text("a 0 0 0\nb 10 20 30\nc 40 50 60\n")
    options = {"--images": "images", "--masks": "masks", "--unlabeled": "pool"}
    options["--classes"] = "names.txt"
    return Layout(
        arguments=[text for name, part in options.items() for text in (name, str(root / part))],
        rows=rows,
        classes=["a", "b", "c"],
        colors=[[0, 0, 0], [10, 20, 30], [40, 50, 60]],
        images=[*(root / "images").iterdir(), root / "pool" / "p.png"],
        required=[root / part for part in options.values()],
        spoil_mask=shrink_mask(root / "masks" / "0.png"),
        findings={"val images (no --val-images: every fifth labeled image)": 1},
    )


VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
)
VOC_COLORS = [[0, 0, 0], *default_colors(255)]


def write_voc(root: Path) -> Layout:
    """train.txt: two images; one more by SegmentationClassAug, which has a val mask too."""
    root = root / "VOCdevkit" / "VOC2012"
    split_of = {"2007_000032": "train", "2007_000039": "train", "2007_000033": "val"}
    rows: dict[str, Expected] = {}
    for name, split in split_of.items():
        mask = some_mask(name, 21)
        write_mask(root / "SegmentationClass" / f"{name}.png", mask, VOC_COLORS)
        # The augmented set has all masks again. Those that the challenge published count.
        write_mask(root / "SegmentationClassAug" / f"{name}.png", some_mask("aug", 21))
        rows[f"JPEGImages/{name}.jpg"] = Expected(split, mask)
    augmented = some_mask("2008_000002", 21)
    write_mask(root / "SegmentationClassAug" / "2008_000002.png", augmented)
    write_mask(root / "SegmentationClassAug" / "2008_000009.png", augmented)
    rows["JPEGImages/2008_000002.jpg"] = Expected("train", augmented)
    images = [root / path for path in rows] + [root / "JPEGImages" / "2008_000001.jpg"]
    for image in images:
        write_image(image)
    lists = root / "ImageSets" / "Segmentation"
    for split in ("train", "val"):
        write_list(lists / f"{split}.txt", [n for n, s in split_of.items() if s == split])
    write_list(lists / "trainval.txt", split_of)
    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=VOC_NAMES.split(),
        colors=VOC_COLORS[:21],
        images=images,
        required=[
            root / "JPEGImages",
            root / "SegmentationClass",
            root / "ImageSets" / "Segmentation",
            lists / "val.txt",
            root / "JPEGImages" / "2007_000032.jpg",
            root / "SegmentationClass" / "2007_000033.png",
        ],
        spoil_mask=shrink_mask(root / "SegmentationClassAug" / "2008_000002.png"),
        findings={
            "images without a mask (--pool all takes them)": 1,
            "masks without an image": 1,
        },
    )


def write_cityscapes(root: Path) -> Layout:
    """Two cities of train, one of val, one of test with a dummy mask, one of train_extra."""
    rows: dict[str, Expected] = {}
    images: list[Path] = []
    label_ids = np.zeros(256, np.uint8)  # trainId -> labelId; void -> 0, unlabeled
    label_ids[:19] = CITYSCAPES_LABEL_IDS
    cities = {"aachen": "train", "jena": "train", "lindau": "val", "berlin": "test"}
    for city, split in cities.items():
        stem = f"{split}/{city}/{city}_000000_000019"
        image = f"leftImg8bit/{stem}_leftImg8bit.png"
        images.append(root / image)
        mask = some_mask(city, 19)
        ids = label_ids[mask]
        ids[-2, :4] = (1, 9, 15, 30)  # ego vehicle, parking, bridge, trailer: not evaluated
        mask[-2, :4] = VOID
        write_mask(root / "gtFine" / f"{stem}_gtFine_labelIds.png", ids)
        write_mask(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", ids)
        if split != "test":
            rows[image] = Expected(split, mask, city)
    extra = "leftImg8bit/train_extra/erlangen/erlangen_000000_000000_leftImg8bit.png"
    rows[extra] = Expected("train", None, "erlangen")
    images.append(root / extra)
    for path in images:
        write_image(path)
    gt = root / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=CITYSCAPES_NAMES.split(","),
        colors=[
            *([128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153]),
            *([153, 153, 153], [250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152]),
            *([70, 130, 180], [220, 20, 60], [255, 0, 0], [0, 0, 142], [0, 0, 70]),
            *([0, 60, 100], [0, 80, 100], [0, 0, 230], [119, 11, 32]),
        ],
        images=images,
        required=[
            root / "leftImg8bit",
            root / "gtFine",
            root / "leftImg8bit" / "val",
            root / "gtFine" / "train",
            gt,
        ],
        spoil_mask=shrink_mask(gt),
        findings={"images of test, whose masks are not published": 1},
    )


def write_ade20k(root: Path) -> Layout:
    root = root / "ADEChallengeData2016"
    rows: dict[str, Expected] = {}
    train = {"ADE_train_00000001": "training", "ADE_train_00000002": "training"}
    for stem, folder in (train | {"ADE_val_00000001": "validation"}).items():
        mask = some_mask(stem, 150)
        write_image(root / "images" / folder / f"{stem}.jpg")
        write_mask(root / "annotations" / folder / f"{stem}.png", mask + np.uint8(1))  # void: 0
        split = {"training": "train", "validation": "val"}[folder]
        rows[f"images/{folder}/{stem}.jpg"] = Expected(split, mask)
    lines = [f"{k + 1}\t0.1\t9\t9\tclass {k}, synonym {k} \n" for k in range(150)]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "".join(lines))
    mask_file = root / "annotations" / "training" / "ADE_train_00000001.png"
    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=[f"class {k}" for k in range(150)],
        colors=default_colors(150),
        images=[root / path for path in rows],
        required=[root / "images" / "validation", root / "annotations" / "training", mask_file],
        spoil_mask=shrink_mask(mask_file),
    )


def write_cvat(root: Path) -> Layout:
    """A project with subsets; an image without annotations has no mask."""
    colors = [[0, 0, 0], [250, 50, 83], [51, 221, 255]]
    rows: dict[str, Expected] = {}
    subsets = {"Train": ["a/frame 0", "frame 1"], "Validation": ["frame 2"]}
    for subset, names in subsets.items():
        split = {"Train": "train", "Validation": "val"}[subset]
        for name in names:
            mask = random_mask(crc32(name.encode()), 3, SIZE)
            write_mask_of_colors(root / "SegmentationClass" / f"{name}.png", mask, colors)
            rows[f"JPEGImages/{name}.png"] = Expected(split, mask)
        write_list(root / "ImageSets" / "Segmentation" / f"{subset}.txt", names)
    write_list(root / "ImageSets" / "Segmentation" / "Train.txt", [*subsets["Train"], "frame 3"])
    rows["JPEGImages/frame 3.png"] = Expected("train", None)
    images = [root / path for path in rows] + [root / "JPEGImages" / "unlisted.png"]
    for path in images:
        write_image(path)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\n"
        "background:0,0,0::\nred car:250,50,83::\nsky:51,221,255::\n"
    )
    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=["background", "red car", "sky"],
        colors=colors,
        images=images,
        required=[
            root / "labelmap.txt",
            root / "ImageSets" / "Segmentation",
            root / "SegmentationClass",
            root / "JPEGImages",
            root / "JPEGImages" / "frame 2.png",
        ],
        spoil_mask=shrink_mask(root / "SegmentationClass" / "frame 1.png"),
        findings={
            "unlabeled images, listed without a mask": 1,
            "images that no list names": 1,
        },
    )


def write_mask_of_colors(path: Path, ids: np.ndarray, colors: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(colors, np.uint8)[ids]).save(path)


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "camvid": write_camvid,
    "folder": write_folder,
    "voc": write_voc,
    "cityscapes": write_cityscapes,
    "ade20k": write_ade20k,
    "cvat": write_cvat,
}
