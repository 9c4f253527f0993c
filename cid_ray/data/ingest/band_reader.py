"""Reads the bands that an import keeps (`--bands`), as bytes.

Numbers of bands count from 1, as in GIS programs. Without `--bands` an image file is read as a
picture (`image_reader.py`), unless the set's first image is a TIFF of more than four channels,
which is no picture: then all bands are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.band_image import MAX_CHANNELS, encode_bands
from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.band_scaling import (
    BYTES_WINDOW,
    PERCENTILES,
    measure_windows,
    scale_to_bytes,
)
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings, Note
from cid_ray.data.ingest.image_reader import TURNED, ImageContent, hash_pixels
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.options import TILES_OF_BANDS, ImportOptions
from cid_ray.data.ingest.orientation import UPRIGHT
from cid_ray.data.ingest.perceptual_hash import Looks, describe_looks
from cid_ray.data.ingest.tiff_bands import RawBands, count_samples, read_bands

PICTURE_CHANNELS = 4  # red, green, blue and alpha: what a picture has at most
MAX_MEASURED = 64  # train images whose values decide the windows
NO_DATA = Note("images with values that are NaN, infinite or marked as no data, stored as 0")


@dataclass(frozen=True)
class BandReader:
    """Reads the same bands of every image of an import.

    Attributes:
        numbers: the bands, counted from 1, in the order in which they are stored.
        windows: f64[C, 2], the values that become 0 and 255.
        dtype: the type of the files' numbers.
        example: a file of this type, for messages.
    """

    numbers: tuple[int, ...]
    windows: np.ndarray
    dtype: np.dtype[Any]
    example: Path

    def read(self, path: Path) -> ImageContent:
        """Read the bands of a file.

        Raises:
            BadFile: as `read_bands`, or the numbers are of another type than those of the files
                from which the windows are.
            OSError: the file cannot be read.
        """
        raw = read_bands(path, path.read_bytes(), self.numbers)
        if raw.planes.dtype != self.dtype:
            raise BadFile(
                f"{path}: its values are {raw.planes.dtype}, those of {self.example} {self.dtype}; "
                "convert one of them, no window suits both"
            )
        planes, has_missing = scale_to_bytes(raw, self.windows)
        changes = (*raw.notes, *((NO_DATA,) if has_missing else ()))
        if raw.orientation != UPRIGHT:
            changes += (Note(TURNED, f"orientation {raw.orientation}"),)
        # Of the file's own numbers: two images may look alike in this window.
        return band_content(planes, hash_pixels(raw.planes), changes)

    def meta(self) -> dict[str, Any]:
        """What `meta.json` stores of the bands."""
        return {"bands": list(self.numbers), "band_windows": self.windows.tolist()}


def band_content(
    planes: np.ndarray, pixel_hash: str, changes: tuple[Note, ...] = ()
) -> ImageContent:
    """What a table stores of bands u8[C, H, W]: three as a PNG in colour, others as a TIFF."""
    num_channels, height, width = planes.shape
    if num_channels == 3:
        encoded = encode_png(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    else:
        encoded = encode_bands(planes)
    histogram = np.stack([np.bincount(band.ravel(), minlength=256) for band in planes])
    return ImageContent(
        encoded,
        (height, width),
        pixel_hash,
        changes,
        _looks_of(planes),
        num_channels=num_channels,
        histogram=histogram,
    )


def _looks_of(planes: np.ndarray) -> Looks:
    """What copies are recognised by: three bands as colours, any other number by their mean."""
    if len(planes) == 3:
        return describe_looks(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    return describe_looks(planes.mean(0, dtype=np.float32).astype(np.uint8))


def open_bands(
    items: Sequence[ImportItem], options: ImportOptions, findings: Findings
) -> BandReader | None:
    """The reader of the bands that an import keeps; None for a data set of pictures.

    Args:
        items: what is imported. Windows are measured on images of train.
        options: `bands` and `window` are used.
        findings: gets what was guessed.

    Raises:
        InputError: there are too many bands, or no image that could be measured can be read.
    """
    numbers = options.bands or _all_bands(items, findings)
    if numbers is None:
        return None
    if options.tile is not None:
        raise InputError(f"{items[0].image} has {len(numbers)} bands: {TILES_OF_BANDS}")
    train = [item.image for item in items if item.split == "train"]
    step = max(1, len(train) // MAX_MEASURED)
    errors: list[str] = []
    readable = _read_each(train[::step][:MAX_MEASURED], numbers, errors)
    first = next(readable, None)
    if first is None:
        problem = errors[0] if errors else "there is no train image"
        raise InputError(f"no image could be read for its bands' values: {problem}")
    path, raw = first
    dtype = raw.planes.dtype
    if options.window is not None:
        windows = np.array([options.window] * len(numbers), float)
    elif dtype == np.uint8:
        windows = np.array([BYTES_WINDOW] * len(numbers))
    else:
        windows = measure_windows(each for _, each in chain([first], readable))
        _tell_windows(numbers, windows, dtype, findings)
    return BandReader(tuple(numbers), windows, dtype, path)


def _all_bands(items: Sequence[ImportItem], findings: Findings) -> tuple[int, ...] | None:
    """All bands of the first image if it has more than a picture's; else None."""
    if not items:
        return None
    path = items[0].image
    count = count_samples(path)
    if count <= PICTURE_CHANNELS:
        return None
    if count > MAX_CHANNELS:
        raise InputError(
            f"{path} has {count} bands, a table has at most {MAX_CHANNELS}; "
            "choose some, such as --bands 4,3,2"
        )
    findings.add("guessed", "bands that are kept: all (no --bands)", path, count)
    return tuple(range(1, count + 1))


def _tell_windows(
    numbers: Sequence[int], windows: np.ndarray, dtype: np.dtype[Any], findings: Findings
) -> None:
    low, high = PERCENTILES
    reason = f"windows from {dtype} to 0..255, percentiles {low:g} to {high:g} (no --window)"
    for number, window in zip(numbers, windows, strict=True):
        text = f"band {number}: {window[0]:g} to {window[1]:g}"
        findings.add("guessed", reason, text)


def _read_each(
    paths: Iterable[Path], numbers: Sequence[int], errors: list[str]
) -> Iterator[tuple[Path, RawBands]]:
    """Those of the files that can be read; a message for each other goes to `errors`."""
    for path in paths:
        try:
            yield path, read_bands(path, path.read_bytes(), numbers)
        except (BadFile, OSError) as error:
            errors.append(str(error))
