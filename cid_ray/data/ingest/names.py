"""The name of an image: its path in its folder, without suffix, in one spelling.

Names pair images with masks, and they are the ids of a table's rows. macOS writes `é` as two
characters (NFD), others as one (NFC); both are one name here. A name that is not UTF-8, or that
would break a line of a list, is written with escapes.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from cid_ray.config.plain_text import printable

BREAKING = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, line ends


def image_name(path: Path, folder: Path) -> str:
    """The name of a file in a folder.

    Example:
        >>> image_name(Path("photos/berlin/a.JPG"), Path("photos"))
        'berlin/a'
    """
    relative = path.relative_to(folder).as_posix()
    return one_spelling(os.path.splitext(relative)[0])


def one_spelling(text: str) -> str:
    """A name, or a part of one, in NFC and with escapes."""
    return safe_name(unicodedata.normalize("NFC", text))


def safe_name(name: str) -> str:
    """A name that can be printed, stored as UTF-8, and be a line of a list.

    Example:
        >>> safe_name("stra\\udcdfe")  # Latin-1, as Python reads it from the file system
        'stra\\\\xdfe'
    """
    if name.isprintable():
        return name
    return "".join(map(_safe, name))


def shown_name(name: object) -> str:
    """A path, or a message with paths, as one line that a terminal and JSON can show."""
    return printable(safe_name(str(name)))


def is_changed(name: str) -> bool:
    """Whether `safe_name` writes a name with escapes."""
    return any(unicodedata.category(character) in BREAKING for character in name)


def _safe(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":  # byte 0x80 + n, which Python holds as U+DC80 + n
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode() if category in BREAKING else character
