"""The files that `predict` writes of an image: mask, overlay, confidence, probabilities.

A mask is an indexed PNG with the colours of the classes. What a geographic program needs is kept:
the mask of a GeoTIFF is a TIFF with the same tags, as is that of a TIFF which is too large for a
PNG in memory. A file has its name only once it is complete.

    K classes   H,W pixels
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from cid_ray.data.band_image import Picture, to_rgb
from cid_ray.data.image_codec import encode_png
from cid_ray.inference.image_parts import ImageParts, Rows, join_rows
from cid_ray.inference.predictor import Predictor
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

OVERLAY_WEIGHT = 0.5  # of the mask's colours
OVERLAY_QUALITY = 90
TILE = 256  # side of the tiles of a TIFF file
# Pixel scale, tie points, transformation, and the keys of the coordinate system.
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
CONFIDENCE_STEPS = 65535  # a 16-bit PNG: 0 is 0, 65535 is 1

GeoTags = list[tuple[int, Any, int, Any, bool]]  # as tifffile's `extratags`


class MaskFiles:
    """Writes the outputs of one image after another.

    Args:
        out: the folder, local or `s3://`.
        predictor: the network, for colours.
        kinds: of "overlay", "confidence", "probabilities": what is written besides masks.
    """

    def __init__(self, out: PathOrUri, predictor: Predictor, kinds: frozenset[str] = frozenset()):
        self.out = out
        self.kinds = kinds
        self._classes = predictor.classes
        self._colors = np.zeros((256, 3), np.uint8)
        self._colors[: len(predictor.colors)] = predictor.colors

    def write(
        self, name: str, parts: ImageParts, picture: Picture | None, geo: GeoTags
    ) -> dict[str, Any]:
        """Predict an image and write its files.

        Args:
            name: the outputs' name, a relative path without a suffix.
            parts: the image.
            picture: the image, for an overlay; None: it is read by windows.
            geo: tags that a GeoTIFF has.

        Returns:
            What a record says: height, width, the files, fraction of each class, mean
            confidence, and the kinds of files that such a large image does not get.
        """
        tally = _Tally(self._classes)
        is_tiff = parts.by_windows or bool(geo)
        files = {"mask": f"masks/{name}{'.tif' if is_tiff else '.png'}"}
        large: list[str] = []
        rows = tally.count(parts.rows())
        if parts.by_windows:
            large = sorted(self.kinds)
            self._write_tiff(files["mask"], (each.classes for each in rows), parts.size, geo)
        else:
            whole = join_rows(rows)
            if is_tiff:
                self._write_tiff(files["mask"], iter([whole.classes]), parts.size, geo)
            else:
                palette = self._colors.tolist()
                self._write(files["mask"], encode_png(whole.classes, palette))
            large = self._write_others(name, whole, picture, files)
        return {
            "height": parts.size[0],
            "width": parts.size[1],
            "files": files,
            **tally.fields(),
            **({"left_out": large} if large else {}),
        }

    def _write_others(
        self, name: str, whole: Rows, picture: Picture | None, files: dict[str, str]
    ) -> list[str]:
        """Overlay, confidence and probabilities; returns what is left out of this image."""
        if "overlay" in self.kinds and picture is not None:
            files["overlay"] = f"overlays/{name}.jpg"
            self._write(files["overlay"], self._overlay(whole.classes, np.asarray(picture)))
        if "confidence" in self.kinds:
            files["confidence"] = f"confidence/{name}.png"
            levels = np.rint(whole.confidence * CONFIDENCE_STEPS).astype(np.uint16)
            self._write(files["confidence"], _encode_16_bits(levels))
        if "probabilities" not in self.kinds:
            return []
        if whole.probabilities is None:
            return ["probabilities"]
        files["probabilities"] = f"probabilities/{name}.npz"
        buffer = io.BytesIO()
        np.savez_compressed(buffer, probabilities=whole.probabilities.astype(np.float16))
        self._write(files["probabilities"], buffer.getvalue())
        return []

    def _overlay(self, classes: np.ndarray, pixels: np.ndarray) -> bytes:
        image = Image.fromarray(to_rgb(pixels))
        blended = Image.blend(image, Image.fromarray(self._colors[classes]), OVERLAY_WEIGHT)
        buffer = io.BytesIO()
        blended.save(buffer, "JPEG", quality=OVERLAY_QUALITY)
        return buffer.getvalue()

    def _write(self, name: str, content: bytes) -> None:
        with paths.atomic_write(paths.join(self.out, *name.split("/"))) as file:
            file.write(content)

    def _write_tiff(
        self, name: str, rows: Iterator[np.ndarray], size: tuple[int, int], geo: GeoTags
    ) -> None:
        """A tiled TIFF file with a palette, written as the rows u8[h, W] come."""
        with paths.atomic_write(paths.join(self.out, *name.split("/"))) as file, ExitStack() as end:
            target: Any = file
            if not file.seekable():  # an object store takes bytes in order only
                target = end.enter_context(io.BytesIO())
            tifffile.imwrite(
                target,
                data=_tiles(rows, size),
                shape=size,
                dtype=np.uint8,
                photometric="palette",
                colormap=(self._colors.T.astype(np.uint16) * 257),
                tile=(TILE, TILE),
                compression="zlib",
                extratags=geo,
                metadata=None,
                bigtiff=size[0] * size[1] > 2**31,
            )
            if target is not file:
                file.write(target.getvalue())


class _Tally:
    """Counts what is written of an image."""

    def __init__(self, classes: list[str]):
        self._classes = classes
        self._pixels = np.zeros(len(classes), np.int64)
        self._confidence = 0.0

    def count(self, rows: Iterator[Rows]) -> Iterator[Rows]:
        for each in rows:
            self._pixels += np.bincount(each.classes.ravel(), minlength=len(self._pixels))
            self._confidence += float(each.confidence.sum(dtype=np.float64))
            yield each

    def fields(self) -> dict[str, Any]:
        total = int(self._pixels.sum())
        fractions = {
            name: round(count / total, 6)
            for name, count in zip(self._classes, self._pixels.tolist(), strict=True)
            if count
        }
        return {"fractions": fractions, "confidence": round(self._confidence / total, 6)}


def _tiles(rows: Iterator[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Tiles u8[TILE, TILE] in order; those at the right and lower border are filled with 0."""
    height, width = size
    padded_width = -(-width // TILE) * TILE
    waiting = np.zeros((0, width), np.uint8)
    done = 0
    for part in rows:
        waiting = np.concatenate([waiting, part])
        done += len(part)
        while len(waiting) >= TILE or (done == height and len(waiting)):
            band = np.zeros((TILE, padded_width), np.uint8)
            band[: len(waiting), :width] = waiting[:TILE]
            waiting = waiting[TILE:]
            for left in range(0, padded_width, TILE):
                yield band[:, left : left + TILE]


def _encode_16_bits(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def geo_tags(path: Path) -> GeoTags:
    """The tags of a GeoTIFF that say where it lies; none for any other file."""
    found: GeoTags = []
    with suppress(Exception), tifffile.TiffFile(path) as file:  # no TIFF file, or a damaged one
        for tag in file.pages.first.tags.values():
            if tag.code in GEO_TAGS:
                found.append((tag.code, tag.dtype, tag.count, tag.value, True))
    return found
