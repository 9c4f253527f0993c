"""The classes of a data set, and how the pixels of a mask file become class ids.

Masks come as ids (single channel or palette), as one bit, or as colours. All become u8[H, W] ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.config import InputError, read_utf8
from cid_ray.data.audit import BadFile
from cid_ray.data.image_codec import default_colors, open_image
from cid_ray.data.importers.items import ImportItem
from cid_ray.data.table_meta import MAX_CLASSES, check_class_name

ID_MODES = ("1", "L", "P", "I;16", "I")  # Pillow's modes of which a pixel is an id
NAME_AND_COLOR = re.compile(r"(.+?)\s+(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})")
MAPPED = re.compile(r"\d{1,3}=\d{1,3}")  # OLD=NEW


@dataclass(frozen=True)
class ClassList:
    """K class names in the order of their ids, and [r, g, b] of each."""

    names: list[str]
    colors: list[list[int]]


def read_classes(path: Path) -> ClassList:
    """Read a classes file: a class a line, its name and optionally its colour as `r g b`.

    Text after `#` is a comment.

    Raises:
        InputError: the file is missing or empty, names a class twice, has more classes than a mask
            can have ids, or a colour above 255.
    """
    if not path.is_file():
        raise InputError(
            f"classes file {path} does not exist; "
            "it holds one class name a line, in the order of the ids"
        )
    lines = [line.split("#")[0].strip() for line in read_utf8(path).splitlines()]
    names: list[str] = []
    colors: list[list[int] | None] = []
    for line in filter(None, lines):
        try:
            check_class_name(line)
        except ValueError as error:
            raise InputError(f"classes file {path}: {error}") from None
        found = NAME_AND_COLOR.fullmatch(line)
        names.append(found[1] if found else line)
        colors.append([int(found[channel]) for channel in (2, 3, 4)] if found else None)
        if max(colors[-1] or [0]) > 255:
            raise InputError(f"classes file {path}: {line!r} has a colour above 255")
    if not names:
        raise InputError(f"classes file {path} names no class")
    if len(names) > MAX_CLASSES:
        raise InputError(f"classes file {path} names {len(names)} classes, at most {MAX_CLASSES}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"classes file {path} names {repeated[0]} twice")
    defaults = default_colors(len(names))
    filled = [color or default for color, default in zip(colors, defaults, strict=True)]
    return ClassList(names, filled)


def infer_classes(
    items: Iterable[ImportItem], mapping: Mapping[int, int], ignore_index: int
) -> ClassList:
    """Without a classes file: class_0, class_1, ... up to the highest id in the masks.

    Every mask is read. A bad file is skipped here: the audit names it.
    """
    read_mask = make_mask_reader(ClassList([], []), mapping, ignore_index)
    highest = 0
    for item in items:
        if item.mask is None:
            continue
        try:
            present = np.unique(read_mask(item.mask))
        except BadFile:
            continue
        highest = max(highest, int(present[present != ignore_index].max(initial=0)))
    names = [f"class_{index}" for index in range(highest + 1)]
    return ClassList(names, default_colors(len(names)))


def parse_mapping(texts: Iterable[str]) -> dict[int, int]:
    """Old id -> new id, of texts such as "11=255" (`--map`).

    Raises:
        InputError: a text is not OLD=NEW with ids from 0 to 255.
    """
    mapping = {}
    for text in texts:
        ids = [int(found) for found in re.findall(r"\d+", text)] if MAPPED.fullmatch(text) else []
        if not ids or max(ids) > 255:
            raise InputError(
                f"--map {text[:20]!r} must look like OLD=NEW with ids from 0 to 255, "
                "e.g. --map 11=255"
            )
        mapping[ids[0]] = ids[1]
    return mapping


def make_mask_reader(
    classes: ClassList, mapping: Mapping[int, int], ignore_index: int
) -> Callable[[Path], np.ndarray]:
    """A function from the path of a mask file to its ids u8[H, W]; it raises BadFile.

    Args:
        classes: their colours translate colour masks. Pixels of other colours are ignored.
        mapping: old id -> new id, applied last (`--map`).
        ignore_index: the id of pixels without a label.
    """
    new_ids = np.arange(256, dtype=np.uint8)
    for old, new in mapping.items():
        new_ids[old] = new

    def read(path: Path) -> np.ndarray:
        try:
            with open_image(path) as image:
                pixels = np.asarray(image if image.mode in ID_MODES else image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path}: unreadable mask ({error})") from None
        if pixels.ndim == 3:
            return new_ids[_ids_of_colors(path, pixels, classes, ignore_index)]
        if pixels.max(initial=0) > 255:
            raise BadFile(f"{path}: mask ids up to {pixels.max()}, must be below 256")
        return new_ids[pixels.astype(np.uint8)]

    return read


def _ids_of_colors(
    path: Path, pixels: np.ndarray, classes: ClassList, ignore_index: int
) -> np.ndarray:
    """u8[H, W]: the class ids of colours u8[H, W, 3]."""
    class_ids = np.full(pixels.shape[:2], ignore_index, np.uint8)
    for index, color in enumerate(classes.colors):
        class_ids[(pixels == color).all(-1)] = index
    if (class_ids == ignore_index).all():
        raise BadFile(
            f"{path}: a colour mask without one pixel of the classes' colours; "
            "give the colours in the classes file (`name r g b`)"
        )
    return class_ids
