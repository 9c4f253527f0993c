"""Reads one image file: checks every byte, and says what the table stores of it.

A plain 8-bit image is stored byte for byte. What a decoder elsewhere would show otherwise (turned
by EXIF, 16 bits, several pages) is decoded here and stored as PNG, and the change is told.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.perceptual_hash import Looks, describe_looks

# A larger image is a decompression bomb or a mistake. Pillow itself refuses from 179 million on.
MAX_PIXELS = 150_000_000


@dataclass(frozen=True)
class ImageContent:
    """What was read of one image."""

    encoded: bytes  # what the table stores
    size: tuple[int, int]  # (height, width)
    # sha256 of the size and the decoded RGB pixels, equal for equal pictures; None: not compared
    pixel_hash: str | None
    changes: tuple[str, ...] = ()  # what was changed, each a noun phrase in the plural
    looks: Looks | None = None  # None: not compared with other images


class ImageReader:
    """Reads the images of one import."""

    def read(self, path: Path) -> ImageContent:
        """Read and decode an image completely.

        Raises:
            BadFile: it cannot be decoded, or is too large.
            OSError: the file cannot be read.
        """
        encoded = path.read_bytes()
        try:
            with open_image(encoded) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height} pixels"
                    raise BadFile(f"{path}: {size} is more than {MAX_PIXELS:,}")
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path}: unreadable or truncated image ({error})") from None
        height, width = pixels.shape[:2]
        looks = describe_looks(pixels)
        return ImageContent(encoded, (height, width), hash_pixels(pixels), looks=looks)


def hash_pixels(pixels: np.ndarray) -> str:
    """sha256 of an array's shape and values."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
