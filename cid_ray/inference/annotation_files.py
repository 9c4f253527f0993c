"""What an annotator gets: the images, and the network's masks to correct in CVAT or labelme.

    images/NAME.jpg, NAME.json   the images with labelme's files next to them
    cvat.zip                     CVAT's format "Segmentation mask 1.1"
    cvat_labels.json             the classes, for the "Raw" tab of CVAT's label editor

Files that are there are left as they are: they may have been corrected.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-smask, labelme's label_file.py
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.data.band_image import BandImage, Picture, as_rgb
from cid_ray.data.image_codec import default_colors, encode_png, open_image
from cid_ray.data.merge import BACKGROUND_NAMES
from cid_ray.inference.outlines import trace_outlines
from cid_ray.storage import paths

IMAGES = "images"
CVAT_FILE = "cvat.zip"
CVAT_LABELS = "cvat_labels.json"
CVAT_MASKS = "SegmentationClass"
CVAT_LIST = "ImageSets/Segmentation/default.txt"
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}  # what annotation tools open
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # equal content is an equal file
LABELME_VERSION = "5.5.0"  # whose files have these fields


class AnnotationFiles:
    """Writes the files of one image after another into a folder.

    Args:
        out: the folder.
        classes: the K class names.
        colors: [r, g, b] of each class. Colours that CVAT cannot tell apart are replaced.
    """

    def __init__(self, out: Path, classes: list[str], colors: list[list[int]]):
        self._out = out
        self._classes = classes
        self._colors = cvat_colors(classes, colors)
        self._masks: dict[str, bytes] = {}  # name -> PNG

    def add(self, name: str, encoded: bytes, picture: Picture, classes: np.ndarray) -> str:
        """Write an image, and its mask for labelme; keep its mask for CVAT.

        Args:
            name: of the files, without a suffix.
            encoded: the image as the table stores it.
            picture: the same, decoded.
            classes: u8[H, W], what the network predicts.

        Returns:
            The image's file, relative to the folder.
        """
        suffix, content = _for_tools(encoded, picture)
        file = f"{IMAGES}/{name}{suffix}"
        self._write(file, content)
        labelme = self._labelme(f"{name}{suffix}", classes)
        self._write(f"{IMAGES}/{name}.json", (json.dumps(labelme, indent=1) + "\n").encode())
        table = np.zeros((256, 3), np.uint8)
        table[: len(self._colors)] = self._colors
        self._masks[name] = encode_png(table[classes])
        return file

    def close(self) -> str:
        """Write what CVAT imports; returns why not, or ""."""
        unfit = [name for name in self._classes if ":" in name or name.startswith("#")]
        if unfit:
            return f"{CVAT_FILE} is left out: its labelmap.txt cannot hold the name {unfit[0]!r}"
        labels = [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color), "attributes": []}
            for name, color in zip(self._classes, self._colors, strict=True)
        ]
        self._write(CVAT_LABELS, (json.dumps(labels, indent=1) + "\n").encode())
        lines = [
            f"{name}:{','.join(map(str, color))}::"
            for name, color in zip(self._classes, self._colors, strict=True)
        ]
        text = "# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for file, content in (
                ("labelmap.txt", text.encode()),
                (CVAT_LIST, "".join(f"{name}\n" for name in self._masks).encode()),
                *((f"{CVAT_MASKS}/{name}.png", png) for name, png in self._masks.items()),
            ):
                archive.writestr(zipfile.ZipInfo(file, ZIP_TIME), content)
        self._write(CVAT_FILE, buffer.getvalue())
        return ""

    def _labelme(self, image: str, classes: np.ndarray) -> dict[str, Any]:
        shapes = [
            {
                "label": self._classes[class_id],
                "points": np.round(points, 1).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for class_id, points in trace_outlines(classes)
        ]
        return {
            "version": LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image,
            "imageData": None,
            "imageHeight": classes.shape[0],
            "imageWidth": classes.shape[1],
        }

    def _write(self, name: str, content: bytes) -> None:
        file = self._out / name
        if not file.exists():
            with paths.atomic_write(file) as target:
                target.write(content)


def cvat_colors(classes: list[str], colors: list[list[int]]) -> list[list[int]]:
    """The colours, or others where CVAT would confuse them: equal ones, or black, its background.

    Example:
        >>> cvat_colors(["road", "sky"], [[0, 0, 0], [0, 0, 255]])
        [[128, 0, 0], [0, 128, 0]]
    """
    black = [name for name, color in zip(classes, colors, strict=True) if not any(color)]
    distinct = len({tuple(color) for color in colors}) == len(colors)
    if distinct and all(name.lower() in BACKGROUND_NAMES for name in black):
        return colors
    return default_colors(len(classes))


def _for_tools(encoded: bytes, picture: Picture) -> tuple[str, bytes]:
    """Suffix and bytes of an image that annotation tools open: as stored if they can."""
    if not isinstance(picture, BandImage):
        with open_image(encoded) as image:
            suffix = SUFFIXES.get(image.format or "")
        if suffix:
            return suffix, encoded
    buffer = io.BytesIO()
    as_rgb(picture).save(buffer, "PNG")
    return ".png", buffer.getvalue()
