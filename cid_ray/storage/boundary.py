"""What leads out of a folder that somebody else may have written.

A run folder can come from anywhere: a colleague, a bucket, an archive. A symbolic link in it, or an
object's name such as `../../x`, would let a command read, overwrite or remove what is elsewhere. So
a folder is checked as a whole before its first file is opened. The folder itself may be a link: the
user named it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.storage.paths import PathOrUri

# Optuna's lock of its journal is a link that nobody follows. Its target is an absolute path, which
# is wrong after the folder was moved.
NEVER_FOLLOWED = ".journal.lock"
FILES = (
    ".lock",
    "config.yaml",
    "records.jsonl",
    "study.journal",
    "status.json",
    "log.txt",
    "index.html",
    "report.md",
    "meta.json",
    "table.parquet",
    "index.parquet",
    "audit.html",
)  # names that cid_ray gives to files alone
MAX_COMPONENT_BYTES = 255  # of common file systems


def check_links(folder: Path) -> None:
    """Check that everything in a folder is a file or folder of its own, or a link inside it.

    Args:
        folder: need not exist.

    Raises:
        InputError: a link leads out of the folder or nowhere (writing through it would create a
            file elsewhere), an entry is a device or a pipe (reading it could wait forever), or a
            folder has the name of a file.
    """
    root = folder.resolve()
    for entry in _entries(str(root)):
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if target.exists() and target.is_relative_to(root):
                continue
            if not entry.name.endswith(NEVER_FOLLOWED):
                raise InputError(
                    f"{entry.path} is a link to {target}, which is not in {folder}; nothing "
                    "outside the folder is read, written or removed: replace the link by what it "
                    "links to, or remove it"
                )
        elif not entry.is_file() and not entry.is_dir():
            raise InputError(f"{entry.path} is neither a file nor a folder; remove it")
        elif entry.is_dir() and entry.name in FILES:
            raise InputError(f"{entry.path} is a folder, must be a file; remove it")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every entry in a folder and below it. Links are not followed."""
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:  # absent, or gone meanwhile; what cannot be listed fails where it is read
            continue
        yield from entries
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def no_follow(path: str, flags: int) -> int:
    """An `opener` of `open` that refuses a link: for files that are appended to.

    A file that is written as a whole replaces a link, but an append would follow it.

    Raises:
        OSError: ELOOP, the path is a link.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def check_object_names(names: Iterable[str], folder: PathOrUri) -> None:
    """Check that objects of a store can become files of one local folder.

    Args:
        names: relative to `folder`.
        folder: where they are stored, for the message.

    Raises:
        InputError: a name would leave the folder, or is no path of plain components.
    """
    wrong = sorted(name for name in names if not all(map(_is_plain, name.split("/"))))
    if wrong:
        raise InputError(
            f"{folder} holds {len(wrong)} object(s) whose names are no plain paths, first "
            f"{wrong[0][:MAX_COMPONENT_BYTES]!r}; nothing outside the run folder is written: "
            "remove them"
        )


def _is_plain(component: str) -> bool:
    return (
        component not in ("", ".", "..")
        and component.isprintable()
        and "\\" not in component
        and len(component.encode()) <= MAX_COMPONENT_BYTES
    )
