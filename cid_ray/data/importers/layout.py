"""The files of a data set that has a published layout: its root folder, its lists, its pairs.

A published layout is known file by file. So what is missing is named by the path where it is
expected, and nothing is guessed from names that only look alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from cid_ray.config import InputError, read_utf8
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.listing import list_images
from cid_ray.data.ingest.names import image_name, one_spelling
from cid_ray.storage.json_file import MEGABYTE

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".7z", ".rar")
MAX_DEPTH = 2  # how far below the given folder the root may be: VOCtrainval/VOCdevkit/VOC2012
MAX_LIST_BYTES = 64 * MEGABYTE  # a million names
MAX_SHOWN = 8  # entries of a folder that a message names


def find_root(
    given: Path,
    name: str,
    parts: Sequence[str],
    findings: Findings,
    prefer: str | None = None,
) -> Path:
    """The folder that holds all parts of a data set: the given one, or one below or above it.

    Args:
        given: what the user gave.
        name: of the data set, for messages.
        parts: files and folders of the root, such as "ImageSets/Segmentation".
        findings: gets a root that is not the given folder.
        prefer: the root's usual name, which decides between several.

    Raises:
        InputError: there is no such folder, or there are several. The message has the path that
            was expected and what was found.
    """
    if given.suffix.lower() in ARCHIVES and given.is_file():
        raise InputError(
            f"{given} is an archive; extract it and give the folder that holds {', '.join(parts)}"
        )
    if not given.is_dir():
        what = "is a file" if given.exists() else "does not exist"
        raise InputError(f"{given} {what}; give the folder of {name}, which holds {parts[0]}")
    for level in _levels(given):
        roots = [folder for folder in level if all((folder / part).exists() for part in parts)]
        roots = [root for root in roots if root.name == prefer] or roots
        if len(roots) > 1:
            found = ", ".join(map(str, roots[:MAX_SHOWN]))
            raise InputError(f"{given} holds more than one {name}: {found}; give one of them")
        if roots:
            if roots[0] != given:
                findings.add("guessed", "root folders, below or above the given one", roots[0])
            return roots[0]
    raise InputError(_describe_missing(given, name, parts))


def _levels(given: Path) -> Iterator[list[Path]]:
    """The given folder, those below it level by level, then those above it."""
    level = [given]
    for _ in range(MAX_DEPTH + 1):
        yield level
        level = [child for folder in level for child in _subfolders(folder)]
    for parent in list(given.absolute().parents)[:MAX_DEPTH]:
        yield [parent]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:  # nobody's data set is in a folder that cannot be read
        return []


def _describe_missing(given: Path, name: str, parts: Sequence[str]) -> str:
    """Which part is missing where, of the folder that has most of them."""
    below = [given, *_subfolders(given)]
    best = max(below, key=lambda folder: sum((folder / part).exists() for part in parts))
    missing = [part for part in parts if not (best / part).exists()]
    entries = sorted(entry.name for entry in best.iterdir())
    shown = ", ".join(entries[:MAX_SHOWN]) or "nothing"
    more = f" and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    archives = [entry for entry in entries if Path(entry).suffix.lower() in ARCHIVES]
    hint = f"; extract {archives[0]} first" if archives else ""
    return (
        f"{best / missing[0]} does not exist: {name} has {', '.join(parts)}; "
        f"found {shown}{more}{hint}"
    )


def read_list(file: Path, findings: Findings) -> list[str]:
    """The names of a list, a line each, without repetitions.

    Raises:
        InputError: the file is missing or cannot be read, or it names nothing.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist")
    text = read_utf8(file, MAX_LIST_BYTES)
    lines = [one_spelling(line.strip()) for line in text.splitlines()]
    names = list(dict.fromkeys(filter(None, lines)))
    if not names:
        raise InputError(f"{file} names no image")
    repeated = len([line for line in lines if line]) - len(names)
    if repeated:
        findings.add("left out", "repeated lines of image lists", file, repeated)
    return names


class NamedFiles:
    """The image files of a folder by their relative names without suffix.

    Args:
        folder: the folder; absent, it has no files.
        findings: gets files that are no images.
        ending: the end of the names that count, which is no part of the name:
            "_leftImg8bit" of "jena/jena_000000_leftImg8bit.png".
        files: the folder's images where they are listed already. Masks may share one file, by
            links, which `list_images(..., unique=False)` keeps.

    Raises:
        InputError: two files have the same name.
    """

    def __init__(
        self,
        folder: Path,
        findings: Findings,
        ending: str = "",
        files: Iterable[Path] | None = None,
    ):
        if files is None:
            files = list_images(folder, findings) if folder.is_dir() else []
        self.folder = folder
        self.ending = ending
        self.path_of: dict[str, Path] = {}
        for path in files:
            stem = image_name(path, folder)
            if not stem.endswith(ending):
                continue
            name = stem.removesuffix(ending)
            if name in self.path_of:
                raise InputError(f"{self.path_of[name]} and {path} have the same name; remove one")
            self.path_of[name] = path

    def __contains__(self, name: str) -> bool:
        return name in self.path_of

    def __iter__(self) -> Iterator[str]:
        return iter(self.path_of)

    def require(self, names: Iterable[str], reason: str, suffix: str, hint: str = "") -> None:
        """InputError if a name has no file.

        Args:
            names: relative names without suffix.
            reason: why they are needed, e.g. "images of val.txt".
            suffix: of the path that the message names.
            hint: what to do about it.
        """
        names = list(names)
        missing = [name for name in names if name not in self.path_of]
        if missing:
            path = self.folder / f"{missing[0]}{self.ending}{suffix}"
            remedy = f"; {hint}" if hint else ""
            raise InputError(
                f"{len(missing)} of {len(names)} {reason} are missing, first {path}{remedy}"
            )


def list_masks(folder: Path, findings: Findings) -> list[Path]:
    """The image files of a folder of masks, which may share one file; none if it is absent."""
    return list_images(folder, findings, unique=False) if folder.is_dir() else []


def report_unused(
    files: NamedFiles, used: Collection[str], reason: str, findings: Findings
) -> None:
    """Count the files that belong to no image."""
    for name in sorted(set(files) - set(used)):
        findings.add("left out", reason, files.path_of[name])


def check_disjoint(
    first: Collection[str], second: Collection[str], files: tuple[Path, Path]
) -> None:
    """InputError if two lists share an image: it would be trained on and held out."""
    shared = sorted(set(first) & set(second))
    if shared:
        raise InputError(
            f"{len(shared)} images are in {files[0]} and in {files[1]}, first {shared[0]}; "
            "remove them from one of the lists"
        )
