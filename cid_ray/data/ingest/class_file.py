"""Reads a classes file: a class a line, its name and optionally its colour.

`class_lines.py` has the forms of a line. Text is UTF-8 with or without a byte order mark, UTF-16
with one, or else taken for Latin-1 (as Windows writes it), which is reported.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from cid_ray.config import InputError, read_limited_bytes
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.class_lines import ClassLine, parse_class_lines
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.table_meta import check_class_name

OTHER_SUFFIXES = (".json", ".yaml", ".yml", ".xml", ".toml")


def read_classes(path: Path) -> ClassList:
    """Read a classes file, whatever common form its lines have.

    Args:
        path: the file. Its lines are in the order of the ids. `#` at the start of a line or after
            a space starts a comment.

    Returns:
        The classes. `notes` says what was guessed of the file.

    Raises:
        InputError: the file is missing or empty, names a class or a colour twice, has more classes
            than a mask can have ids, ids that are not 0, 1, 2, ..., a colour above 255, or lines
            with and without a colour.

    Example:
        >>> Path("label_colors.txt").write_text("64 128 64\\tAnimal\\n192 0 128\\t\\tArchway\\n")
        >>> read_classes(Path("label_colors.txt")).colors
        [[64, 128, 64], [192, 0, 128]]
    """
    if not path.is_file():
        raise InputError(
            f"classes file {path} does not exist; "
            "it holds one class name a line, in the order of the ids"
        )
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise InputError(
            f"classes file {path} is {path.suffix[1:].upper()}; write a text file with one class "
            "a line, `name` or `name r g b`, in the order of the ids"
        )
    text, encoding = _decode(path)
    try:
        lines, header = parse_class_lines(text)
        _check_names(lines)
        _check_colors(lines)
    except ValueError as error:
        raise InputError(f"classes file {path}: {error}") from None
    notes = []
    if encoding == "cp1252":
        notes.append(("classes files in Latin-1, because they are not UTF-8", str(path)))
    if header is not None:
        notes.append(("header lines of classes files", f"{path}: {header}"))
    names = [line.name for line in lines]
    colors = [line.color for line in lines if line.color is not None]
    has_colors = bool(colors)
    return ClassList(names, colors or default_colors(len(names)), has_colors, tuple(notes))


def _decode(path: Path) -> tuple[str, str]:
    """The text of a file and its encoding."""
    content = read_limited_bytes(path)
    encodings = ["utf-8-sig", "cp1252"]  # Latin-1 with Windows' quotes and dashes
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    for encoding in encodings:
        try:
            return content.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise InputError(
        f"classes file {path} is text neither in UTF-8 nor in UTF-16 or Latin-1; "
        "save the file as UTF-8"
    )


def _check_names(lines: list[ClassLine]) -> None:
    first_of: dict[str, int] = {}
    for line in lines:
        try:
            check_class_name(line.name)
        except ValueError as error:
            raise ValueError(f"line {line.number}: {error}") from None
        first = first_of.setdefault(line.name, line.number)
        if first != line.number:
            raise ValueError(
                f"line {line.number}: names {line.name} twice, line {first} has it too; "
                "give every class a name of its own"
            )


def _check_colors(lines: list[ClassLine]) -> None:
    first_of: dict[tuple[int, ...], ClassLine] = {}
    for line in lines:
        if line.color is None:
            return
        first = first_of.setdefault(tuple(line.color), line)
        if first is not line:
            color = " ".join(map(str, line.color))
            raise ValueError(
                f"line {line.number}: {line.name} has the colour {color} of {first.name} in line "
                f"{first.number}; give every class a colour of its own, or leave out all colours "
                "if the masks hold ids"
            )
