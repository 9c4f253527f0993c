"""JSON files of annotation tools: read with limits, and their names of files kept in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cid_ray.config import InputError
from cid_ray.storage.json_file import parse_json, read_limited

BYTE_ORDER_MARK = "\ufeff"
DRIVE = re.compile(r"[A-Za-z]:")  # of a path of Windows


def read_json(
    path: Path, max_bytes: int, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        max_bytes: what no file of this kind reaches.
        object_hook: makes each object of the file more compact, as in `json.loads`.

    Raises:
        InputError: it is missing, cannot be read, is too large, or is no JSON.
    """
    try:
        text = read_limited(path, max_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        return parse_json(text.removeprefix(BYTE_ORDER_MARK), object_hook)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None


def path_below(root: Path, folder: Path, name: str) -> Path | None:
    """The file that a data set calls `name`, relative to `folder`; None if it is not below `root`.

    Links are not looked at: the user made them, a name in a file cannot.

    Example:
        >>> path_below(Path("set"), Path("set/json"), "..\\\\images\\\\a.jpg")
        PosixPath('set/images/a.jpg')
    """
    name = name.replace("\\", "/")
    if not name or name.startswith("/") or DRIVE.match(name) or not name.isprintable():
        return None
    path = Path(os.path.normpath(folder / name))
    inside = Path(os.path.normpath(root))
    return path if path.is_relative_to(inside) and path != inside else None
