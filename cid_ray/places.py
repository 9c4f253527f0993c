"""Files by name, on this machine or in an object store: `runs/mine/last.pt`, `s3://bucket/runs/mine/last.pt`.

Both are pyarrow.fs's. Credentials, region and endpoint of a store come from the environment alone (AWS_ACCESS_KEY_ID,
..., AWS_ENDPOINT_URL), never from a configuration, so that they stand in no row and on no page. What cannot be read or
written is an OSError, FileNotFoundError among them, as of `open`.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

Name = str | Path
STORE_REMEDY = (
    "for an object store look at the bucket, and at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, "
    "AWS_ENDPOINT_URL in the environment"
)


def is_remote(name: Name) -> bool:
    return "://" in str(name)


def join(folder: Name, *parts: str) -> Name:
    return "/".join([str(folder).rstrip("/"), *parts]) if is_remote(folder) else Path(folder, *parts)


def absolute(name: Name) -> Name:
    return name if is_remote(name) else Path(name).resolve()


def place(name: Name) -> tuple[Any, str]:
    """The file system of a name, and its path there."""
    if not is_remote(name):
        return _file_system("file:///"), os.path.abspath(name)
    path = str(name).partition("://")[2]
    return _file_system(f"s3://{path.partition('/')[0]}"), path


@lru_cache(maxsize=8)
def _file_system(uri: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)[0]


def exists(name: Name) -> bool:
    system, path = place(name)
    return bool(system.get_file_info(path).is_file)


def reading(name: Name) -> IO[bytes]:
    """A seekable file; a context manager."""
    system, path = place(name)
    return system.open_input_file(path)  # type: ignore[no-any-return]


@contextmanager
def writing(name: Name) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole: until then, and whatever happens, the one before keeps it."""
    partial = f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"  # process numbers of containers are alike
    system, path = place(name)
    try:
        if is_remote(name):
            with system.open_output_stream(place(partial)[1]) as file:
                yield file
            system.move(place(partial)[1], path)
        else:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, name)
    except BaseException as error:
        remove(partial)
        if is_remote(name) and isinstance(error, OSError):  # an object store gives no number: it is the store's fault
            raise OSError(error.errno or errno.EIO, str(error), str(name)) from error
        raise


def reason(error: Exception) -> str:
    """What an object store says, without its details."""
    return (str(error).split(". Detail")[0].splitlines() or [type(error).__name__])[0]


def second_name(name: Name, other: Name) -> None:
    """`other` holds what `name` holds now, whatever `name` becomes."""
    if not is_remote(name):
        with suppress(OSError):  # a file system without links
            return os.link(name, other)
    system, path = place(name)
    system.copy_file(path, place(other)[1])


def paths(folder: Name, below: bool = True) -> list[str]:
    """The sorted paths of the files in a folder and below it, or in it alone; none when it does not exist."""
    return sorted(stamps(folder, below))


def stamps(folder: Name, below: bool = True) -> dict[str, tuple[int, int]]:
    """The same files: path -> when last written (nanoseconds since 1970; a store tells seconds), size in bytes."""
    from pyarrow.fs import FileSelector

    system, path = place(folder)
    found = system.get_file_info(FileSelector(path, recursive=below, allow_not_found=True))
    return {info.path[len(path) :].lstrip("/"): (info.mtime_ns, info.size) for info in found if info.is_file}


def remove(name: Name) -> None:
    """Remove a file, or a folder with all that is in it, if it is there: what cannot be removed stays."""
    system, path = place(name)
    with suppress(OSError):
        if system.get_file_info(path).is_file:
            system.delete_file(path)
        else:
            system.delete_dir(path)
