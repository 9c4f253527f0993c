"""The formats of `python -m cid_ray.prepare FORMAT`: help, arguments, and what lists the files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cid_ray.data.importers.camvid import list_camvid
from cid_ray.data.importers.folders import list_folders
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
    choices: tuple[str, ...] | None = None

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
            options |= {"choices": self.choices, "metavar": None}
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
NAMES = (  # how the names of images and masks differ, `NameRule`
    Argument("--image-suffix", "end of an image's name, e.g. _leftImg8bit", str, "END", default=""),
    Argument("--mask-suffix", "end of a mask's name, e.g. _mask", str, "END", default=""),
    Argument("--image-glob", "which files are images, e.g. '*.jpg'", str, "PATTERN"),
    Argument("--mask-glob", "which files are masks, e.g. '*_label.png'", str, "PATTERN"),
)

FORMATS = {
    "camvid": Format("images/{train,val,test}, masks/{...}, classes.txt", list_camvid, (ROOT,)),
    "folder": Format(
        "folders of images and masks of equal names",
        list_folders,
        (
            Argument("--images", "labeled training images", required=True),
            Argument("--masks", "their masks: one id per pixel (the folder of --images)"),
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
            *NAMES,
            Argument(
                "--unmasked",
                "train images without a mask: an error, or unlabeled images of the pool",
                type=str,
                default="error",
                choices=("error", "pool"),
            ),
        ),
    ),
}
