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
from cid_ray.data.importers.cvat import list_cvat
from cid_ray.data.importers.folders import list_folders
from cid_ray.data.importers.voc import POOLS, list_voc
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
        if self.choices:
            options |= {"choices": self.choices, "default": self.choices[0]}
        if self.repeated:
            options |= {"action": "append", "default": []}
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
            Argument("--masks", "their masks: one id per pixel", required=True),
            Argument("--unlabeled", "images without masks; may be repeated", repeated=True),
            Argument("--val-images"),
            Argument("--val-masks"),
            Argument("--test-images"),
            Argument("--test-masks"),
            CLASSES,
            Argument(
                "--group",
                "its first group, found in the name, is the image's group",
                type=str,
                metavar="REGEX",
            ),
        ),
    ),
}
