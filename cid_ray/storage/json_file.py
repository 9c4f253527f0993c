"""Text and JSON that somebody else may have written, read with limits.

Python's JSON reader raises RecursionError for deep nesting and takes any size of file into memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cid_ray.config import InputError
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

MEGABYTE = 1_000_000


def parse_json(
    text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        object_hook: called with each object, innermost first; its result takes the object's place.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_limited(name: PathOrUri, max_bytes: int) -> str:
    """A file's text in UTF-8.

    Args:
        name: a path or URI.
        max_bytes: what no file of this kind reaches. No more is read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        InputError: it is larger, or not in UTF-8.
    """
    with paths.open_read(name) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(f"{name} is larger than {max_bytes / MEGABYTE:g} MB, the limit for it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8 (byte {error.start})") from None
