"""Which files of a folder are images. What is left out is counted and named.

Links to folders and files are followed: data sets are often put together by links. A folder or an
image that is reached twice counts once, so a loop of links ends.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.file_kinds import IMAGE_SUFFIXES, why_folder_left_out, why_left_out
from cid_ray.data.ingest.findings import Findings


def list_images(
    folder: Path, findings: Findings, without: Collection[Path] = (), unique: bool = True
) -> list[Path]:
    """The sorted image files of a folder and below it.

    Args:
        folder: the folder.
        findings: gets what was left out.
        without: folders that are not entered, because another option names them.
        unique: leave out links to images that are listed already. Masks may share one file.

    Raises:
        InputError: there is no such folder, or no image in it. The message names what there is.

    Example:
        >>> findings = Findings()
        >>> list_images(Path("photos"), findings)
        [PosixPath('photos/a.jpg'), PosixPath('photos/b.JPG')]
        >>> findings.describe()
        ['left out: 1 hidden files (e.g. photos/.DS_Store)']
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    walk = _Walk(without)
    walk.enter(str(folder))
    images = sorted(map(Path, walk.images))
    if not images:
        raise InputError(_describe_empty(folder, walk.left_out))
    if unique:
        images = leave_out_repeated(images, findings)
    for reason, path in sorted(walk.left_out):
        findings.add("left out", reason, path)
    return images


def leave_out_repeated(files: Sequence[Path], findings: Findings) -> list[Path]:
    """The sorted files of one folder without links to others of them."""
    links = [path for path in files if path.is_symlink()]
    if not links:
        return list(files)
    identities = FileIdentities()
    first = {identities.of(path): path for path in set(files).difference(links)}
    for path in links:
        known = first.setdefault(identities.of(path), path)
        if known is not path:
            findings.add("left out", "links to images that are listed already", f"{path} = {known}")
    return sorted(first.values())


class FileIdentities:
    """Which paths are the same file. A folder is resolved once, so a million paths take seconds."""

    def __init__(self) -> None:
        self._real_folders: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """The path of the file without links: equal for paths of the same file."""
        folder, name = os.path.split(path)
        real = self._real_folders.get(folder)
        if real is None:
            real = self._real_folders.setdefault(folder, os.path.realpath(folder))
        file = os.path.join(real, name)
        return os.path.realpath(file) if os.path.islink(file) else file


class _Walk:
    """Walks a folder: real folders first, then what links lead to, each real folder once."""

    def __init__(self, without: Collection[Path]):
        self.images: list[str] = []
        self.left_out: list[tuple[str, str]] = []  # (reason, path)
        self._without = {os.path.realpath(folder) for folder in without}
        self._entered: set[str] = set()

    def enter(self, top: str) -> None:
        """List everything below a folder."""
        self._without.discard(os.path.realpath(top))
        folders, linked = [top], list[str]()
        while folders or linked:
            # Sorted from the back, so that the same folder wins on every file system.
            folder = folders.pop() if folders else linked.pop()
            real = os.path.realpath(folder)
            if real in self._without:
                self.left_out.append(("folders that another option names", folder))
            elif real in self._entered:
                self.left_out.append(("links to folders that are listed already", folder))
            else:
                self._entered.add(real)
                for entry in sorted(_scan(folder), key=lambda entry: entry.name, reverse=True):
                    self._take(entry, folders, linked)

    def _take(self, entry: os.DirEntry[str], folders: list[str], linked: list[str]) -> None:
        # Unlike a DirEntry, os.path takes a link to itself for a broken one.
        is_link = entry.is_symlink()
        if os.path.isdir(entry) if is_link else entry.is_dir():
            reason = why_folder_left_out(entry.name)
            if reason is None:
                (linked if is_link else folders).append(entry.path)
                return
        elif not (os.path.isfile(entry) if is_link else entry.is_file()):
            reason = "broken links and special files"
        else:
            reason = why_left_out(entry.name)
        if reason is None:
            self.images.append(entry.path)
        else:
            self.left_out.append((reason, entry.path))


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror})") from None


def _describe_empty(folder: Path, left_out: Iterable[tuple[str, str]]) -> str:
    there = Findings()
    for reason, path in sorted(left_out):
        there.add("left out", reason, os.path.relpath(path, folder))
    found = "; ".join(one.removeprefix("left out: ") for one in there.describe())
    message = f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})"
    return f"{message}; it holds {found}" if found else message
