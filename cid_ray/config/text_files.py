"""The reader of text files that users write: YAML, class files, split files."""

from __future__ import annotations

from pathlib import Path

from cid_ray.config.errors import InputError

DEFAULT_MAX_BYTES = 1_000_000


def read_utf8(path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors of Windows write.

    Args:
        path: the file.
        max_bytes: what no file of this kind reaches. A larger one is not read.

    Raises:
        InputError: the file cannot be read, is larger, or is not text in UTF-8.
    """
    try:
        return read_limited_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: not text in UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None


def read_limited_bytes(path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """The bytes of a file, of which the caller finds out the encoding.

    Raises:
        InputError: the file cannot be read, or is larger than `max_bytes`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(
                f"{path} has {size:,} bytes, such a file may have at most {max_bytes:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
