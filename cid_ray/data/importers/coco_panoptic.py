"""COCO's panoptic PNGs: a pixel's colour is the number of its segment, r + 256 g + 65536 b."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import open_image
from cid_ray.data.importers.coco_file import CocoFile, PanopticImage
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.foreign_json import path_below
from cid_ray.data.ingest.pixel_arrays import DECODE_ERRORS
from cid_ray.data.ingest.shapes import IGNORED, Drawing


def draw_panoptic(
    coco: CocoFile, image: PanopticImage, class_of: Mapping[int, int]
) -> Callable[[int, int], Drawing]:
    """What draws the mask of one image. Pixels of no segment (0) have no label.

    Args:
        coco: the JSON file; its PNGs are in a folder of its name, next to it.
        image: the image's PNG and segments.
        class_of: category id -> class id.

    Raises:
        InputError: there is no such folder, or the PNG's name leads out of it.
    """
    folder = coco.path.with_suffix("")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; extract the PNGs of {coco.path} into it")
    path = path_below(folder, folder, image.file_name)
    if path is None:
        raise InputError(f"{coco.path}: {image.file_name[:200]!r} leads out of {folder}")
    classes = {segment.number: class_of[segment.category_id] for segment in image.segments}

    def draw(height: int, width: int) -> Drawing:
        return Drawing(_read_classes(path, classes))

    return draw


def _read_classes(path: Path, classes: Mapping[object, int]) -> np.ndarray:
    """u8[H, W] of a PNG of segment numbers."""
    try:
        with open_image(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    except DECODE_ERRORS as error:
        raise BadFile(f"{path}: unreadable mask ({error})") from None
    numbers, index = np.unique(pixels @ np.array([1, 256, 65536]), return_inverse=True)
    unknown = [number for number in numbers.tolist() if number and number not in classes]
    if unknown:
        raise BadFile(f"{path}: segment {unknown[0]} is not in its JSON file")
    ids = np.array([classes.get(number, IGNORED) for number in numbers.tolist()], np.uint8)
    return ids[index].reshape(pixels.shape[:2])
