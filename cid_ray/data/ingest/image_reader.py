"""Reads one image file: checks every byte, and says what the table stores of it.

A plain 8-bit image is stored byte for byte. What a decoder elsewhere would show otherwise (turned
by EXIF, 16 bits, several pages) is decoded here and stored as PNG, and the change is reported.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Note
from cid_ray.data.ingest.orientation import UPRIGHT
from cid_ray.data.ingest.perceptual_hash import Looks, describe_looks
from cid_ray.data.ingest.pixel_arrays import (
    DECODE_ERRORS,
    MAX_PIXELS,
    PixelArray,
    UnusablePixels,
    read_pixels,
)
from cid_ray.data.ingest.window import Window, find_window

TURNED = "images turned by their EXIF orientation"
FOURTH = Note("images with a fourth channel that is no alpha, of which the first three are used")
PAGES = "files of several pages, of which the first is used"


@dataclass(frozen=True)
class ImageContent:
    """What was read of one image."""

    encoded: bytes  # what the table stores
    size: tuple[int, int]  # (height, width)
    # sha256 of the size and the decoded RGB pixels, equal for equal pictures; None: not compared
    pixel_hash: str | None
    changes: tuple[Note, ...] = ()  # what was changed or guessed
    looks: Looks | None = None  # None: not compared with other images
    unturned_size: tuple[int, int] | None = None  # before the EXIF orientation was applied
    is_deep: bool = False  # whether it had more than 8 bits and was scaled by the window
    num_channels: int = 3
    histogram: np.ndarray | None = None  # i64[C, 256] of the values, where bands were read


class ImageReader:
    """Reads the images of one import, in several threads.

    Args:
        window: the values that become black and white in images of more than 8 bits. None: it is
            found when the first such image is read, so 8-bit data sets pay nothing for it.
        train_files: the images by which it is found.
    """

    def __init__(self, window: Window | None = None, train_files: Sequence[Path] = ()):
        self.window = window
        self._train_files = train_files
        self._finding = threading.Lock()

    def read(self, path: Path) -> ImageContent:
        """Read and decode an image completely.

        Raises:
            BadFile: it cannot be decoded, is too large, or has no grey or RGB pixels.
            InputError: it has more than 8 bits, and no window can be found.
            OSError: the file cannot be read.
        """
        encoded, pixels, values, notes = self._decode(path)
        if not pixels.is_plain:
            encoded = encode_png(np.ascontiguousarray(values))
        return ImageContent(
            encoded,
            values.shape[:2],
            _hash_picture(pixels, values),
            tuple(notes),
            describe_looks(values),
            pixels.stored_size if pixels.orientation != UPRIGHT else None,
            pixels.is_deep,
        )

    def read_picture(self, path: Path) -> Image.Image:
        """The same image in RGB, without what only an import needs.

        Raises:
            As `read`.
        """
        return Image.fromarray(np.ascontiguousarray(self._decode(path)[2])).convert("RGB")

    def _decode(self, path: Path) -> tuple[bytes, PixelArray, np.ndarray, list[Note]]:
        """A file's bytes, its pixels, these as u8[H, W] or [H, W, 3], and what was changed."""
        encoded = path.read_bytes()
        try:
            pixels = read_pixels(encoded, MAX_PIXELS)
        except UnusablePixels as error:
            raise BadFile(f"{path}: {error}") from None
        except UnidentifiedImageError:  # its text is an address in memory
            raise BadFile(f"{path}: unreadable or truncated image (not a picture)") from None
        except DECODE_ERRORS as error:
            raise BadFile(f"{path}: unreadable or truncated image ({error})") from None
        notes = list(pixels.notes)
        if pixels.orientation != UPRIGHT:
            notes.append(Note(TURNED, f"orientation {pixels.orientation}"))
        if pixels.pages > 1:
            notes.append(Note(PAGES, f"{pixels.pages} pages"))
        if pixels.num_colors == 4:
            notes.append(FOURTH)
        elif pixels.num_colors not in (1, 3):
            raise BadFile(f"{path}: {pixels.num_colors} channels, must be 1 (grey) or 3 (RGB)")
        values = pixels.colors
        if pixels.is_deep:
            values = self._scale(path, pixels, notes)
        return encoded, pixels, values, notes

    def _scale(self, path: Path, pixels: PixelArray, notes: list[Note]) -> np.ndarray:
        """u8[H, W] or [H, W, 3] by the window of the data set."""
        with self._finding:
            if self.window is None:
                self.window = find_window(self._train_files, path)
        scaled = self.window.scale(pixels.colors, pixels.invalid)
        notes += self.window.notes(pixels, scaled)
        return 255 - scaled if pixels.white_is_low else scaled


def check_mask_orientation(path: Path, image: ImageContent, mask_size: tuple[int, ...]) -> None:
    """BadFile if a mask fits its image only as it is without its EXIF orientation."""
    if image.unturned_size != mask_size or image.size == mask_size:
        return
    height, width = mask_size
    raise BadFile(
        f"{path}: image and mask disagree about EXIF: its orientation turns the image from "
        f"{width} x {height} to {image.size[1]} x {image.size[0]} pixels, and its mask is "
        f"{width} x {height}. If the mask is right, remove the image's orientation "
        "(`exiftool -Orientation= FILE`); if the image is, turn the mask"
    )


def _hash_picture(pixels: PixelArray, values: np.ndarray) -> str:
    """The hash of an image. Deep ones by their own values: two may look alike when scaled."""
    if pixels.is_deep:
        return hash_pixels(pixels.colors)
    return hash_pixels(values if values.ndim == 3 else np.repeat(values[..., None], 3, -1))


def hash_pixels(pixels: np.ndarray) -> str:
    """sha256 of an array's shape and values."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
