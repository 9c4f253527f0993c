"""What an importer lists: one `ImportItem` per image, with its mask if it has one.

Only names are listed here. The files are read in `write.py`, so an unlabeled image has no mask that
could be opened by mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.shapes import Drawing
from cid_ray.data.ingest.unpacked import UnpackedImages


@dataclass(frozen=True)
class DrawnMask:
    """A mask that is drawn from polygons or run lengths, not read from an image file."""

    path: Path  # the file that describes it, for messages
    draw: Callable[[int, int], Drawing]  # (height, width) -> class ids; raises BadFile


@dataclass(frozen=True, slots=True)  # a million of them are held
class ImportItem:
    """One image to import."""

    image_id: str  # unique in the table, e.g. "train/0001TP_006690"
    split: str  # train, val or test
    image: Path
    mask: Path | DrawnMask | None  # None: unlabeled
    group: str | None  # what similar images share: a drive, a patient, a site
    root: Path  # the table stores paths relative to it
    part: str = ""  # which tile of the image this is, for messages: "@y512_x0"

    @property
    def name(self) -> str:
        """The image in a message: its file, and which part of it."""
        return f"{self.image}{self.part}"

    @property
    def mask_path(self) -> Path | None:
        """The file of the mask, or the file that describes it."""
        return self.mask.path if isinstance(self.mask, DrawnMask) else self.mask


@dataclass
class ImportPlan:
    """What an importer found in a data set, before any image is read.

    A format's own ids are renumbered by `mapping` (Cityscapes: 7 -> 0), and then the user's `--map`
    applies.
    """

    items: list[ImportItem]
    classes: ClassList | None  # None: class_0, class_1, ... by the ids in the masks
    findings: Findings = field(default_factory=Findings)
    mapping: Mapping[int, int] = field(default_factory=dict)
    bad_files: list[str] = field(default_factory=list)  # what is wrong with files that were listed
    unpacked: UnpackedImages = field(default_factory=UnpackedImages)  # removed with the plan
