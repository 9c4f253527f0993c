"""Files by path (`runs/mine/last.pt`) or by URI in an object store (`s3://bucket/mine/last.pt`).

Both go through pyarrow.fs. Credentials, region and endpoint of a store come from the environment
alone (AWS_ACCESS_KEY_ID, ..., AWS_ENDPOINT_URL), never from a configuration: a configuration is
written into every run folder and onto every page. A file that cannot be read or written raises
OSError (or FileNotFoundError), as `open` does.
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

from cid_ray.config import InputError, error_summary

PathOrUri = str | Path
# The fault of a disk or an object store, and of nothing that was computed.
STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
RIGHTS_ERRNOS = (errno.EACCES, errno.EPERM)
OBJECT_STORE_HINT = (
    "for an object store check the bucket, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_DEFAULT_REGION, AWS_ENDPOINT_URL in the environment"
)


# ---- names ----


def is_remote(name: PathOrUri) -> bool:
    """Whether a name is a URI (`s3://...`) and not a path on this machine."""
    return "://" in str(name)


def join(folder: PathOrUri, *parts: str) -> PathOrUri:
    """`folder/part/...`: a URI stays a URI, anything else becomes a Path."""
    if is_remote(folder):
        return "/".join([str(folder).rstrip("/"), *parts])
    return Path(folder, *parts)


def basename(name: PathOrUri) -> str:
    """The last component: `mine` of `s3://bucket/runs/mine/`. Of a path, after `.` is resolved."""
    if is_remote(name):
        return str(name).rstrip("/").rpartition("/")[2]
    return Path(name).resolve().name


def absolute(name: PathOrUri) -> PathOrUri:
    """A name that is valid in every working folder: Ray starts processes in its own folders."""
    return name if is_remote(name) else Path(name).resolve()


def is_component(name: object) -> bool:
    """Whether a name is one plain component of a path: with it no path leaves its folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(character in name for character in "/\\\0")
    )


def check_component(name: str, source: PathOrUri) -> str:
    """A name that was read from `source` and becomes a folder: one plain component of a path.

    Raises:
        InputError: with it a path could leave its folder, such as `../other`.
    """
    if not is_component(name):
        raise InputError(
            f"{source} names a run {name!r}, which is not a plain folder name; "
            "nothing outside the run folder is read, written or removed"
        )
    return name


def inside(folder: Path, name: str) -> Path | None:
    """The file `name` of a folder; None when there is none, or when it is outside the folder.

    Args:
        folder: a local folder.
        name: relative to it, from a record; a symbolic link may not leave the folder either.
    """
    file = (folder / name).resolve()
    return file if file.is_relative_to(folder.resolve()) and file.is_file() else None


def filesystem_of(name: PathOrUri) -> tuple[Any, str]:
    """The pyarrow file system of a name, and its path inside that file system."""
    if not is_remote(name):
        return _filesystem("file:///"), os.path.abspath(name)
    path = str(name).partition("://")[2]
    bucket = path.partition("/")[0]
    return _filesystem(f"s3://{bucket}"), path


@lru_cache(maxsize=8)
def _filesystem(uri: str) -> Any:
    # Imported late: pyarrow.fs takes a third of a second, which every `--help` would pay.
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)[0]


# ---- read and write ----


def exists(name: PathOrUri) -> bool:
    """Whether a file has this name; False for a folder."""
    filesystem, path = filesystem_of(name)
    return bool(filesystem.get_file_info(path).is_file)


def file_stamp(name: PathOrUri) -> tuple[int, int]:
    """Last write of a file in ns since 1970 (of a store in whole seconds), and its size in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = filesystem_of(name)
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name))
    return info.mtime_ns, info.size


def open_read(name: PathOrUri) -> IO[bytes]:
    """A seekable binary file, which is also a context manager."""
    filesystem, path = filesystem_of(name)
    file: IO[bytes] = filesystem.open_input_file(path)
    return file


@contextmanager
def atomic_write(name: PathOrUri) -> Iterator[IO[bytes]]:
    """A binary file that replaces `name` when the block ends, and does not if the block fails."""
    # Two containers that share a folder often have the same process id: hence the random part.
    partial = f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
    write = _write_remote if is_remote(name) else _write_local
    try:
        with write(name, partial) as file:
            yield file
    except BaseException as error:
        remove(partial)
        if is_remote(name) and isinstance(error, OSError):
            # pyarrow's errors of a store carry no errno. Callers use it to tell a broken disk from
            # a broken trial.
            raise OSError(error.errno or errno.EIO, str(error), str(name)) from error
        raise


def write_text(name: PathOrUri, text: str) -> None:
    """Replace a file by this text in UTF-8: a reader sees the whole old or the whole new file."""
    try:
        with atomic_write(name) as file:
            file.write(text.encode())
    except OSError as error:
        error.filename = error.filename or str(name)  # a full disk does not say of which file
        raise


@contextmanager
def _write_remote(name: PathOrUri, partial: str) -> Iterator[IO[bytes]]:
    filesystem, path = filesystem_of(name)
    partial_path = filesystem_of(partial)[1]
    with filesystem.open_output_stream(partial_path) as file:
        yield file
    filesystem.move(partial_path, path)


@contextmanager
def _write_local(name: PathOrUri, partial: str) -> Iterator[IO[bytes]]:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "wb") as file:
        yield file
        file.flush()
        # Without fsync a power cut can leave the new name with no content.
        os.fsync(file.fileno())
    os.replace(partial, name)


def link_or_copy(name: PathOrUri, other: PathOrUri) -> None:
    """Give `other` the present content of `name`; later writes of `name` do not change it."""
    if not is_remote(name):
        with suppress(OSError):  # some file systems have no hard links
            os.link(name, other)
            return
    filesystem, path = filesystem_of(name)
    filesystem.copy_file(path, filesystem_of(other)[1])


def remove(name: PathOrUri) -> None:
    """Remove a file, or a folder with its content. What cannot be removed is left."""
    filesystem, path = filesystem_of(name)
    with suppress(OSError):
        if filesystem.get_file_info(path).is_file:
            filesystem.delete_file(path)
        else:
            filesystem.delete_dir(path)


# ---- list ----


def list_files(folder: PathOrUri, recursive: bool = True) -> list[str]:
    """The sorted paths of a folder's files, relative to it; [] when the folder does not exist."""
    return sorted(file_stats(folder, recursive))


def file_stats(folder: PathOrUri, recursive: bool = True) -> dict[str, tuple[int, int]]:
    """Relative path -> (last write in ns since 1970, size in bytes). Stores know whole seconds."""
    from pyarrow.fs import FileSelector

    filesystem, path = filesystem_of(folder)
    selector = FileSelector(path, recursive=recursive, allow_not_found=True)
    found: dict[str, tuple[int, int]] = {}
    for info in filesystem.get_file_info(selector):
        if info.is_file:
            name = info.path[len(path) :].removeprefix("/")
            found[name] = (info.mtime_ns, info.size)
    return found


# ---- errors ----


def unreadable(name: PathOrUri, error: Exception) -> InputError:
    """The message for a name that cannot be read."""
    return InputError(f"{name} cannot be read ({error_summary(error)}); {OBJECT_STORE_HINT}")


def unwritable(name: PathOrUri, error: Exception) -> InputError:
    """The message for a name that cannot be written."""
    return InputError(f"{name} cannot be written ({error_summary(error)}); {OBJECT_STORE_HINT}")
