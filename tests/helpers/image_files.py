"""Image files that no library at hand writes, and files with an orientation, for import tests."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PNG_GREY, PNG_RGB, PNG_GREY_ALPHA, PNG_RGB_ALPHA = 0, 2, 4, 6  # PNG's colour types


def png_16(values: np.ndarray) -> bytes:
    """A PNG of u16[H, W] or [H, W, C], by the PNG specification.

    Its rows use all five filters in turn.
    """
    rows = values if values.ndim == 3 else values[..., None]
    height, width, channels = rows.shape
    color_type = (PNG_GREY, PNG_GREY_ALPHA, PNG_RGB, PNG_RGB_ALPHA)[channels - 1]
    step = 2 * channels
    above = np.zeros(width * step + step, np.int64)
    data = b""
    for y in range(height):
        row = np.frombuffer(rows[y].astype(">u2").tobytes(), np.uint8).astype(np.int64)
        line = np.concatenate([np.zeros(step, np.int64), row])
        left, up, corner = line[:-step], above[step:], above[:-step]
        filters = [0 * up, left, up, (left + up) // 2, _paeth(left, up, corner)]
        data += bytes([y % 5]) + ((row - filters[y % 5]) % 256).astype(np.uint8).tobytes()
        above = line
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    return np.choose(distances.argmin(0), [left, up, corner])


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def save_with_orientation(image: Image.Image, path: Path, orientation: int) -> None:
    """Write an image, losslessly unless it is a JPEG, with an orientation tag."""
    if path.suffix in (".tif", ".tiff"):
        image.save(path, tiffinfo={274: orientation})
        return
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    image.save(path, exif=exif, **options)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()
