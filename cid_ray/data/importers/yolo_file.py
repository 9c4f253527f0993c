"""A data.yaml of Ultralytics: where its images are, and the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cid_ray.config import InputError, read_utf8
from cid_ray.config.yaml_reader import read_documents
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.foreign_json import path_below
from cid_ray.data.ingest.listing import IMAGE_SUFFIXES, list_images
from cid_ray.data.table_format import SPLITS
from cid_ray.data.table_meta import check_class_name
from cid_ray.storage.json_file import MEGABYTE

NAMES = ("data.yaml", "dataset.yaml", "data.yml")
MAX_LIST_BYTES = 64 * MEGABYTE  # of a text file that lists images


@dataclass(frozen=True)
class YoloData:
    """What a data.yaml says."""

    path: Path
    root: Path  # nothing outside it is read
    names: list[str]
    images: dict[str, list[Path]]  # split -> images


def read_data_yaml(given: Path, root: Path | None, findings: Findings) -> YoloData:
    """Read a data.yaml and list the images of its splits.

    Args:
        given: the file, or the folder that holds it.
        root: the folder that its paths are relative to. None: its `path`, if that is a folder
            below the file's own, else the file's folder.
        findings: gets what is left out or guessed.

    Raises:
        InputError: it is missing or damaged, names no class or no train images, or a path leads
            out of the root.
    """
    path = given
    if given.is_dir():
        path = next((given / name for name in NAMES if (given / name).is_file()), given / NAMES[0])
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the data.yaml of the data set")
    documents = read_documents(path)
    content = documents[0] if len(documents) == 1 else None
    if not isinstance(content, dict):
        raise InputError(f"{path} is no data.yaml: it must have `train` and `names`")
    base = root or _find_root(path, content.get("path"), findings)
    names = _read_names(path, content.get("names"))
    images = {}
    for split in SPLITS:
        if content.get(split):
            images[split] = _list_split(path, base, content[split], split, findings)
    if "train" not in images:
        raise InputError(f"{path} names no images as `train`")
    return YoloData(path, base, names, images)


def _find_root(path: Path, named: Any, findings: Findings) -> Path:
    """The folder that `path` of a data.yaml names, or that of the file."""
    if not isinstance(named, str) or named in ("", "."):
        return path.parent
    below = path_below(path.parent, path.parent, named)
    if below is not None and below.is_dir():
        return below
    reason = "`path` of data.yaml, not a folder next to it (--root DIR): its own folder"
    findings.add("guessed", reason, named[:200])
    return path.parent


def _read_names(path: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise InputError(f"{path}: the ids of `names` must be 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path}: `names` must list the class names")
    texts = [str(name) for name in names]
    for name in texts:
        try:
            check_class_name(name)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
    repeated = sorted({name for name in texts if texts.count(name) > 1})
    if repeated:
        raise InputError(f"{path} names the class {repeated[0]!r} twice")
    return texts


def _list_split(path: Path, root: Path, named: Any, split: str, findings: Findings) -> list[Path]:
    """The images of one split: of a folder, of a text file that lists them, or of several."""
    images: list[Path] = []
    for entry in named if isinstance(named, list) else [named]:
        if not isinstance(entry, str):
            raise InputError(f"{path}: `{split}` must name a folder or a text file")
        source = path_below(root, root, entry)
        if (source is None or not source.exists()) and entry.startswith("../"):
            source = path_below(root, root, entry[3:])  # as Ultralytics does
        if source is None:
            raise InputError(
                f"{path}: `{split}: {entry[:200]}` leads out of {root}; "
                "give the folder that holds it as --root"
            )
        if source.is_dir():
            images += list_images(source, findings)
        elif source.is_file():
            images += _read_list(source, root, findings)
        else:
            raise InputError(f"{path}: `{split}: {entry[:200]}`: {source} does not exist")
    return list(dict.fromkeys(images))


def _read_list(source: Path, root: Path, findings: Findings) -> list[Path]:
    """The images that a text file lists, a path a line."""
    images = []
    for line in filter(None, map(str.strip, read_utf8(source, MAX_LIST_BYTES).splitlines())):
        folder = source.parent if line.startswith("./") else root
        image = path_below(root, folder, line)
        if image is None:
            raise InputError(
                f"{source}: {line[:200]!r} leads out of {root}; "
                "give the folder that holds it as --root, and relative paths"
            )
        if image.suffix.lower() not in IMAGE_SUFFIXES or not image.is_file():
            findings.add("left out", f"images of {source.name} that do not exist", image)
        else:
            images.append(image)
    if not images:
        raise InputError(f"{source} lists no image that exists")
    return images
