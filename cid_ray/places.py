"""Files by name, on this machine or in an object store: `runs/mine/last.pt`, `s3://bucket/runs/mine/last.pt`.

Object stores are those of pyarrow.fs: s3:// and gs://. Credentials, region and endpoint come from the environment alone
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), never from a configuration, so that they stand in no row and on no page.
What cannot be read or written is an OSError, FileNotFoundError among them, as of `open`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from cid_ray.config import Config, InputError

Name = str | Path


def is_remote(name: Name) -> bool:
    return "://" in str(name)


def join(folder: Name, *parts: str) -> Name:
    return "/".join([str(folder).rstrip("/"), *parts]) if is_remote(folder) else Path(folder, *parts)


def checkpoints(config: Config, root: Path, *run: str) -> Name:
    """Where a run's checkpoints lie, or those of all runs of a command: below the command's folder, or in
    `train.checkpoint_folder` under that folder's name."""
    elsewhere = config.train.checkpoint_folder
    return join(elsewhere, root.resolve().name, *run) if elsewhere else join(root, "checkpoints", *run)


def split(name: Name) -> tuple[Name, str]:
    """The folder of a file, and its own name."""
    if is_remote(name):
        folder, _, own = str(name).rpartition("/")
        return folder, own
    return Path(name).parent, Path(name).name


def remote(name: Name) -> tuple[Any, str]:
    """pyarrow's file system of an object store, and the path in it."""
    scheme, _, path = str(name).partition("://")
    return _file_system(scheme, path.partition("/")[0]), path


@lru_cache(maxsize=8)
def _file_system(scheme: str, bucket: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def exists(name: Name) -> bool:
    if not is_remote(name):
        return Path(name).exists()
    system, path = remote(name)
    return bool(system.get_file_info(path).is_file)


def reading(name: Name) -> IO[bytes]:
    """A seekable file; a context manager."""
    if not is_remote(name):
        return Path(name).open("rb")
    system, path = remote(name)
    return system.open_input_file(path)  # type: ignore[no-any-return]


@contextmanager
def writing(name: Name) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole: until then, and whatever happens, the one before keeps it."""
    folder, own = split(name)
    partial = join(folder, f"{own}.{os.getpid()}.partial")
    try:
        if is_remote(name):
            system, path = remote(name)
            with system.open_output_stream(remote(partial)[1]) as file:
                yield file
            system.move(remote(partial)[1], path)
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        with Path(partial).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(name)
    except BaseException:
        remove(partial)
        raise


def second_name(name: Name, other: Name) -> None:
    """`other` holds what `name` holds now, whatever `name` becomes."""
    if is_remote(name):
        system, path = remote(name)
        system.copy_file(path, remote(other)[1])
        return
    try:
        os.link(name, other)
    except OSError:  # a file system without links
        shutil.copy2(name, other)


def names(folder: Name) -> list[str]:
    """The names of the files in a folder, sorted; none when it does not exist."""
    if is_remote(folder):
        from pyarrow.fs import FileSelector

        system, path = remote(folder)
        return sorted(f.base_name for f in system.get_file_info(FileSelector(path, allow_not_found=True)) if f.is_file)
    return sorted(p.name for p in Path(folder).iterdir() if p.is_file()) if Path(folder).is_dir() else []


def holds_files(folder: Name) -> bool:
    """Whether there is a file in a folder or below it."""
    if is_remote(folder):
        from pyarrow.fs import FileSelector

        system, path = remote(folder)
        return any(f.is_file for f in system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True)))
    return any(path.is_file() for path in Path(folder).rglob("*"))


def remove(name: Name) -> None:
    """Remove a file, or a folder with all that is in it, if it is there: what cannot be removed stays."""
    if not is_remote(name):
        shutil.rmtree(name, ignore_errors=True) if Path(name).is_dir() else Path(name).unlink(missing_ok=True)
        return
    system, path = remote(name)
    with suppress(OSError):
        if system.get_file_info(path).is_file:
            system.delete_file(path)
        else:
            system.delete_dir_contents(path, missing_dir_ok=True)


def check_writable(config: Config) -> None:
    """InputError when checkpoints could not be written to their store: before a GPU-hour, not at the first rung."""
    folder = config.train.checkpoint_folder
    if not folder:
        return
    probe = join(folder, f"probe-{os.getpid()}")
    try:
        with writing(probe) as file:
            file.write(b"checkpoints will be written here\n")
        remove(probe)
    except OSError as error:
        reason = str(error).split(". Detail")[0].splitlines()[0]
        raise InputError(
            f"train.checkpoint_folder {folder!r} cannot be written ({reason}); for an object store look at the "
            "bucket, and at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL in the "
            "environment"
        ) from None
