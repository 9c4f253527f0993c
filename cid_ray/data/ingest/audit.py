"""Finds what is wrong with a data set and says it in words, before a GPU-hour is spent.

An import passes every mask through one `Audit`, which keeps counts and first examples, never
pixels. It tells two kinds of errors apart. A *bad file* (unreadable, truncated, sizes that differ,
a copy of a held-out image) may be left out with --skip-bad. A *bad set* (ids outside the classes,
masks of 0 and 255 only, blurred masks) may not: no model could learn from what is left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cid_ray.data.ingest.blur import BlurCheck
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.mask_colors import UnmatchedColors, format_share
from cid_ray.data.ingest.mask_reader import MaskContent
from cid_ray.data.table_meta import some_names

RARE_CLASS_FRACTION = 0.05  # of train's labeled pixels, for the warning about two classes
MAX_UNMATCHED_SHARE = 0.001  # of the pixels of colour masks
MAX_SHOWN_IDS = 10


@dataclass
class Audit:
    """What was seen so far of one data set with K classes."""

    classes: list[str]
    ignore_index: int
    bad_files: list[str] = field(default_factory=list)  # messages
    unknown_ids: Counter[int] = field(default_factory=Counter)  # mask id -> number of files
    unknown_id_example: dict[int, str] = field(default_factory=dict)  # mask id -> first file
    mask_values: set[int] = field(default_factory=set)
    class_pixels: dict[str, np.ndarray] = field(default_factory=dict)  # split -> i64[K]
    unmatched_rule: Literal["error", "ignore"] = "error"
    blurred_rule: Literal["error", "keep"] = "error"
    unmatched: UnmatchedColors = field(default_factory=UnmatchedColors)
    blur: BlurCheck = field(default_factory=BlurCheck)

    def add_content(self, path: str, content: MaskContent) -> None:
        """Add what was seen in a mask besides its ids."""
        self.unmatched.add(content.unmatched, path)
        if content.edges is not None:
            self.blur.add(path, content.edges)

    def check_mask(
        self, path: str, split: str, mask: np.ndarray, image_size: tuple[int, int]
    ) -> np.ndarray:
        """i64[K]: pixels per class of a mask u8[H, W]; BadFile if it does not fit its image."""
        if mask.shape != image_size:
            raise BadFile(
                f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]}, "
                f"its image {image_size[1]} x {image_size[0]} pixels"
            )
        num_classes = len(self.classes)
        counts = np.bincount(mask.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        self.mask_values.update(present.tolist())
        unknown = present[(present >= num_classes) & (present != self.ignore_index)]
        for value in unknown.tolist():
            self.unknown_ids[value] += 1
            self.unknown_id_example.setdefault(value, path)
        per_class = counts[:num_classes]
        if self.ignore_index < num_classes:
            per_class[self.ignore_index] = 0
        before = self.class_pixels.get(split, np.zeros(num_classes, np.int64))
        self.class_pixels[split] = before + per_class
        return per_class

    def errors(self, skip_bad: bool) -> list[str]:
        """Why no table can be written, a message each; empty if it can."""
        found = [] if skip_bad else list(self.bad_files)
        blur = self.blur.error()
        if blur is not None and self.blurred_rule == "error":
            return [*found, blur]  # what else would be said of wrong ids is not true
        if self._masks_are_0_and_255():
            return [
                *found,
                "every mask holds only 0 and 255, and 255 means `ignore`: "
                "nothing would be learned. "
                "If 255 is the object, import with `--map 255=1`",
            ]
        if self.unmatched_rule == "error" and self.unmatched.share > MAX_UNMATCHED_SHARE:
            found.append(self._describe_unmatched())
        if self.unknown_ids:
            found.append(self._describe_unknown_ids())
        return found

    def add_findings(self, findings: Findings) -> None:
        """Tell what was left out of the masks that are stored."""
        if self.unmatched.pixels:
            share = format_share(self.unmatched.share)
            reason = f"pixels whose colour is of no class, {share} of all in colour masks"
            example = f"{self.unmatched.first}: {self.unmatched.describe()}"
            findings.add("left out", reason, example, self.unmatched.pixels)

    def _masks_are_0_and_255(self) -> bool:
        """Whether these are binary masks of which the object would be ignored."""
        if self.ignore_index != 255 or 255 not in self.mask_values:
            return False
        return self.mask_values <= {0, 255}

    def _describe_unmatched(self) -> str:
        unmatched = self.unmatched
        message = (
            f"{format_share(unmatched.share)} of the pixels of colour masks have a colour of no "
            f"class, the commonest are {unmatched.describe()}, first in {unmatched.first}. "
        )
        if unmatched.looks_blurred:
            return message + (
                f"One mask holds {unmatched.num_colors:,} such colours: it is blurred (resized "
                "with interpolation, or once stored as JPEG) or no mask. Export the masks again "
                "as PNG and resize with nearest neighbour, or ignore these pixels: "
                "`--unmatched ignore`"
            )
        return message + (
            "Name these classes in the classes file (`name r g b`), or ignore these pixels: "
            "`--unmatched ignore`"
        )

    def _describe_unknown_ids(self) -> str:
        shown = sorted(self.unknown_ids.items())[:MAX_SHOWN_IDS]
        files = ", ".join(
            f"{value} (in {count} files, first {self.unknown_id_example[value]})"
            for value, count in shown
        )
        more = len(self.unknown_ids) - len(shown)
        if more:
            files += f" and {more} more"
        num_classes = len(self.classes)
        outside = f"mask ids outside the {num_classes} classes (0..{num_classes - 1}): {files}"
        if set(self.unknown_ids) == {num_classes}:
            if 0 not in self.mask_values:
                return (
                    f"{outside}. No mask holds id 0, so the first class has id 1: "
                    "import with `--first-id 1`"
                )
            return (
                f"{outside}. If id 0 means no label and the first class has id 1, import with "
                f"`--first-id 1`. Else name the class in the classes file, or ignore it: "
                f"`--map {num_classes}={self.ignore_index}`"
            )
        remedy = " ".join(f"--map {value}={self.ignore_index}" for value, _ in shown[:3])
        return f"{outside}. Name the class in the classes file, or ignore it: `{remedy}`"

    def warnings(self) -> list[str]:
        """What is unusual and allowed, a message each."""
        found = []
        for split, pixels in sorted(self.class_pixels.items()):
            counts = zip(self.classes, pixels, strict=True)
            absent = [name for name, count in counts if not count]
            if absent:
                effect = "never learned" if split == "train" else "left out of mIoU"
                found.append(f"no {split} mask has a pixel of: {some_names(absent)} ({effect})")
        if self.blur.num_masks and self.ignore_index != 0 and 0 not in self.mask_values:
            found.append(
                "no mask holds id 0; if the first class has id 1 in the masks, import again "
                "with --first-id 1"
            )
        blur = self.blur.warning()
        if blur is not None:
            found.append(blur)
        if self._has_rare_class():
            found.append(
                "two classes, one of them rarer than 5 %: a model may predict background "
                "everywhere; consider loss.class_weights=balanced and a low loss.conf_thresh"
            )
        if self.bad_files:
            found.append(f"{len(self.bad_files)} files left out (--skip-bad)")
        return found

    def _has_rare_class(self) -> bool:
        """Whether train has two classes, one of them present and rare."""
        train = self.class_pixels.get("train")
        if train is None or len(self.classes) != 2:
            return False
        return bool(0 < train.min() < RARE_CLASS_FRACTION * train.sum())
