"""Reads a classes file: a class a line, its name and optionally its colour."""

from __future__ import annotations

import re
from pathlib import Path

from cid_ray.config import InputError, read_utf8
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.table_meta import MAX_CLASSES, check_class_name

NAME_AND_COLOR = re.compile(r"(.+?)\s+(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})")


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
    return ClassList(names, filled, has_colors=all(color is not None for color in colors))
