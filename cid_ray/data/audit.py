"""What is wrong with a data set, in words, before a GPU-hour is spent.

The importers feed every file through one `Audit`; it keeps counts and first examples, never the files. A *bad file*
(unreadable, truncated, sizes that differ, a copy of a held-out image) may be left out with --skip-bad; a *bad set*
(ids outside the classes, masks of 0 and 255) may not, since nothing of it could be learned.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

MAX_PIXELS = 150_000_000  # a larger picture is a decompression bomb or a mistake; Pillow itself gives up at 179 M


class BadFile(Exception):
    """This file cannot be used; the message names it and says why."""


@dataclass
class Audit:
    classes: list[str]
    ignore_index: int
    bad: list[str] = field(default_factory=list)
    outside: Counter[int] = field(default_factory=Counter)  # mask id -> files
    first_outside: dict[int, str] = field(default_factory=dict)
    mask_values: set[int] = field(default_factory=set)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # split -> i64[K]
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # sha256 -> (split, path)
    copies: int = 0

    def image(self, path: str, encoded: bytes) -> tuple[int, int]:
        """Height and width of a readable image, every byte of it decoded."""
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadFile(f"{path}: {image.width} x {image.height} pixels is more than {MAX_PIXELS:,}")
                image.load()
                return image.height, image.width
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path}: unreadable or truncated image ({error})") from None

    def unique(self, path: str, split: str, encoded: bytes) -> str:
        """The content hash, or BadFile when a held-out split already has the same content."""
        digest = hashlib.sha256(encoded).hexdigest()
        other_split, other = self.seen.setdefault(digest, (split, path))
        if other != path and other_split != split:
            raise BadFile(f"{path} ({split}) is the same image as {other} ({other_split}): it is in two splits")
        self.copies += other != path
        return digest

    def mask(self, path: str, split: str, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """i64[K]: pixels per class of a mask that fits its image."""
        if mask.shape != size:
            raise BadFile(
                f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]} pixels"
            )
        count = np.bincount(mask.ravel(), minlength=256)
        present = np.flatnonzero(count)
        self.mask_values.update(present.tolist())
        known = len(self.classes)
        for value in present[(present >= known) & (present != self.ignore_index)].tolist():
            self.outside[value] += 1
            self.first_outside.setdefault(value, path)
        per_class = count[:known]
        if self.ignore_index < known:
            per_class[self.ignore_index] = 0
        self.pixels[split] = self.pixels.get(split, np.zeros(known, np.int64)) + per_class
        return per_class

    def errors(self, skip_bad: bool) -> list[str]:
        """Why no table can be made, in words; empty when it can."""
        found = [] if skip_bad else list(self.bad)
        if self.mask_values and self.mask_values <= {0, 255} and 255 in self.mask_values and self.ignore_index == 255:
            return [
                *found,
                "every mask holds only 0 and 255, and 255 means `ignore`: nothing would be learned. "
                "If 255 is the object, import with `--map 255=1`",
            ]
        if self.outside:
            outside = sorted(self.outside.items())
            ids = ", ".join(f"{v} (in {n} files, first {self.first_outside[v]})" for v, n in outside)
            remedy = " ".join(f"--map {v}={self.ignore_index}" for v in sorted(self.outside)[:3])
            found.append(
                f"mask ids outside the {len(self.classes)} classes (0..{len(self.classes) - 1}): {ids}. "
                f"Name the class in the classes file, or ignore it: `{remedy}`"
            )
        return found

    def warnings(self) -> list[str]:
        found = []
        for split, pixels in sorted(self.pixels.items()):
            empty = [name for name, count in zip(self.classes, pixels, strict=True) if not count]
            if empty:
                effect = "never learned" if split == "train" else "left out of mIoU"
                found.append(f"no {split} mask has a pixel of: {', '.join(empty)} ({effect})")
        train = self.pixels.get("train")
        if train is not None and len(self.classes) == 2 and 0 < train.min() < 0.05 * train.sum():
            found.append(
                "two classes, one of them rarer than 5 %: a model may call everything background; "
                "consider loss.class_weights=balanced and a low loss.conf_thresh"
            )
        if self.copies:
            found.append(f"{self.copies} images are copies of another image of their own split")
        if self.bad:
            found.append(f"{len(self.bad)} files left out (--skip-bad)")
        return found
