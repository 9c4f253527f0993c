"""How values of more than 8 bits become 0..255: by one window for a whole data set.

A window per image would show the same value as another grey in each image. So there is one, which
the user gives (`--window LOW HIGH`), or which is taken from the train images: from held-out ones
nothing may be learned, not even their brightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings, Note
from cid_ray.data.ingest.pixel_arrays import DECODE_ERRORS, PixelArray, is_deep, read_pixels

PERCENTILES = (0.5, 99.5)
MAX_IMAGES = 256  # in the sample
SAMPLED_VALUES = 16_384  # of each of them
SEED = 0
BLOCK_VALUES = 1 << 20  # scaled together: bounds the memory of the floats
CLIPPED_FRACTION = 0.1  # of an image's values, above which it is reported
BLANK = Note("images that are a single grey in this window; --window LOW HIGH gives another")
CLIPPED = "images with more than 10 % of their values outside the window, set to its ends"
MIXED = "8-bit images in a set with deeper images, stored as they are"
INVALID = "images with pixels that are NaN, infinite or `no data`, set to the low end"


@dataclass(frozen=True)
class Window:
    """The values that become 0 and 255, and where they come from.

    Example:
        >>> window = Window(0, 4095, "--window")
        >>> window.scale(np.array([[0, 819, 4095]], np.uint16))
        array([[  0,  51, 255]], dtype=uint8)
    """

    low: float
    high: float
    source: str

    @classmethod
    def parse(cls, low: float, high: float) -> Window:
        """The window of `--window LOW HIGH`.

        Raises:
            InputError: LOW is not below HIGH.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"--window is {low:g} {high:g}, must be LOW HIGH with LOW below HIGH")
        return cls(low, high, "--window")

    def scale(self, values: np.ndarray, invalid: float | None = None) -> np.ndarray:
        """u8 of the shape of `values`: `low` becomes 0, `high` 255, what is outside one of them.

        NaN, infinity and `invalid` become 0.
        """
        flat = np.ascontiguousarray(values).reshape(-1)
        scaled = np.empty(flat.size, np.uint8)
        for start in range(0, flat.size, BLOCK_VALUES):
            block = flat[start : start + BLOCK_VALUES]
            greys = (block.astype(np.float64) - self.low) * (255 / (self.high - self.low))
            np.clip(greys, 0, 255, out=greys)
            greys[~is_valid(block, invalid)] = 0
            scaled[start : start + BLOCK_VALUES] = np.rint(greys)
        return scaled.reshape(values.shape)

    def notes(self, pixels: PixelArray, scaled: np.ndarray) -> list[Note]:
        """What was changed of an image, and what was lost."""
        values = pixels.colors
        limits = f"[{self.low:.6g}, {self.high:.6g}]"
        found = [Note(f"images of {describe_type(values.dtype)}, scaled from {limits} to 0..255")]
        num_invalid = num_outside = 0
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK_VALUES):
            block = flat[start : start + BLOCK_VALUES]
            valid = is_valid(block, pixels.invalid)
            num_invalid += block.size - int(valid.sum())
            num_outside += int((valid & ((block < self.low) | (block > self.high))).sum())
        if num_invalid:
            found.append(Note(INVALID, f"{num_invalid} values"))
        if num_outside > CLIPPED_FRACTION * values.size:
            found.append(Note(CLIPPED, f"{num_outside / values.size:.0%}"))
        if scaled.min() == scaled.max():
            found.append(BLANK)
        return found


@dataclass
class DepthCount:
    """How many of a data set's images had 8 bits, and how many more."""

    num_deep: int = 0
    num_8_bit: int = 0
    first_8_bit: Path | None = None

    def add(self, path: Path, deep: bool) -> None:
        """Count an image that is stored."""
        if deep:
            self.num_deep += 1
        else:
            self.num_8_bit += 1
            self.first_8_bit = self.first_8_bit or path

    def finish(self, findings: Findings, window_given: bool) -> list[str]:
        """Add the finding of a mixed data set. Returns warnings, a message each."""
        if self.num_deep and self.num_8_bit:
            findings.add("guessed", MIXED, self.first_8_bit, self.num_8_bit)
        if window_given and not self.num_deep:
            return ["--window changed nothing: no image has more than 8 bits"]
        return []

    def meta(self, window: Window | None) -> dict[str, Any]:
        """The entry of `meta.json`, if any image was scaled: low, high, source."""
        return {"window": asdict(window)} if window and self.num_deep else {}


def is_valid(values: np.ndarray, invalid: float | None) -> np.ndarray:
    """bool: which values are numbers, and not the file's own value for "no data"."""
    valid = np.isfinite(values)
    return valid if invalid is None else valid & (values != invalid)


def describe_type(dtype: np.dtype[Any]) -> str:
    """ "16 bits", "32-bit floats"."""
    bits = 8 * dtype.itemsize
    return f"{bits}-bit floats" if dtype.kind == "f" else f"{bits} bits"


def find_window(files: Sequence[Path], first: Path) -> Window:
    """The window of a data set, by percentiles of its train images.

    Args:
        files: the train images, with and without masks.
        first: the image for which a window is needed, for the message.

    Raises:
        InputError: no train image has more than 8 bits, or all have one and the same value.
    """
    samples = list(_sample(files))
    count = len(samples)
    values = np.concatenate(samples) if samples else np.empty(0)
    if not values.size:
        raise InputError(
            f"{first} has more than 8 bits a pixel, and no train image by which these could be "
            "scaled to 8; give the values that become black and white: --window LOW HIGH"
        )
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    source = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of {count} images"
    if low == high:
        low, high = float(values.min()), float(values.max())
        source = f"lowest and highest of {count} images"
    if low == high:
        raise InputError(
            f"{first} has more than 8 bits a pixel, and all that was sampled of {count} train "
            f"images is {low:g}; give the values that become black and white: --window LOW HIGH"
        )
    return Window(low, high, source)


def _sample(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """f64[n] of values of up to MAX_IMAGES deep images, drawn with a fixed seed."""
    rng = np.random.default_rng(SEED)
    found = 0
    for index in rng.permutation(len(files)):
        path = files[index]
        if not is_deep(path):
            continue
        try:
            pixels = read_pixels(path)
        except DECODE_ERRORS:
            continue  # the import names it when it comes to it
        chosen = pixels.colors.reshape(-1)
        if chosen.size > SAMPLED_VALUES:
            chosen = chosen[rng.integers(0, chosen.size, SAMPLED_VALUES)]
        values = chosen[is_valid(chosen, pixels.invalid)].astype(np.float64)
        if not values.size:
            continue
        yield values
        found += 1
        if found == MAX_IMAGES:
            return
