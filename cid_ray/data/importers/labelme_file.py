"""One JSON file of labelme: its shapes, and the image that it names or holds."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.foreign_json import read_json
from cid_ray.data.ingest.pixel_arrays import DECODE_ERRORS
from cid_ray.data.ingest.shapes import MIN_POINTS, Patch, draw_shape, to_points
from cid_ray.storage.json_file import MEGABYTE

MAX_BYTES = 1000 * MEGABYTE  # an image of 150 million pixels may be part of it
AREAS = ("polygon", "rectangle", "circle", "mask")
NUM_POINTS = {"rectangle": 2, "circle": 2, "mask": 2}


@dataclass(frozen=True)
class Shape:
    """One shape of a file."""

    label: str
    kind: str  # polygon, circle, ...
    points: np.ndarray  # f64[N, 2] of (x, y) in pixels
    mask: bytes | None = None  # an encoded PNG, of kind `mask`

    @property
    def left_out(self) -> str | None:
        """Why it covers no pixels, a noun phrase in the plural; None if it does."""
        if self.kind not in AREAS:
            return f"shapes of type {self.kind[:40]!r}, which have no area"
        if self.kind == "polygon" and len(self.points) < MIN_POINTS:
            return "polygons of fewer than 3 points"
        return None

    def draw(self, size: tuple[int, int]) -> Patch:
        """Its pixels in an image of (height, width); ValueError if its PNG is damaged."""
        if self.kind == "polygon":
            return draw_shape("polygon", self.points, size)
        if self.kind == "rectangle":
            return draw_shape("rectangle", self.points, size)
        if self.kind == "circle":
            center, rim = self.points
            radius = float(np.hypot(*(center - rim)))
            return draw_shape("ellipse", np.stack([center - radius, center + radius]), size)
        return self._cut_mask(size)

    def _cut_mask(self, size: tuple[int, int]) -> Patch:
        """The PNG from its first to its last point, cut at the image's border."""
        (left, top), (right, bottom) = np.trunc(self.points).astype(int).tolist()
        try:
            with open_image(self.mask or b"") as image:
                mask = np.asarray(image.convert("L")) > 0
        except DECODE_ERRORS as error:
            raise ValueError(f"a mask that is no PNG ({error})") from None
        if mask.shape != (bottom - top + 1, right - left + 1):
            raise ValueError(f"a mask of {mask.shape[1]} x {mask.shape[0]}, not as its points say")
        first_row, first_column = max(0, -top), max(0, -left)
        mask = mask[first_row : max(0, size[0] - top), first_column : max(0, size[1] - left)]
        if not mask.size:
            return Patch(0, 0, np.zeros((0, 0), bool))
        return Patch(top + first_row, left + first_column, mask)


@dataclass(frozen=True)
class LabelmeFile:
    """What was read of a file."""

    path: Path
    image_name: str  # relative to the file
    image_data: str | None  # base64
    size: tuple[int, int] | None  # (height, width), if the file has it
    shapes: list[Shape]
    num_flags: int  # flags of the image that are set

    def decode_image(self) -> bytes:
        """The image that the file holds, encoded; BadFile if it holds none."""
        return _decode(self.image_data or "", self.path, "imageData")


def read_labelme(path: Path) -> LabelmeFile | None:
    """Read a file of labelme; None if it is a JSON file of something else.

    Raises:
        BadFile: it cannot be read, or a shape is damaged.
    """
    try:
        content = read_json(path, MAX_BYTES)
    except InputError as error:
        raise BadFile(str(error)) from None
    if not isinstance(content, dict) or not {"shapes", "imagePath"} <= content.keys():
        return None
    name, data, shapes = content["imagePath"], content.get("imageData"), content["shapes"]
    if not isinstance(name, str) or not isinstance(data, str | None) or not _is_dicts(shapes):
        raise BadFile(f"{path}: imagePath, imageData or shapes is not as labelme writes it")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if type(height) is int and type(width) is int else None
    flags = content.get("flags")
    return LabelmeFile(
        path,
        name,
        data,
        size,
        [_to_shape(shape, index, path) for index, shape in enumerate(shapes)],
        sum(map(bool, flags.values())) if isinstance(flags, dict) else 0,
    )


def _is_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _to_shape(entry: dict[str, Any], index: int, path: Path) -> Shape:
    label, kind = entry.get("label"), entry.get("shape_type") or "polygon"
    if not isinstance(label, str) or not isinstance(kind, str):
        raise BadFile(f"{path}: shape {index} has no label, or its type is no text")
    try:
        points = to_points(entry.get("points"))
    except ValueError as error:
        raise BadFile(f"{path}: shape {index} ({label[:40]!r}): {error}") from None
    if len(points) != NUM_POINTS.get(kind, len(points)):
        count = f"{len(points)} points, a {kind} must have {NUM_POINTS[kind]}"
        raise BadFile(f"{path}: shape {index} ({label[:40]!r}) has {count}")
    if kind != "mask":
        return Shape(label, kind, points)
    if not isinstance(entry.get("mask"), str):
        raise BadFile(f"{path}: shape {index} ({label[:40]!r}) of type mask has no `mask`")
    return Shape(label, kind, points, _decode(entry["mask"], path, f"the mask of shape {index}"))


def _decode(text: str, path: Path, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise BadFile(f"{path}: {what} is not base64 ({error})") from None
