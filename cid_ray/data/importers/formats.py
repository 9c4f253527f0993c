"""The formats of `python -m cid_ray.prepare FORMAT`: help, arguments, and what lists the files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cid_ray.data.importers.ade20k import list_ade20k
from cid_ray.data.importers.camvid import list_camvid
from cid_ray.data.importers.cityscapes import list_cityscapes
from cid_ray.data.importers.coco import list_coco
from cid_ray.data.importers.cocostuff import list_cocostuff
from cid_ray.data.importers.cvat import list_cvat
from cid_ray.data.importers.datumaro_import import list_datumaro
from cid_ray.data.importers.folders import list_folders
from cid_ray.data.importers.label_studio import list_label_studio
from cid_ray.data.importers.labelme import list_labelme
from cid_ray.data.importers.voc import POOLS, list_voc
from cid_ray.data.importers.yolo import MISSING, list_yolo
from cid_ray.data.ingest.items import ImportPlan


@dataclass(frozen=True)
class Argument:
    """One argument of a format, as argparse takes it. `dest` is the lister's parameter."""

    name: str  # "root" or "--val-images"
    help: str | None = None
    type: Callable[[str], Any] = Path
    metavar: str | None = "DIR"
    required: bool = False
    repeated: bool = False
    default: str | None = None
    choices: tuple[str, ...] = ()  # the first one is the default

    @property
    def dest(self) -> str:
        """The name of the lister's parameter."""
        return self.name.lstrip("-").replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it to the parser of its format."""
        options: dict[str, Any] = {"help": self.help, "type": self.type, "metavar": self.metavar}
        if self.name.startswith("-"):
            options["required"] = self.required
            options["default"] = self.default
        if self.repeated:
            options |= {"action": "append", "default": []}
        if self.choices:
            options |= {"choices": self.choices, "default": self.choices[0], "metavar": None}
        parser.add_argument(self.name, **options)


@dataclass(frozen=True)
class Format:
    """A format that `prepare` reads."""

    help: str
    list_images: Callable[..., ImportPlan]  # its parameters are the arguments
    arguments: tuple[Argument, ...]

    def list(self, args: argparse.Namespace) -> ImportPlan:
        """The plan of an import, by the parsed arguments."""
        return self.list_images(**{one.dest: getattr(args, one.dest) for one in self.arguments})


ROOT = Argument("root")
CLASSES = Argument("--classes", "a class a line: name [r g b]", metavar="FILE")
UNLABELED = Argument("--unlabeled", "images without masks; may be repeated", repeated=True)
GROUP = Argument(
    "--group", "its first group, found in the name, is the image's group", str, metavar="REGEX"
)
NAMES = (  # how the names of images and masks differ, `NameRule`
    Argument("--image-suffix", "end of an image's name, e.g. _leftImg8bit", str, "END", default=""),
    Argument("--mask-suffix", "end of a mask's name, e.g. _mask", str, "END", default=""),
    Argument("--image-glob", "which files are images, e.g. '*.jpg'", str, "PATTERN"),
    Argument("--mask-glob", "which files are masks, e.g. '*_label.png'", str, "PATTERN"),
)

FORMATS = {
    "camvid": Format("images/{train,val,test}, masks/{...}, classes.txt", list_camvid, (ROOT,)),
    "voc": Format(
        "PASCAL VOC 2012: JPEGImages, SegmentationClass[Aug], ImageSets/Segmentation",
        list_voc,
        (
            ROOT,
            Argument(
                "--pool",
                "images without a mask: left out (lists, the default), or unlabeled (all)",
                type=str,
                metavar=None,
                choices=POOLS,
            ),
        ),
    ),
    "cityscapes": Format(
        "Cityscapes: leftImg8bit, gtFine; train_extra joins the pool", list_cityscapes, (ROOT,)
    ),
    "ade20k": Format(
        "ADEChallengeData2016: {images,annotations}/{training,validation}", list_ade20k, (ROOT,)
    ),
    "cvat": Format(
        "CVAT's export `Segmentation mask 1.1`: labelmap.txt, ImageSets, SegmentationClass",
        list_cvat,
        (ROOT, Argument("--images", "their folder, if the export has none")),
    ),
    "folder": Format(
        "folders of images and masks of equal names",
        list_folders,
        (
            Argument("--images", "labeled training images", required=True),
            Argument("--masks", "their masks: one id per pixel (the folder of --images)"),
            UNLABELED,
            Argument("--val-images"),
            Argument("--val-masks"),
            Argument("--test-images"),
            Argument("--test-masks"),
            CLASSES,
            GROUP,
            *NAMES,
            Argument(
                "--unmasked",
                "train images without a mask: an error, or unlabeled images of the pool",
                str,
                choices=("error", "pool"),
            ),
        ),
    ),
    "coco": Format(
        "COCO's instances, stuff or panoptic JSON",
        list_coco,
        (
            Argument("--annotations", "JSON of the train images", metavar="FILE", required=True),
            Argument("--images", "the train images", required=True),
            Argument("--val-annotations", metavar="FILE"),
            Argument("--val-images", "default: --images"),
            Argument("--test-annotations", metavar="FILE"),
            Argument("--test-images", "default: --images"),
            UNLABELED,
            GROUP,
        ),
    ),
    "cocostuff": Format("COCO-Stuff's label maps", list_cocostuff, (ROOT, UNLABELED, GROUP)),
    "labelme": Format(
        "a folder of labelme's JSON files",
        list_labelme,
        (
            ROOT,
            Argument("--images", "where images are found by name; default: as the JSON says"),
            Argument("--val", "JSON files of val"),
            Argument("--test", "JSON files of test"),
            UNLABELED,
            CLASSES,
            GROUP,
        ),
    ),
    "label_studio": Format(
        "Label Studio's JSON export, and its PNG export",
        list_label_studio,
        (
            Argument("--tasks", "the JSON export", metavar="FILE", required=True),
            Argument("--images", "where images are found by name", required=True),
            Argument("--masks", "the PNG export; default: the regions of the JSON"),
            Argument("--image-key", "the field that names the image", str, metavar="NAME"),
            UNLABELED,
            CLASSES,
            GROUP,
        ),
    ),
    "yolo": Format(
        "data.yaml, images/ and polygons in labels/ (Ultralytics)",
        list_yolo,
        (
            Argument("data", "data.yaml or its folder", metavar="DATA"),
            Argument("--root", "what its paths are relative to"),
            Argument(
                "--missing-labels",
                "what an image without a label file is (default: background)",
                str,
                metavar=None,
                choices=MISSING,
            ),
            UNLABELED,
            GROUP,
        ),
    ),
    "datumaro": Format(
        "any format that datumaro reads",
        list_datumaro,
        (
            ROOT,
            Argument("--format", "datumaro's name of it", str, metavar="NAME", required=True),
            UNLABELED,
            GROUP,
        ),
    ),
}
